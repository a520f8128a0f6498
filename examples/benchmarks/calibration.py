"""What calibration images are worth: accuracy at sizes that have no statistics of their own, by how these are measured.

    python examples/benchmarks/calibration.py --data path/to/images --run outputs/calibration

Trains a small ResNet on an image folder and makes a family of it with BatchNorm kept (in --run; a finished run is only
measured again). Then morphs of random widths per stage are tested with statistics of training images, of the images
that a run makes without being asked, and of more of them. Writes docs/results/calibration.json and its figure.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from accelerate import Accelerator
from matplotlib.figure import Figure

from neumeta_hf import NeuMetaModel, load_recipe, train
from neumeta_hf.data import load_image_data
from neumeta_hf.evaluation import environment_facts, evaluate_network
from neumeta_hf.tasks import build_task
from neumeta_hf.training import calibration_batches
from neumeta_hf.training.recipe import CalibrationRecipe
from neumeta_hf.training.statistics import store_statistics

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "as a run makes them": CalibrationRecipe(),
    "64 images, 8 networks, 100 steps": CalibrationRecipe(images=64, networks=8, steps=100),
    "32 images, 8 networks, 400 steps": CalibrationRecipe(images=32, networks=8, steps=400),
    "64 images, 8 networks, 400 steps": CalibrationRecipe(images=64, networks=8, steps=400),
    "128 images, 16 networks, 400 steps": CalibrationRecipe(images=128, networks=16, steps=400),
}


def write_recipe(path: Path, data: str, output: Path) -> Path:
    """Write the recipe of the family."""
    loop = {"batch_size": 64, "optimizer": {"name": "adamw", "learning_rate": 0.002}, "evaluate_every": 5}
    loop["schedule"] = {"name": "one_cycle", "warmup": 0.2}
    sections = {
        "output_dir": str(output),
        "mixed_precision": "auto",
        "data": {
            "dataset": data,
            "image_size": 64,
            "num_channels": 3,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "augmentation": "crop",
        },
        "target": {
            "family": "resnet",
            "config": {
                "embedding_size": 16,
                "hidden_sizes": [16, 32, 64, 128],
                "depths": [1, 1, 1, 1],
                "layer_type": "basic",
            },
        },
        "pretrain": {**loop, "epochs": 30},
        "preparation": {"normalization": "keep", "order": "importance"},
        "family": {"hypernetwork": {"type": "grid", "positions": "absolute", "levels": 3}, "coordinate_noise": 0.0},
        "sizes": {
            "widths": "0.25:1.0:0.0625",
            "sampler": "sandwich",
            "turns": [1.0, 0.5],
            "num_random": 1,
            "num_per_group": 2,
        },
        "losses": {"task": 1.0, "reconstruction": 0.0, "regularization": 0.0, "distillation": 1.0},
        "train": {**loop, "epochs": 30},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")
    return path


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="an image folder, as datasets.load_dataset reads it")
    parser.add_argument("--run", default="outputs/calibration", help="folder of the run; default: %(default)s")
    parser.add_argument("--shapes", type=int, default=20, help="random sizes; default: %(default)s")
    parser.add_argument("--output", default=str(ROOT / "docs/results/calibration"), help="PREFIX; default: %(default)s")
    arguments = parser.parse_args()
    run = Path(arguments.run)
    recipe = load_recipe(write_recipe(run.with_suffix(".yaml"), arguments.data, run))
    if not (run / "model.safetensors").is_file():
        train(recipe)
    recipe = load_recipe(run / "recipe.yaml")
    family: Any = NeuMetaModel.from_pretrained(run)
    data, task = load_image_data(recipe.data), build_task("image-classification")
    random = np.random.default_rng(0)
    sizes = [{group: float(random.uniform(0.25, 1)) for group in family.width_groups} for _ in range(arguments.shapes)]

    def score(calibration: Any) -> list[float]:
        morphs = (family.morph(size, calibration=calibration).eval() for size in sizes)
        return [evaluate_network(morph, data.test, task=task)["accuracy"] for morph in morphs]

    batches = calibration_batches(data.train, 1024)
    rows: dict[str, dict[str, Any]] = {"training images": {"accuracy": score(batches), "seconds": 0.0}}
    for name, calibration in SETTINGS.items():
        recipe.calibration = calibration
        start = time.perf_counter()
        store_statistics(recipe, family, data.train, Accelerator(cpu=True))
        seconds = round(time.perf_counter() - start, 1)
        rows[name] = {"accuracy": score(None), "seconds": seconds}
        print(name, f"{100 * np.mean(rows[name]['accuracy']):.2f} %, {seconds} s to make", flush=True)
    facts = {**environment_facts("cpu"), "seed": recipe.seed, "dataset": Path(arguments.data).name}
    facts["num_images"] = len(data.test)
    summary = {name: round(100 * float(np.mean(row["accuracy"])), 2) for name, row in rows.items()}
    result = {"facts": facts, "mean_accuracy": summary, "sizes": sizes, "rows": rows}
    Path(f"{arguments.output}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.boxplot([[100 * value for value in row["accuracy"]] for row in rows.values()], orientation="horizontal")
    axes.set_yticks(range(1, len(rows) + 1), list(rows))
    axes.set_xlabel(f"test accuracy [%] at {len(sizes)} random sizes")
    figure.savefig(f"{arguments.output}.png", dpi=150)


if __name__ == "__main__":
    main()
