"""Run the paper's recipes whose data are at hand, whole or shortened, and measure each family.

    python examples/benchmarks/paper_recipes.py --data ylecun/mnist=path/to/mnist \
        --data uoft-cs/cifar10=path/to/cifar10 --part 20 --pretrain-epochs 4 --epochs 4

Every examples/recipes/*_paper.yaml that reads one of the given data sets is trained (in --runs, where a run that was
interrupted goes on, and a finished one is only measured again) and evaluated on the test split. Writes
PREFIX_<recipe>.json, .csv and .png. Without --part and epochs a recipe runs in full, which takes days on a CPU.
"""

import argparse
import sys
from pathlib import Path

from neumeta_hf import load_recipe
from neumeta_hf.cli import main as neumeta

RECIPES = Path(__file__).parent.parent / "recipes"


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, metavar="ID=FOLDER", help="may be given again")
    parser.add_argument("--part", type=int, default=100, metavar="PERCENT", help="of the training split")
    parser.add_argument("--pretrain-epochs", type=int, help="of the reference; default: the recipe's")
    parser.add_argument("--epochs", type=int, help="of the family; default: the recipe's")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--widths", default="0.25:1.0:0.125", help="to measure; default: %(default)s")
    parser.add_argument("--runs", default="outputs/paper_recipes", help="folder of the runs; default: %(default)s")
    parser.add_argument("--output", default="outputs/paper", help="PREFIX of the results; default: %(default)s")
    return parser


def main() -> int:
    """Train and evaluate; returns the exit code of the first step that fails, else 0."""
    arguments = build_parser().parse_args()
    folders = dict(entry.split("=", 1) for entry in arguments.data)
    for path in sorted(RECIPES.glob("*_paper.yaml")):
        recipe = load_recipe(path)
        if recipe.data.dataset not in folders:
            continue
        run = Path(arguments.runs) / path.stem
        overrides = [f"output_dir={run}", f"data.dataset={folders[recipe.data.dataset]}"]
        if arguments.part < 100:
            overrides.append(f"data.train_split={recipe.data.train_split}[:{arguments.part}%]")
        if arguments.pretrain_epochs is not None:
            overrides.append(f"pretrain.epochs={arguments.pretrain_epochs}")
        if arguments.epochs is not None:
            overrides.append(f"train.epochs={arguments.epochs}")
        settings = [f"--set={override}" for override in (*overrides, *arguments.overrides)]
        resume = ["--resume"] if (run / "recipe.yaml").is_file() else []
        steps = [
            ["train", "--config", str(path), *settings, *resume],
            ["evaluate", str(run), "--widths", arguments.widths, "--output", f"{arguments.output}_{path.stem}"],
        ]
        for step in steps:
            if step[0] == "train" and (run / "model.safetensors").is_file():
                continue
            print(f"\n$ neumeta {' '.join(step)}")
            if code := neumeta(step):
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
