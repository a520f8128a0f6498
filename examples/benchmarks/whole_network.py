"""Accuracy against size of a whole network: the family, networks trained alone, pruning, slicing and interpolation.

    python examples/benchmarks/whole_network.py --data path/to/cifar10 --output docs/results/whole_network

By default ResNet-20 with 1x1 shortcuts on CIFAR-10, every width free; --recipe names another. Work is kept in --runs:
an interrupted call goes on where it was, a finished network is not trained again, and --parts does some of it (hours
on two cores for all). Parts:

- individual: networks of widths 1.0, 0.75, 0.5, 0.25, each trained alone with the recipe's pretrain section: the bar.
  The first of them is also the reference of all other parts;
- family: the recipe, at trained and untrained uniform widths, and at random widths per stage and per layer, these both
  as morphed without data and with statistics measured on training images;
- untrained: slicing (first channels by importance) and interpolation (neighbours on the shortest path merged) of the
  prepared reference, statistics measured on training images;
- pruning: Torch-Pruning of the reference by random, L1, L2 and Taylor importance, statistics likewise; with --finetune
  EPOCHS each is then trained on.

Selection is on the validation split, every number on the test split. Writes PREFIX.json and PREFIX.png, prints a table.
"""

import argparse
import copy
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoModelForImageClassification

from neumeta_hf import (
    NeuMetaForImageClassification,
    SizeWarning,
    calibrate,
    load_image_data,
    load_recipe,
    prepare,
    train,
)
from neumeta_hf.cli import setup_logging
from neumeta_hf.evaluation import count_macs, count_parameters, environment_facts, evaluate_classifier
from neumeta_hf.files import write_beside
from neumeta_hf.targets import find_target, resize
from neumeta_hf.training import Recipe, calibration_batches, load_target

RECIPE = Path(__file__).parent.parent / "recipes" / "cifar10_resnet20_whole.yaml"
CALIBRATED = ", calibrated on real images"
ALONE = (1.0, 0.75, 0.5, 0.25)
UNIFORM = (1.0, 0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.25)
NUM_RANDOM = 10
STYLES = {
    "individual": {"color": "#222222", "marker": "s"},
    "family": {"color": "#1f5fa8", "marker": "o"},
    "family, random widths per stage": {"color": "#7fb2e5", "marker": ".", "linestyle": "none"},
    "family, random widths per layer": {"color": "#8a6fc0", "marker": ".", "linestyle": "none"},
}


