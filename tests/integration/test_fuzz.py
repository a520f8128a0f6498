"""A few mutations of what the command reads; `make fuzz` runs two thousand."""

import subprocess
import sys
from pathlib import Path


def test_forty_mutations_are_done_or_refused_in_a_line():
    script = Path(__file__).parent.parent / "fuzz" / "fuzz.py"
    done = subprocess.run([sys.executable, str(script), "--mutations", "40"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "40 mutations, 0 wrong" in done.stdout
