"""A family against its size: beside networks trained alone, pruning, slicing and interpolation.

    python examples/benchmarks/whole_network.py --data path/to/cifar10

By default ResNet-20 with 1x1 shortcuts on CIFAR-10, every width free; --recipe names another, of any task: what is
measured is the task's first score, for whatever part of the network the recipe leaves free. Work is kept in --runs: an
interrupted call goes on where it was, a finished network is not trained again, and --parts does some of it (hours on
two cores for all). The reference of all parts is the network of width 1.0, trained alone. Parts:

- individual: networks of the widths in --alone, each trained alone with the recipe's pretrain section: the bar;
- family: the recipe, at the widths in --widths, trained and untrained, and (where the whole network is free) at random
  widths per stage and per layer, all both as morphed without data and with statistics measured on training images;
- inr: the recipe with the paper's hypernetwork, read literally, at the same sizes; with --inr-epochs EPOCHS in so many,
  as its steps take longer;
- inr-defaults (when asked for): the same with what this library's INR recommends: its defaults, Muon, one random width
  a step;
- static: where the family leaves a part of the network as it is, networks of the further widths in --alone on that
  part of the reference, the rest started from its first channels and trained alone as long as the family;
- shapes: the first --shapes of these networks with random widths per stage, each trained alone.

Where the target has blocks that a network can leave out, and only if asked for:

- depth: the recipe with the ratios of --depths as `sizes.depths`, at every width in --widths and all these depths, and
  beside it networks of the widths in --alone and of the smallest depth, each trained alone.

Of classifiers alone:

- fused: the recipe with BatchNorm fused, at the same sizes;
- untrained: slicing (first channels by importance) and interpolation (neighbours on the shortest path merged) of the
  prepared reference, statistics measured on training images;
- pruning: Torch-Pruning of the reference by random, L1, L2, Taylor and Hessian importance to the further widths in
  --alone, statistics likewise; with --finetune EPOCHS each is then trained on.

Selection is on the validation split, every number on the test split. Writes PREFIX.json and PREFIX.png, prints a table.

Ablations are parts too, each the recipe with one thing changed, and are no more than selection: run them with --split
validation. They are inr-no-noise (inr without coordinate noise), one-level (the grid has no further levels), noise (of
half a channel, in training), uniform-only (no random widths per stage and layer in training), nested (one-level and
uniform-only: plain slices), full-size-always (in turn with no other width, and with random widths per stage and layer
once a step), no-distillation, temperature (seven tenths of distillation at temperature 4, three of the labels),
half-distillation (at temperature 4, and the labels in full), always (the same, and full size and half width at every
step, with a random uniform width and random widths per stage and layer in turn), smallest-per-group (a quarter of the
random widths per stage and layer is the smallest), and smallest-share (half of the smallest width's steps go to widths
just above it). So is orders, which trains nothing: slices of the prepared reference at the widths in --widths, channels
in order of importance by weights and by activations.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_families import CALIBRATED, FAMILIES, SHAPES, STATIC
from pruning import IMPORTANCES, finetune, prune
from rich.console import Console
from rich.table import Table
from size_summary import plot, summarize
from torch import nn

from neumeta_hf import (
    NeuMetaConfig,
    NeuMetaModel,
    load_recipe,
    prepare,
    train,
)
from neumeta_hf.cli import setup_logging
from neumeta_hf.data import load_data, make_preprocessor
from neumeta_hf.errors import NeuMetaError, RecipeError
from neumeta_hf.evaluation import count_macs, count_parameters, environment_facts, evaluate_network, parse_widths
from neumeta_hf.family_sizes import ignore_size_warnings
from neumeta_hf.files import shorten_paths, write_beside
from neumeta_hf.targets import config_of, find_target, load_network
from neumeta_hf.training import (
    Recipe,
    calibration_batches,
    choose_precision,
    start_target,
    task_of,
)

RECIPE = Path(__file__).parent.parent / "recipes" / "cifar10_resnet20_whole.yaml"
ALONE = "1.0,0.75,0.5,0.25"
DEPTHS = "1.0,0.75,0.5"
# Trained, untrained (0.9, 0.6, 0.4, 0.3), and for each untrained one the two trained ones beside it.
UNIFORM = "1.0,0.9375,0.9,0.875,0.75,0.625,0.6,0.5625,0.5,0.4375,0.4,0.375,0.3125,0.3,0.25"
NUM_RANDOM = 10
DEFAULT_PARTS = ("individual", "family", "inr", "fused", "static", "shapes", "untrained", "pruning")
# The learning rate of "fused" is below that of the classifiers' recipes, and far above those of all others.
OF_CLASSIFIERS = ("fused", "untrained", "pruning")


def recipe_of(arguments: argparse.Namespace, *overrides: str) -> Recipe:
    """The recipe on the given data, with overrides; the last ones win."""
    data = [] if arguments.data is None else [f"data.dataset={arguments.data}"]
    return load_recipe(arguments.recipe, [*data, f"seed={arguments.seed}", *arguments.overrides, *overrides])


class Benchmark:
    """The parts, and what they measured so far.

    Args:
        arguments: Of the command.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.runs = Path(arguments.runs)
        self.runs.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.kept = self.runs / f"measurements{'' if arguments.split == 'test' else '-' + arguments.split}.json"
        self.rows: list[dict[str, Any]] = json.loads(self.kept.read_text()) if self.kept.is_file() else []
        recipe = self.recipe()
        self.task, self.family_of_target = task_of(recipe), find_target(recipe.target.family)
        self.score = self.task.scores[0]
        self.alone_at, self.widths = parse_widths(arguments.alone), parse_widths(arguments.widths)
        self.depths = parse_widths(arguments.depths)
        self.narrower = [width for width in self.alone_at if width != 1.0]
        preprocessor = make_preprocessor(recipe.data, self.task, None)
        self.data = load_data(recipe.data, self.task, preprocessor)
        self.split = getattr(self.data, arguments.split)
        self.reference = config_of(start_target(recipe, self.task, self.data, None, preprocessor))
        self.free = {"generated": recipe.family.generated, "width_groups": recipe.family.width_groups}
        model = NeuMetaModel(NeuMetaConfig(target_config=self.reference, normalization="keep", **self.free))
        self.space, self.groups, self.varying_axes = model.space, model.width_groups, model.varying_axes
        self.batches = (
            calibration_batches(self.data.train, self.recipe().statistics_images)
            if self.task.modality == "image"
            else []
        )

    def recipe(self, *overrides: str) -> Recipe:
        """The recipe of the command, with further overrides."""
        return recipe_of(self.arguments, *overrides)

    def folder(self, name: str) -> Path:
        """Where a run of this seed is kept."""
        return self.runs / f"{name}-seed{self.arguments.seed}"

    def trained(self, name: str, *overrides: str) -> Path:
        """The folder of a run, which is started, resumed or taken as it is."""
        folder = self.folder(name)
        if not (folder / "training.json").is_file():
            recipe = self.recipe(f"output_dir={folder}", *overrides)
            train(recipe, resume=(folder / "recipe.yaml").is_file())
        return folder

    def alone(self, width: float | dict[str, float], depth: float = 1.0) -> Path:
        """A network of one size, trained alone; what the family holds fixed has full size."""
        full, size = self.reference.to_dict(), self.space.size(width, depth=depth, free=self.groups)
        changed = {
            name: value
            for name, value in self.family_of_target.config_at(self.reference, size).to_dict().items()
            if value != full.get(name)
        }
        config = f"target.config={json.dumps({**self.recipe().target.config, **changed})}"
        preparation = "preparation={normalization: keep, order: identity}"
        name = "-".join(f"{ratio:g}" for ratio in (width.values() if isinstance(width, dict) else [width]))
        name += "" if depth == 1 else f"-depth{depth:g}"
        return self.trained(f"individual-{name}", config, preparation, "train=null") / "pretrained"

    def from_reference(self) -> tuple[str, ...]:
        """Overrides for a run that starts from the reference."""
        return f"target.checkpoint={self.alone(1.0)}", "target.config={}", "pretrain=null"

    @property
    def is_whole(self) -> bool:
        """Whether the family leaves no part of the network as it is."""
        return len(self.groups) == len(self.family_of_target.axes(self.reference))

    def random_sizes(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Networks whose stages, and whose layers, have random widths; none where a part of the network is fixed."""
        if not self.is_whole:
            return
        rng, axes = np.random.default_rng(0), self.family_of_target.axes(self.reference)
        stages = [axis.name for axis in axes if axis.parent is None and axis.name in self.groups]
        for kind, drawn in (("stage", stages), ("layer", self.groups if len(stages) < len(self.groups) else [])):
            for _ in range(NUM_RANDOM if drawn else 0):
                yield kind, {group: round(float(rng.uniform(0.25, 1.0)), 3) for group in drawn}

    def is_measured(self, method: str, width: Any) -> bool:
        """Whether there is a row already."""
        key = (method, width, self.arguments.seed)
        return any((row["method"], row["width"], row["seed"]) == key for row in self.rows)

    def measure(self, method: str, width: Any, model: nn.Module, **facts: Any) -> None:
        """Add a row: one look at the split."""
        scores = evaluate_network(model, self.split, task=self.task, family=self.family_of_target, device=self.device)
        example = first_of(self.split, self.family_of_target)
        row = {
            "method": method,
            "width": width,
            "seed": self.arguments.seed,
            **{name: value for name, value in scores.items() if name != "num_samples"},
            "num_parameters": count_parameters(model),
            "macs": count_macs(model, example, family=self.family_of_target),
            **facts,
        }
        self.rows.append(row)
        with write_beside(self.kept) as beside:
            beside.write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")
        value = self.score.format(row[self.score.name])
        print(f"{method}, width {width}: {self.score.label} {value}, {row['macs']:,} MACs", flush=True)

    def individual(self) -> None:
        """Networks trained alone."""
        for width in self.alone_at:
            if not self.is_measured("individual", width):
                self.measure("individual", width, load_network(str(self.alone(width))))

    def family(self, part: str) -> None:
        """A family at trained, untrained and random sizes: the recipe's, or one that differs in one thing."""
        label, changes = FAMILIES[part]
        if part.startswith("inr") and self.arguments.inr_epochs is not None:
            changes = (*changes, f"train.epochs={self.arguments.inr_epochs}")
        folder = self.trained(part, *self.from_reference(), *changes)
        model = NeuMetaModel.from_pretrained(folder).to(self.device)
        sizes: list[tuple[str, Any]] = [(label, width) for width in self.widths]
        sizes += [(f"{label}, random widths per {kind}", width) for kind, width in self.random_sizes()]
        # Without calibration images in the checkpoint, only uniform widths have statistics.
        is_data_free = not model.statistic_names or model.config.calibration_images > 0
        for method, width in sizes:
            trained = width in model.config.trained_widths
            if (is_data_free or not isinstance(width, dict)) and not self.is_measured(method, width):
                self.measure(method, width, model.morph(width), trained=trained)
            calibrated = method + CALIBRATED
            if part == "family" and model.statistic_names and not self.is_measured(calibrated, width):
                self.measure(calibrated, width, model.morph(width, calibration=self.batches), trained=trained)

    def depth(self) -> None:
        """A family over width and depth, and networks of fewer blocks trained alone."""
        folder = self.trained("depth", *self.from_reference(), f"sizes.depths={self.depths}")
        model = NeuMetaModel.from_pretrained(folder).to(self.device)
        for depth in self.depths:
            method = f"family over width and depth, depth {depth:g}"
            for width in self.widths:
                if not self.is_measured(method, width):
                    trained = width in model.config.trained_widths
                    self.measure(method, width, model.morph(width, depth=depth), depth=depth, trained=trained)
        least = min(self.depths)
        method = f"individual, depth {least:g}"
        for width in self.alone_at:
            if not self.is_measured(method, width):
                self.measure(method, width, load_network(str(self.alone(width, least))), depth=least)

    def static(self) -> None:
        """Networks of one size on the static part of the reference."""
        for width in [] if self.is_whole else self.narrower:
            if not self.is_measured(STATIC, width):
                changes = (
                    f"sizes={{widths: [{width}], sampler: uniform, num_random: 1}}",
                    f"validation_widths=[{width}]",
                    "family.hypernetwork={type: grid, positions: absolute}",
                    "train_static=false",
                )
                folder = self.trained(f"static-{width:g}", *self.from_reference(), *changes)
                self.measure(STATIC, width, NeuMetaModel.from_pretrained(folder).morph(width))

    def shapes(self) -> None:
        """Networks with random widths per stage, trained alone."""
        drawn = [width for kind, width in self.random_sizes() if kind == "stage"]
        for width in drawn[: self.arguments.shapes]:
            if not self.is_measured(SHAPES, width):
                self.measure(SHAPES, width, load_network(str(self.alone(width))))

    def untrained(self) -> None:
        """Slices and interpolations of the prepared reference."""
        self._of_prepared("slicing", "absolute", order="importance")
        self._of_prepared("interpolation", "relative", order="path")

    def orders(self) -> None:
        """Slices of the reference, its channels ordered by two kinds of importance."""
        self._of_prepared("slicing", "absolute", order="importance")
        batch = self.family_of_target.inputs_of(self.data.train.sample(256))
        self._of_prepared("slicing, importance by activations", "absolute", order="activations", batch=batch)

    def _of_prepared(self, method: str, positions: str, **options: Any) -> None:
        prepared, _ = prepare(load_network(str(self.alone(1.0))), normalization="keep", **options)
        hypernetwork = {"type": "grid", "positions": positions}
        model = NeuMetaModel.from_reference(prepared, normalization="keep", hypernetwork=hypernetwork, **self.free)
        batches = self.batches if model.statistic_names else None
        for width in self.widths:
            if not self.is_measured(method, width):
                with ignore_size_warnings():  # nothing was trained
                    self.measure(method, width, model.morph(width, calibration=batches))

    def pruning(self) -> None:
        """Channels of the reference taken away by importance, statistics measured anew, then trained on if asked."""
        network, recipe, seed = load_network(str(self.alone(1.0))), self.recipe(), self.arguments.seed
        assert recipe.pretrain is not None
        training = {"batch_size": recipe.pretrain.batch_size, "epochs": self.arguments.finetune, "seed": seed}
        training["bf16"] = choose_precision(recipe.mixed_precision, torch.device("cpu")) == "bf16"
        data = {"split": self.data.train, "batches": self.batches, "varying_axes": self.varying_axes}
        for name in IMPORTANCES:
            for width in self.narrower:
                method, finetuned = f"pruning, {name}", f"pruning, {name}, fine-tuned"
                wanted = [method, *([finetuned] if self.arguments.finetune else [])]
                if all(self.is_measured(kind, width) for kind in wanted):
                    continue
                pruned = prune(network, name, width, seed=seed, **data)
                if not self.is_measured(method, width):
                    self.measure(method, width, pruned)
                if self.arguments.finetune and not self.is_measured(finetuned, width):
                    self.measure(finetuned, width, finetune(pruned, self.data.train, **training))


def first_of(split: Any, family: Any) -> dict[str, torch.Tensor]:
    """The first sample of a split as a batch, as the networks of a family take it."""
    return family.inputs_of({name: torch.as_tensor(value)[None] for name, value in split[0].items()})


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(RECIPE), help="default: the whole ResNet-20 on CIFAR-10")
    parser.add_argument("--data", help="Hub id or folder; default: the recipe's data set")
    parser.add_argument("--parts", help="default: all those above that the recipe's task has")
    parser.add_argument("--alone", default=ALONE, help="widths of networks trained alone; default: %(default)s")
    parser.add_argument("--widths", default=UNIFORM, help="widths of the family; default: %(default)s")
    parser.add_argument("--depths", default=DEPTHS, help="ratios of blocks of part depth; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--shapes", type=int, default=3, help="of networks with random widths; default: %(default)s")
    parser.add_argument("--inr-epochs", type=int, metavar="EPOCHS", help="of the parts inr...; default: the recipe's")
    parser.add_argument("--finetune", type=int, default=0, metavar="EPOCHS", help="of pruned networks; default: none")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="default: %(default)s")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", help="folder of the work; default: outputs/whole_network/ and the recipe's name")
    parser.add_argument("--output", help="PREFIX of the files; default: the name of the folder of the work")
    return parser