class Benchmark:
    """The parts, and what they measured so far.

    Args:
        arguments: Of the command.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.runs = Path(arguments.runs)
        self.runs.mkdir(parents=True, exist_ok=True)
        self.kept = self.runs / "measurements.json"
        self.rows: list[dict[str, Any]] = json.loads(self.kept.read_text()) if self.kept.is_file() else []
        self.data = load_image_data(self.recipe().data)
        self.batches = calibration_batches(self.data.train, self.recipe().statistics_images)

    def recipe(self, *overrides: str) -> Recipe:
        """The recipe on the given data, with overrides."""
        data = f"data.dataset={self.arguments.data}"
        return load_recipe(
            self.arguments.recipe, [data, f"seed={self.arguments.seed}", *self.arguments.overrides, *overrides]
        )

    def trained(self, name: str, *overrides: str) -> Path:
        """The folder of a run, which is started, resumed or taken as it is."""
        folder = self.runs / f"{name}-seed{self.arguments.seed}"
        if not (folder / "training.json").is_file():
            recipe = self.recipe(f"output_dir={folder}", *overrides)
            train(recipe, resume=(folder / "recipe.yaml").is_file())
        return folder

    def alone(self, width: float) -> Path:
        """A network of one size, trained alone."""
        recipe = self.recipe()
        reference = load_target(recipe, self.data.label_names).config
        changed = {
            name: value
            for name, value in resize(reference, width).to_dict().items()
            if value != reference.to_dict().get(name)
        }
        size = f"target.config={json.dumps({**recipe.target.config, **changed})}"
        preparation = "preparation={normalization: keep, order: identity}"
        return self.trained(f"individual-{width:g}", size, preparation, "train=null") / "pretrained"

    def is_measured(self, method: str, width: Any) -> bool:
        """Whether there is a row already."""
        key = (method, width, self.arguments.seed)
        return any((row["method"], row["width"], row["seed"]) == key for row in self.rows)

    def measure(self, method: str, width: Any, model: nn.Module, **facts: Any) -> None:
        """Add a row: one look at the test split."""
        scores = evaluate_classifier(model, self.data.test)
        example = self.data.test[0]["pixel_values"][None]
        row = {
            "method": method,
            "width": width,
            "seed": self.arguments.seed,
            "accuracy": scores["accuracy"],
            "num_parameters": count_parameters(model),
            "macs": count_macs(model, example),
            **facts,
        }
        self.rows.append(row)
        with write_beside(self.kept) as beside:
            beside.write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")
        print(f"{method}, width {width}: {row['accuracy']:.2%}, {row['macs']:,} MACs", flush=True)

    def individual(self) -> None:
        """Networks trained alone."""
        for width in ALONE:
            if not self.is_measured("individual", width):
                self.measure("individual", width, AutoModelForImageClassification.from_pretrained(self.alone(width)))

    def family(self) -> None:
        """The recipe's family at trained, untrained and random sizes."""
        reference = f"target.checkpoint={self.alone(1.0)}"
        folder = self.trained("family", reference, "target.config={}", "pretrain=null")
        model = NeuMetaForImageClassification.from_pretrained(folder)
        for width in UNIFORM:
            if not self.is_measured("family", width):
                self.measure("family", width, model.morph(width), trained=width in model.config.trained_widths)
        rng = np.random.default_rng(0)
        groups, parents = model.width_groups, model.family.parents(model.reference_config)
        stages = [group for group in groups if group not in parents]
        for kind, drawn in (("stage", stages), ("layer", groups if parents else [])):
            for _ in range(NUM_RANDOM if drawn else 0):
                width = {group: round(float(rng.uniform(0.25, 1.0)), 3) for group in drawn}
                for name, batches in (("", None), (CALIBRATED, self.batches if model.statistic_names else None)):
                    method = f"family, random widths per {kind}{name}"
                    if not self.is_measured(method, width) and not (name and batches is None):
                        self.measure(method, width, model.morph(width, calibration=batches), trained=False)

    def untrained(self) -> None:
        """Slices and interpolations of the prepared reference."""
        network = AutoModelForImageClassification.from_pretrained(self.alone(1.0))
        for method, order, positions in (
            ("slicing", "importance", "absolute"),
            ("interpolation", "path", "relative"),
        ):
            prepared, _ = prepare(network, normalization="keep", order=order)  # pyright: ignore[reportArgumentType]
            hypernetwork = {"type": "grid", "positions": positions}
            model = NeuMetaForImageClassification.from_reference(
                prepared, normalization="keep", hypernetwork=hypernetwork
            )
            for width in UNIFORM:
                if not self.is_measured(method, width):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", SizeWarning)
                        self.measure(method, width, model.morph(width, calibration=self.batches))

    def pruning(self) -> None:
        """Channels of the reference taken away by importance, statistics measured anew, then trained on if asked."""
        network = AutoModelForImageClassification.from_pretrained(self.alone(1.0))
        for name, importance in (
            ("random", torch_pruning.importance.RandomImportance()),
            ("L1", torch_pruning.importance.GroupMagnitudeImportance(p=1)),
            ("L2", torch_pruning.importance.GroupMagnitudeImportance(p=2)),
            ("Taylor", torch_pruning.importance.GroupTaylorImportance()),
        ):
            for width in ALONE[1:]:
                method, finetuned = f"pruning, {name}", f"pruning, {name}, fine-tuned"
                wanted = [method, *([finetuned] if self.arguments.finetune else [])]
                if all(self.is_measured(kind, width) for kind in wanted):
                    continue
                pruned = self._pruned(network, importance, width)
                if not self.is_measured(method, width):
                    self.measure(method, width, pruned)
                if self.arguments.finetune and not self.is_measured(finetuned, width):
                    self.measure(finetuned, width, self._finetuned(pruned))

    def _pruned(self, network: nn.Module, importance: Any, width: float) -> nn.Module:
        torch.manual_seed(self.arguments.seed)
        model: Any = copy.deepcopy(network).requires_grad_(True).eval()
        config = model.config
        pruner = torch_pruning.MetaPruner(
            model,
            find_target(config).example_inputs(config),
            importance=importance,
            pruning_ratio=1 - width,
            ignored_layers=[layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1:],
            forward_fn=lambda target, images: target(images).logits,
        )
        batch = self.data.train.__getitems__(list(range(512)))
        F.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"]).backward()  # Taylor reads gradients
        pruner.step()
        model.zero_grad()
        return calibrate(model, self.batches)

    def _finetuned(self, model: nn.Module) -> nn.Module:
        recipe = self.recipe().pretrain
        assert recipe is not None
        model = copy.deepcopy(model).train().to(memory_format=torch.channels_last)  # pyright: ignore
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        steps = self.arguments.finetune * (len(self.data.train) // recipe.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps, anneal_strategy="linear")
        for batch in self._batches(recipe.batch_size, self.arguments.finetune):
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(batch["pixel_values"].contiguous(memory_format=torch.channels_last)).logits
            F.cross_entropy(logits.float(), batch["labels"]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        return model.eval()

    def _batches(self, batch_size: int, epochs: int) -> Iterator[dict[str, torch.Tensor]]:
        split = self.data.train
        for epoch in range(epochs):
            split.set_epoch(epoch)
            order = np.random.default_rng((self.arguments.seed, epoch)).permutation(len(split))
            for start in range(0, len(order) - batch_size + 1, batch_size):
                yield split.__getitems__(order[start : start + batch_size].tolist())


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rows come to, in points of accuracy: the family against what it is measured by.

    Returns:
        "against_individual": width to family minus the network trained alone; "between": untrained width to family
        minus the straight line between its trained neighbours of `ALONE`, by width; "random": kind to the smallest and
        the mean difference between a random network and the uniform family at its MACs (linear in their logarithm);
        "data_free": kind to the largest loss of a morph without data against one calibrated on real images. Means over
        seeds where there are several.
    """

    def points(method: str) -> dict[Any, dict[str, float]]:
        by_width: dict[Any, list[dict[str, Any]]] = {}
        for row in rows:
            if row["method"] == method:
                by_width.setdefault(json.dumps(row["width"]), []).append(row)
        means = {}
        for width, found in by_width.items():
            accuracy = 100 * sum(row["accuracy"] for row in found) / len(found)
            means[width] = {"width": json.loads(width), "accuracy": accuracy, "macs": found[0]["macs"]}
        return means

    family = {row["width"]: row for row in points("family").values()}
    individual = {row["width"]: row for row in points("individual").values()}
    known = sorted(width for width in ALONE if width in family)
    summary: dict[str, Any] = {
        "against_individual": {
            width: round(family[width]["accuracy"] - row["accuracy"], 2)
            for width, row in individual.items()
            if width in family
        },
        "between": {
            width: round(row["accuracy"] - float(np.interp(width, known, [family[w]["accuracy"] for w in known])), 2)
            for width, row in family.items()
            if known and width not in known
        },
        "random": {},
        "data_free": {},
    }
    line = sorted((np.log(row["macs"]), row["accuracy"]) for row in family.values())
    for kind in ("stage", "layer"):
        free, calibrated = (points(f"family, random widths per {kind}{name}") for name in ("", CALIBRATED))
        if free and line:
            differences = [
                row["accuracy"] - float(np.interp(np.log(row["macs"]), *zip(*line, strict=True)))
                for row in free.values()
            ]
            mean = round(sum(differences) / len(differences), 2)
            summary["random"][kind] = {"smallest": round(min(differences), 2), "mean": mean}
        if pairs := [(free[width], calibrated[width]) for width in free if width in calibrated]:
            summary["data_free"][kind] = round(max(two["accuracy"] - one["accuracy"] for one, two in pairs), 2)
    return summary


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against MACs, a line a method; several seeds are points of one line."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # Calibrated rows would lie on the others; the table compares them.
    for method in dict.fromkeys(row["method"] for row in rows if not row["method"].endswith(CALIBRATED)):
        points = sorted((row["macs"], 100 * row["accuracy"]) for row in rows if row["method"] == method)
        style = {"marker": "x", "linewidth": 1, "markersize": 5, **STYLES.get(method, {})}
        axes.plot(*zip(*points, strict=True), label=method, **style)
    axes.set_xscale("log")
    axes.set_xlabel("multiply-accumulates of the whole network")
    axes.set_ylabel("test accuracy (%)")
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> int:
    """Run the parts, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar10", help="Hub id or folder; default: %(default)s")
    parser.add_argument("--recipe", default=str(RECIPE), help="default: the whole ResNet-20 on CIFAR-10")
    parts = ("individual", "family", "untrained", "pruning")
    parser.add_argument("--parts", default=",".join(parts), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--finetune", type=int, default=0, metavar="EPOCHS", help="of pruned networks; default: none")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", default="outputs/whole_network", help="folder of the work; default: %(default)s")
    parser.add_argument("--output", default="outputs/whole_network", help="PREFIX of the files; default: %(default)s")
    arguments = parser.parse_args()
    chosen = arguments.parts.split(",")
    if unknown := [part for part in chosen if part not in parts]:
        parser.error(f"--parts {unknown[0]}: there are {', '.join(parts)}.")
    setup_logging()
    benchmark = Benchmark(arguments)
    for part in chosen:
        getattr(benchmark, part)()
    table = Table("method", "seed", "width", "accuracy", "parameters", "MACs")
    for row in benchmark.rows:
        width = row["width"] if isinstance(row["width"], float) else " ".join(f"{v:g}" for v in row["width"].values())
        cells = (f"{row['accuracy']:.2%}", f"{row['num_parameters']:,}", f"{row['macs']:,}")
        table.add_row(row["method"], str(row["seed"]), str(width), *cells)
    Console().print(table)
    print(json.dumps(summarize(benchmark.rows), indent=1))
    prefix = Path(arguments.output)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        **environment_facts(),
        "seed": arguments.seed,
        "dataset": Path(arguments.data).name,
        "split": "test",
        "recipe": benchmark.recipe().to_dict(),
    }
    facts["recipe"]["data"]["dataset"] = facts["dataset"]
    with write_beside(prefix.with_name(prefix.name + ".json")) as beside:
        result = {"facts": facts, "summary": summarize(benchmark.rows), "rows": benchmark.rows}
        beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with write_beside(prefix.with_name(prefix.name + ".png")) as beside:
        plot(benchmark.rows, beside)
    return 0


if __name__ == "__main__":
    sys.exit(main())
