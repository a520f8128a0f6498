"""Hypernetworks on the last block of ResNet-20: what the paper's needs to learn, and what the field does.

    python examples/benchmarks/inr.py --data path/to/cifar10 --reference path/to/reference --part settings
    python examples/benchmarks/inr.py --data path/to/cifar10 --reference path/to/reference --part smoothness --seeds 3

    python examples/benchmarks/inr.py --data path/to/cifar10 --reference path/to/reference --part field --epochs 4

The recipe is examples/recipes/cifar10_resnet20_paper.yaml, shortened; --reference is the folder of a trained CIFAR
ResNet. "settings" changes what the INR and its training differ in from the paper read literally; "smoothness" turns the
order of channels and the coordinate noise on and off. "field" compares the field with the grid at equal steps, by
examples/recipes/cifar10_resnet20.yaml, shortened, the rest of the network staying as it is. Runs lie in --runs, and a
finished one is only read again. All numbers are of the validation split, here test[:2000]: a reference that saw all
training images flatters any network on a cut of these. Writes docs/results/inr_PART.json (field_last_block.json) and
its figure.
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
from neumeta_hf.targets import load_network
from neumeta_hf.tasks import build_task

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "examples/recipes"
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


def _levels(name: str, *, noise: float) -> list[str]:
    hypernetwork = f"family.hypernetwork={{type: {name}, positions: relative, levels: 2}}"
    return [hypernetwork, f"family.coordinate_noise={noise:g}", "train_static=false"]


FIELD: dict[str, list[str]] = {
    f"{name}, noise" if noise else name: _levels(name, noise=noise)
    for noise, name in ((0.0, "grid"), (0.0, "field"), (1.0, "field"), (1.0, "grid"))
}
PARTS = {  # variants, recipe, and name of the result
    "settings": (SETTINGS, "cifar10_resnet20_paper.yaml", "inr_settings"),
    "smoothness": (SMOOTHNESS, "cifar10_resnet20_paper.yaml", "inr_smoothness"),
    "field": (FIELD, "cifar10_resnet20.yaml", "field_last_block"),
}


def run_one(recipe_path: Path, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train one variant, or read what it came to.

    Args:
        recipe_path: Of the part.
        folder: Of the run.
        overrides: Of the recipe.

    Returns:
        Accuracy on the validation split by width and of the reference, whether the run ended silent, its seconds and
        how many parameters the hypernetwork has.
    """
    result = folder / "variant.json"
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    recipe, is_silent = load_recipe(recipe_path, [f"output_dir={folder}", *overrides]), False
    try:
        train(recipe, resume=(folder / "recipe.yaml").is_file())
    except RecipeError as error:
        if "fell silent" not in str(error):
            raise
        is_silent = True
    recipe = load_recipe(folder / "recipe.yaml")
    model: Any = NeuMetaModel.from_pretrained(folder / "best")
    split, task = load_image_data(recipe.data).validation, build_task("image-classification")

    def accuracy_of(network: Any) -> float:
        return round(100 * evaluate_network(network, split, task=task)["accuracy"], 2)

    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    found = {
        "accuracy": {f"{width:g}": accuracy_of(model.morph(width)) for width in WIDTHS},
        "reference": accuracy_of(load_network(str(folder / "reference"))),
        "silent": is_silent,
        "num_images": len(split),
        "seconds": round(training["seconds"]["train"]),
        "hypernetwork_parameters": training["num_parameters"]["hypernetwork"],
    }
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
    parser.add_argument("--output", help="PREFIX of the result; default: in docs/results")
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
    variants, recipe, result = PARTS[arguments.part]
    for name, overrides in variants.items():
        found = []
        for seed in range(arguments.seeds):
            folder = Path(arguments.runs) / arguments.part / f"{'_'.join(name.replace(',', '').split())}_{seed}"
            found.append(run_one(RECIPES / recipe, folder, [*common, f"seed={seed}", *overrides, *arguments.overrides]))
        accuracy = {width: [row["accuracy"][width] for row in found] for width in found[0]["accuracy"]}
        mean = {width: round(float(np.mean(values)), 2) for width, values in accuracy.items()}
        rows[name] = {
            "overrides": overrides,
            "accuracy": accuracy,
            "mean": mean,
            **{key: [row.get(key) for row in found] for key in ("silent", "seconds", "hypernetwork_parameters")},
        }
        print(name, mean, "silent" if all(rows[name]["silent"]) else "", flush=True)
        facts |= {"num_images": found[0]["num_images"], "split": "validation", "seed": list(range(arguments.seeds))}
        facts |= {"reference": found[0].get("reference"), "epochs": arguments.epochs}
        write(Path(arguments.output or ROOT / f"docs/results/{result}"), {"facts": facts, "rows": rows})


def write(prefix: Path, result: dict[str, Any]) -> None:
    """Write a result and its figure."""
    Path(f"{prefix}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    figure = Figure(figsize=(8, 1 + 0.35 * len(result["rows"])), layout="constrained")
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
    figure.legend(fontsize="small", loc="outside right upper")
    figure.savefig(f"{prefix}.png", dpi=150)


if __name__ == "__main__":
    main()
