"""One family over width and depth beside networks trained alone: a CIFAR ResNet of three blocks a stage on the digits.

    python examples/benchmarks/depth.py --seeds 3

The family is trained at width 0.5 to 1 and at one and three blocks a stage; two blocks it never sees. Every network of
the comparison is trained alone for as many epochs as the family. Runs lie in --runs, and a finished one is only
measured again. Writes docs/results/depth_digits.json and its figure: accuracy on the test split.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from neumeta_hf import NeuMetaModel, train
from neumeta_hf.data import load_image_data
from neumeta_hf.evaluation import count_parameters, environment_facts, evaluate_network
from neumeta_hf.targets import load_network
from neumeta_hf.training import calibration_batches, recipe_from_dict

ROOT = Path(__file__).parents[2]
FULL = [12, 24, 48]
SIZES = [(width, blocks) for width in (1.0, 0.5) for blocks in (3, 2, 1)]


def sections(seed: int, output: Path, width: float, blocks: int, epochs: int) -> dict[str, Any]:
    """The recipe of a network that is trained alone."""
    loop = {
        "epochs": epochs,
        "batch_size": 64,
        "optimizer": {"name": "adamw", "learning_rate": 0.004, "weight_decay": 0.01},
        "schedule": {"name": "one_cycle", "warmup": 0.2},
        "evaluate_every": 5,
    }
    target = {"num_blocks": [blocks] * 3, "stage_channels": [round(width * count) for count in FULL], "image_size": 8}
    return {
        "output_dir": str(output),
        "seed": seed,
        "data": {"dataset": "digits", "image_size": 8, "mean": [0.305], "std": [0.376], "augmentation": "crop"},
        "target": {"family": "cifar_resnet", "config": target},
        "pretrain": loop,
        "preparation": {"normalization": "keep", "order": "importance"},
        "train": None,
        "keep_state": True,
    }


def family_sections(seed: int, output: Path, reference: Path, epochs: int) -> dict[str, Any]:
    """The recipe of the family."""
    alone = sections(seed, output, 1.0, 3, epochs)
    return {
        **alone,
        "target": {"family": "cifar_resnet", "checkpoint": str(reference)},
        "pretrain": None,
        "family": {"hypernetwork": {"type": "grid", "positions": "absolute", "levels": 2}, "coordinate_noise": 0.0},
        "sizes": {"widths": "0.5:1.0:0.125", "depths": [0.34, 1.0], "sampler": "sandwich", "num_random": 2},
        "losses": {"task": 1.0, "reconstruction": 0.0, "regularization": 0.0, "distillation": 1.0},
        "train": alone["pretrain"],
    }


def trained(values: dict[str, Any]) -> Path:
    """The folder of a run, which is started, resumed or taken as it is."""
    folder = Path(values["output_dir"])
    if not (folder / "training.json").is_file():
        train(recipe_from_dict(values), resume=(folder / "recipe.yaml").is_file())
    return folder


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=40, help="of each training; default: %(default)s")
    parser.add_argument("--runs", default="outputs/depth", help="folder of the runs; default: %(default)s")
    parser.add_argument("--output", default=str(ROOT / "docs/results/depth_digits"), help="PREFIX of the result")
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        runs = Path(arguments.runs)
        alone = {
            (width, blocks): trained(
                sections(seed, runs / f"alone-{width:g}-{blocks}-seed{seed}", width, blocks, arguments.epochs)
            )
            / "pretrained"
            for width, blocks in SIZES
        }
        values = family_sections(seed, runs / f"family-seed{seed}", alone[1.0, 3], arguments.epochs)
        family: Any = NeuMetaModel.from_pretrained(trained(values))
        data = load_image_data(recipe_from_dict(values).data)
        batches = calibration_batches(data.train, 1024)
        for (width, blocks), folder in alone.items():
            morph = family.morph(width, depth=dict.fromkeys(family.space.depths, blocks), calibration=batches)
            row = {"seed": seed, "width": width, "blocks": blocks, "trained": blocks != 2}
            row["num_parameters"] = count_parameters(morph)
            for method, network in (("family", morph), ("alone", load_network(str(folder)))):
                row[method] = evaluate_network(network, data.test)["accuracy"]
            print(json.dumps(row), flush=True)
            rows.append(row)
    means = []
    for width, blocks in SIZES:
        chosen = [row for row in rows if (row["width"], row["blocks"]) == (width, blocks)]
        mean = {
            method: round(100 * float(np.mean([row[method] for row in chosen])), 2) for method in ("family", "alone")
        }
        means.append({"width": width, "blocks": blocks, **mean})
    facts = {**environment_facts("cpu"), "seed": list(range(arguments.seeds)), "num_images": len(data.test)}
    result = {"facts": facts, "means": means, "rows": rows}
    Path(f"{arguments.output}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for width in (1.0, 0.5):
        for method, style in (("family", "o-"), ("alone", "s--")):
            chosen = [mean for mean in means if mean["width"] == width]
            axes.plot([mean["blocks"] for mean in chosen], [mean[method] for mean in chosen], style)
            axes.lines[-1].set_label(f"{method}, width {width:g}")
    axes.set_xticks([1, 2, 3], ["1", "2, never trained", "3"])
    axes.set_xlabel("blocks a stage")
    axes.set_ylabel("test accuracy [%]")
    axes.legend()
    figure.savefig(f"{arguments.output}.png", dpi=150)


if __name__ == "__main__":
    main()
