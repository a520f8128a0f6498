"""What the paper's hypernetwork needs to learn: the last block of ResNet-20 with one setting changed at a time.

    python examples/benchmarks/inr.py --data path/to/cifar10 --reference path/to/reference --part settings
    python examples/benchmarks/inr.py --data path/to/cifar10 --reference path/to/reference --part smoothness --seeds 3

The recipe is examples/recipes/cifar10_resnet20_paper.yaml, shortened; --reference is the folder of a trained CIFAR
ResNet. "settings" changes what the INR and its training differ in from the paper read literally; "smoothness" turns the
order of channels and the coordinate noise on and off. Runs lie in --runs, and a finished one is only read again. All
numbers are of the validation split, here test[:2000]: a reference that saw all training images flatters any network
on a cut of these. Writes docs/results/inr_PART.json and its figure.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from neumeta_hf import NeuMetaModel, load_recipe, train
from neumeta_hf.data import load_image_data
from neumeta_hf.errors import RecipeError
from neumeta_hf.evaluation import environment_facts, evaluate_network
from neumeta_hf.tasks import build_task

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "examples/recipes/cifar10_resnet20_paper.yaml"
WIDTHS = (1.0, 0.75, 0.5, 0.375, 0.25)
LITERAL = ["num_frequencies=16", "encode_sizes=true", "centered=false", "output=channels"]
ADAMW = "train.optimizer={name: adamw, learning_rate: 0.0015, weight_decay: 0.0}"


def _inr(*options: str) -> list[str]:
    return [f"family.hypernetwork.{option}" for option in options]


SETTINGS: dict[str, list[str]] = {
    "as recommended": [],
    "AdamW for all": [ADAMW],
    "16 octaves": _inr("num_frequencies=16"),
    "sizes encoded like positions": _inr("encode_sizes=true"),
    "values not centred": _inr("centered=false"),
    "divided by input channels": _inr("output=channels"),
    "no warm-up": ["train.schedule.warmup=0.0"],
    "batches of 64, four times the steps": ["train.batch_size=64"],
    "gradient clipped to 1": ["train.clip=1.0"],
    "reconstruction from the start": ["losses.reconstruction=1.0"],
    "reference fitted first": ["fit.steps=300"],
    "no averaged weights": ["train.ema_decay=0.0"],
    "the paper's INR, read literally": _inr(*LITERAL),
    "the same with AdamW at 0.001, no warm-up": [
        *_inr(*LITERAL),
        "train.optimizer={name: adamw, learning_rate: 0.001, weight_decay: 0.01}",
        "train.schedule={name: multi_step, milestones: [0.5, 0.75], gamma: 0.1}",
        "losses={task: 1.0, reconstruction: 1.0, regularization: 0.0001}",
    ],
}
SMOOTHNESS: dict[str, list[str]] = {
    f"{order}, {'noise' if noise else 'no noise'}": [
        f"preparation.order={name}",
        f"family.coordinate_noise={noise}",
        "losses.reconstruction=1.0",
    ]
    for (order, name), noise in itertools.product((("ordered", "path"), ("as trained", "identity")), (1.0, 0.0))
}
PARTS = {"settings": SETTINGS, "smoothness": SMOOTHNESS}


def run_one(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train one variant, or read what it came to.

    Args:
        folder: Of the run.
        overrides: Of the recipe.

    Returns:
        Accuracy on the validation split by width, by epoch too, and whether the run ended silent.
    """
    result = folder / "variant.json"
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    recipe, is_silent = load_recipe(RECIPE, [f"output_dir={folder}", *overrides]), False
    try:
        train(recipe, resume=(folder / "recipe.yaml").is_file())
    except RecipeError as error:
        if "fell silent" not in str(error):
            raise
        is_silent = True
    recipe = load_recipe(folder / "recipe.yaml")
    model: Any = NeuMetaModel.from_pretrained(folder / "best")
    split, task = load_image_data(recipe.data).validation, build_task("image-classification")
    accuracy = {
        f"{width:g}": round(100 * evaluate_network(model.morph(width), split, task=task)["accuracy"], 2)
        for width in WIDTHS
    }
    found = {"accuracy": accuracy, "silent": is_silent, "num_images": len(split)}
    result.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return found


def main() -> None:
    """Run all variants of a part and write what they came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10, as datasets.load_dataset reads it")
    parser.add_argument("--reference", required=True, help="folder of a trained CIFAR ResNet")
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--seeds", type=int, default=1, help="how many; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=25, help="of 20,000 images; default: %(default)s")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", default="outputs/inr", help="folder of the runs; default: %(default)s")
    parser.add_argument("--output", help="PREFIX of the result; default: docs/results/inr_PART")
    arguments = parser.parse_args()
    common = [
        f"data.dataset={arguments.data}",
        "data.train_split=train[:20000]",
        "data.validation_split=test[:2000]",
        "data.test_split=test[2000:]",
        f"target.checkpoint={arguments.reference}",
        "target.config={}",
        "pretrain=null",
        "static_cache.augmentations=2",
        f"train.epochs={arguments.epochs}",
        f"train.evaluate_every={arguments.epochs}",
        "validation_widths=[0.5, 1.0]",
        "keep_state=true",
    ]
    rows: dict[str, dict[str, Any]] = {}
    facts = environment_facts("cpu")
    for name, overrides in PARTS[arguments.part].items():
        found = []
        for seed in range(arguments.seeds):
            folder = Path(arguments.runs) / arguments.part / f"{'_'.join(name.replace(',', '').split())}_{seed}"
            found.append(run_one(folder, [*common, f"seed={seed}", *overrides, *arguments.overrides]))
        accuracy = {width: [row["accuracy"][width] for row in found] for width in found[0]["accuracy"]}
        mean = {width: round(float(np.mean(values)), 2) for width, values in accuracy.items()}
        rows[name] = {
            "overrides": overrides,
            "accuracy": accuracy,
            "mean": mean,
            "silent": [row["silent"] for row in found],
        }
        print(name, mean, "silent" if all(rows[name]["silent"]) else "", flush=True)
        facts |= {"num_images": found[0]["num_images"], "split": "validation", "seed": list(range(arguments.seeds))}
        write(Path(arguments.output or ROOT / f"docs/results/inr_{arguments.part}"), {"facts": facts, "rows": rows})


def write(prefix: Path, result: dict[str, Any]) -> None:
    """Write a result and its figure."""
    Path(f"{prefix}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    figure = Figure(figsize=(7, 0.5 + 0.35 * len(result["rows"])), layout="constrained")
    axes = figure.subplots()
    for width in WIDTHS:
        values = [row["mean"][f"{width:g}"] for row in result["rows"].values()]
        axes.plot(
            values, range(len(values)), "o", label=f"width {width:g}" + ("" if width >= 0.5 else ", never trained")
        )
    axes.set_yticks(range(len(result["rows"])), list(result["rows"]))
    axes.invert_yaxis()
    axes.set_xlabel("validation accuracy [%]")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(f"{prefix}.png", dpi=150)


if __name__ == "__main__":
    main()
