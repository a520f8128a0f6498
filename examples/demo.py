"""The whole way in about two minutes: learn a family from real digits, measure it, take one network out of it.

    python examples/demo.py

Needs no network: scikit-learn ships the digits. Leaves demo/checkpoint (the family), demo/sweep.json, demo/sweep.csv,
demo/sweep.png (accuracy against size) and demo/morph-0.5 (a plain network of half the width).
"""

import shutil
import sys
from pathlib import Path

from neumeta_hf.cli import main

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = "0.125,0.25,0.28125,0.375,0.5,0.5625,0.625,0.71875,0.75,0.875,1.0"


def demo() -> int:
    """Run the demo; returns the exit code of the first step that fails, else 0."""
    folder = ROOT / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    checkpoint, morph = folder / "checkpoint", folder / "morph-0.5"
    recipe = ROOT / "examples" / "recipes" / "digits_lenet.yaml"
    steps = [
        ["train", "--config", str(recipe), "--set", f"output_dir={checkpoint}"],
        ["evaluate", str(checkpoint), "--widths", WIDTHS, "--output", str(folder / "sweep")],
        ["morph", str(checkpoint), "--width", "0.5", "--output", str(morph)],
    ]
    for step in steps:
        print(f"\n$ neumeta {' '.join(step)}".replace(f"{ROOT}/", ""))
        if code := main(step):
            return code
    print(
        "\nThe picture is demo/sweep.png. demo/morph-0.5 is a LeNet, which is a class of this package: it loads with "
        "AutoModelForImageClassification.from_pretrained after `import neumeta_hf`."
    )
    return 0


if __name__ == "__main__":
    sys.exit(demo())
