"""The speed of two commits, side by side in one run; `speed.py --against REVISION` calls it.

Each commit has a process of its own, with its own `src`, which waits while the other works: rounds are interleaved, so
that a busy moment hits both alike. What is measured:

- step at width 0.5: the whole ResNet-20 from the grid at one width, and the plain step of the network of that width;
- morph: of width 0.5 of ResNet-20, from a family that stores the statistics of 49 widths;
- generation: ResNet-18 at width 0.5 by the grid.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROUNDS = {
    "step": ("ours", "plain"),
    "morph": ("ours",),
    "generation": ("ours",),
}
"""What is measured, to the functions that each commit has for it."""
LABELS = {
    "step": "step at width 0.5",
    "morph": "morph, 49 stored widths",
    "generation": "generation of ResNet-18",
}
NUM_ROUNDS = {"step": 10, "morph": 20, "generation": 15}
STORED = [number / 64 for number in range(16, 65)]


class Side:
    """A commit's process.

    Args:
        source: Its `src`.
    """

    def __init__(self, source: Path):
        environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(HERE / "before_after.py"), str(source)]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, name: str) -> dict[str, float]:
        """Measure something once.

        Args:
            name: A key of `ROUNDS`.

        Returns:
            Seconds of each of its functions.

        Raises:
            RuntimeError: The process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(name, file=self._process.stdin, flush=True)
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("a commit's process has ended: what it printed above says why")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(revision: str) -> dict[str, Any]:
    """Measure a commit and that of this checkout in turns.

    Args:
        revision: Of the commit to compare with, as git names it.

    Returns:
        The commits, and for each thing measured the median seconds of both and the median of the rounds' ratios.
    """
    commits = {
        which: _git("rev-parse", f"{name}^{{commit}}").decode().strip()
        for which, name in (("before", revision), ("after", "HEAD"))
    }
    with tempfile.TemporaryDirectory() as temporary:
        sides = {}
        for which, commit in commits.items():
            with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, "src"))) as archive:
                archive.extractall(Path(temporary, which), filter="data")
            sides[which] = Side(Path(temporary, which, "src"))
        try:
            measured = {LABELS[name]: _measure(name, sides) for name in ROUNDS}
        finally:
            for side in sides.values():
                side.close()
    return {**commits, "measured": measured}


def _measure(name: str, sides: dict[str, Side]) -> dict[str, Any]:
    print(f"measuring {LABELS[name]}", file=sys.stderr)
    for side in sides.values():
        side.ask(name)  # builds what is measured, and warms up
    rounds = []
    for number in range(NUM_ROUNDS[name]):
        order = list(sides)[:: 1 if number % 2 else -1]
        found = {which: sides[which].ask(name) for which in order}
        rounds.append(found)
    seconds = {
        which: {key: statistics.median(taken[which][key] for taken in rounds) for key in ROUNDS[name]}
        for which in sides
    }
    result: dict[str, Any] = {"rounds": len(rounds), "seconds": seconds}
    result["after/before"] = statistics.median(taken["after"]["ours"] / taken["before"]["ours"] for taken in rounds)
    if "plain" in ROUNDS[name]:
        result["ours/plain"] = {
            which: statistics.median(taken[which]["ours"] / taken[which]["plain"] for taken in rounds)
            for which in sides
        }
    return result


def _git(*arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", HERE.parent.parent, "--no-pager", *arguments], capture_output=True, check=True
    ).stdout


def _make(name: str) -> dict[str, Callable[[], object]]:
    """The functions to time, of whichever commit's `src` this process has."""
    import speed
    import torch

    torch.manual_seed(0)
    if name == "step":
        return speed.whole_steppers(0.5)
    if name == "morph":
        family, _ = speed.build_whole_network()
        family.eval().calibrate([torch.randn(32, 3, 32, 32)], STORED)
        assert len(family.config.statistics_widths) == len(STORED)
        return {"ours": lambda: family.morph(width=0.5)}
    family = speed.build_family(speed.GRID, "keep")

    def generate() -> None:
        with torch.no_grad():
            family.generate(0.5)

    return {"ours": generate}


def _work(source: str) -> None:
    """Answer each name on stdin with the seconds of its functions, each run once."""
    sys.path.insert(0, str(HERE))
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no answer
    import neumeta_hf

    assert Path(neumeta_hf.__file__).is_relative_to(source), neumeta_hf.__file__
    made: dict[str, dict[str, Callable[[], object]]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in made:
            made.clear()
            made[name] = _make(name)
        seconds = {}
        for key, function in made[name].items():
            start = time.perf_counter()
            function()
            seconds[key] = time.perf_counter() - start
        print(json.dumps(seconds), file=answers, flush=True)


if __name__ == "__main__":
    _work(sys.argv[1])