def choose_parts(asked: str | None, task: str) -> list[str]:
    """The parts to do.

    Args:
        asked: Names with commas between them. None: all but the ablations that the task has.
        task: Of the recipe.

    Returns:
        Their names.

    Raises:
        RecipeError: There is no such part, or the task has none of the kind.
    """
    is_classifier = task == "image-classification"
    if asked is None:
        return [part for part in DEFAULT_PARTS if is_classifier or part not in OF_CLASSIFIERS]
    chosen, known = asked.split(","), dict.fromkeys((*DEFAULT_PARTS, "orders", "depth", *FAMILIES))
    if unknown := [part for part in chosen if part not in known]:
        raise RecipeError(f"--parts {unknown[0]}: there is {', '.join(known)}.")
    if not is_classifier and (refused := [part for part in chosen if part in OF_CLASSIFIERS]):
        raise RecipeError(f"--parts {','.join(refused)}: of classifiers alone, and the recipe is of {task}. Drop it.")
    return chosen


def main() -> int:
    """Run the parts, print, write."""
    parser = build_parser()
    arguments = parser.parse_args()
    if arguments.runs is None:  # one folder a recipe: what is found there is taken for this recipe's
        arguments.runs = str(Path("outputs") / "whole_network" / Path(arguments.recipe).stem)
    try:  # before anything is loaded or trained
        chosen = choose_parts(arguments.parts, task_of(recipe_of(arguments)).name)
    except NeuMetaError as error:
        parser.error(str(error))
    setup_logging()
    benchmark = Benchmark(arguments)
    score = benchmark.score
    for part in chosen:
        if part in FAMILIES:
            benchmark.family(part)
        else:
            getattr(benchmark, part)()
    table = Table("method", "seed", "width", score.label, "parameters", "MACs")
    for row in benchmark.rows:
        width = row["width"] if isinstance(row["width"], float) else " ".join(f"{v:g}" for v in row["width"].values())
        cells = (score.format(row[score.name]), f"{row['num_parameters']:,}", f"{row['macs']:,}")
        table.add_row(row["method"], str(row["seed"]), str(width), *cells)
    Console().print(table)
    print(json.dumps(summarize(benchmark.rows, score), indent=1))
    prefix = Path(arguments.output or arguments.runs)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    recipe = benchmark.recipe().to_dict()
    recipe["data"]["dataset"] = Path(recipe["data"]["dataset"]).name
    if checkpoint := recipe["target"]["checkpoint"]:
        recipe["target"]["checkpoint"] = shorten_paths(checkpoint)
    facts = {
        **environment_facts(),
        "seed": arguments.seed,
        "dataset": recipe["data"]["dataset"],
        "split": arguments.split,
        "task": benchmark.task.name,
        "score": score.to_dict(),
        "recipe": recipe,
    }
    suffix = f"-seed{arguments.seed}"
    trained = {
        path.parent.name.removesuffix(suffix): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(benchmark.runs.glob(f"*{suffix}/training.json"))
    }
    if family := trained.get("family"):
        facts |= {name: family[name] for name in ("num_parameters", "mixed_precision") if name in family}
    facts["hypernetwork_parameters"] = {
        name: run["num_parameters"]["hypernetwork"]
        for name, run in trained.items()
        if "hypernetwork" in run.get("num_parameters", {})
    }
    # Of training steps, interruptions left out.
    facts["seconds"] = {name: round(sum(run["seconds"].values()), 1) for name, run in trained.items()}
    facts["trained_on"] = {name: run["environment"]["device"] for name, run in trained.items()}
    with write_beside(prefix.with_name(prefix.name + ".json")) as beside:
        result = {"facts": facts, "summary": summarize(benchmark.rows, score), "rows": benchmark.rows}
        beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with write_beside(prefix.with_name(prefix.name + ".png")) as beside:
        plot(benchmark.rows, score, beside, split=arguments.split)
    return 0


if __name__ == "__main__":
    sys.exit(main())
