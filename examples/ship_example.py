"""Make the small trained family that comes with the package: LeNets for scikit-learn's digits.

    python examples/ship_example.py --output outputs/digits-lenet

Trains digits_lenet_whole.yaml with three quarters of its channels (a minute on one core), measures it, and writes what
loading, measuring and sharing it need. `neumeta_hf.example("digits-lenet")` reads
src/neumeta_hf/example_families/digits-lenet: copy the folder there.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from neumeta_hf.cli import main as neumeta

RECIPE = Path(__file__).resolve().parent / "recipes" / "digits_lenet_whole.yaml"
CHANNELS = "target.config.hidden_channels=[24, 48, 96]"
WIDTHS = "0.25:1.0:0.125"
FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "training.json", "sweep.json")
MOST = 500_000
"""Bytes in all: every install carries them."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="outputs/digits-lenet", help="new folder; default: %(default)s")
    parser.add_argument("--runs", default="outputs/digits-lenet-run", help="folder of the run; default: %(default)s")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe"
    )
    return parser


def run(*arguments: Any) -> None:
    """Run a command, and stop where it fails."""
    if code := neumeta([str(argument) for argument in arguments]):
        sys.exit(code)


def main() -> int:
    """Train, measure and copy."""
    arguments = build_parser().parse_args()
    folder, output = Path(arguments.runs), Path(arguments.output)
    overrides = [f"--set={override}" for override in (CHANNELS, *arguments.overrides, f"output_dir={folder}")]
    run("train", "--config", RECIPE, *overrides)
    run("evaluate", folder, "--widths", WIDTHS)
    output.mkdir(parents=True)
    for name in FILES:
        shutil.copy(folder / name, output / name)
    # Without the folder of the run, which is no one else's.
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["output_dir"] = "outputs/digits-lenet"
    (output / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    size = sum(path.stat().st_size for path in output.iterdir())
    print(f"{output}: {size:,} bytes")
    return 0 if size <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
