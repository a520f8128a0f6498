"""Speed and memory, as ratios measured side by side in one run.

    python examples/benchmarks/speed.py --output docs/results/speed

Writes PREFIX.json and PREFIX.png and prints a table. Ratios:

- generation: the whole stock ResNet-18 (11.7 M weights) from the paper's INR, against the bare matrix products that a
  row-per-weight implementation of that INR contains; and the peak memory of the process that generates;
- training step: the last-block preset of CIFAR-10 ResNet-20 against the plain step of the same network and batch;
- whole step at a width: the whole ResNet-20 from the grid of the whole-network recipe, BatchNorm kept, at one width,
  against the plain step of the network of that width;
- whole recipe's step: that of cifar10_resnet20_whole.yaml, which runs five sizes and the teacher, against the plain
  steps of networks of widths 1.0, 0.75, 0.5 and 0.25 one after the other; these have 18 epochs and the family 12,
  which makes the family's training as long as theirs at 1.5;
- morph: the forward pass of a morphed ResNet-18 of width 0.5 against the same architecture built natively;

the same training in multiply-accumulates, all of its epochs against all of theirs; and the seconds that the grid takes
to generate the stock ResNet-18 at width 0.5.

With `--against REVISION` it measures that commit and the newest one here instead, in turns (see before_after.py), and
writes PREFIX.json and PREFIX.png.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoModelForImageClassification, ResNetConfig

from neumeta_hf import NeuMetaForImageClassification, find_target, load_recipe
from neumeta_hf.evaluation import count_macs, environment_facts
from neumeta_hf.files import write_beside
from neumeta_hf.targets import cifar_resnet20, config_of, resize
from neumeta_hf.training import CpuConvolutions, choose_precision, make_sampler, to_channels_last
from neumeta_hf.training.objectives import NeuMetaObjective, ReferenceObjective
from neumeta_hf.training.recipe import LossesRecipe
from neumeta_hf.training.sampling import Draw, SizeSampler

INR = {
    "type": "inr",
    **{"hidden_size": 256, "num_hidden_layers": 4, "num_frequencies": 16},
    **{"encode_sizes": True, "centered": False, "output": "channels"},  # the paper's, literally
}
ENCODING = 6 * (2 * 16 + 1)
GRID = {"type": "grid", "positions": "absolute", "levels": 3}
LIMITS = {
    "generation": 2.0,
    "training step": 1.5,
    "whole step at 1.0": 1.3,
    "whole step at 0.5": 1.3,
    "whole recipe's step": 1.5,
    "morph": 1.1,
}
GRID_LIMIT = 0.3
MACS_LIMIT = 1.0
WHOLE_RECIPE = Path(__file__).parent.parent / "recipes" / "cifar10_resnet20_whole.yaml"
ALONE = (1.0, 0.75, 0.5, 0.25)
PRECISION = choose_precision("auto", torch.device("cpu"))


def resnet18() -> ResNetConfig:
    """The stock configuration with 1000 classes."""
    return ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=1000
    )


def side_by_side(functions: dict[str, Callable[[], object]], *, repeats: int) -> dict[str, float]:
    """Median seconds of each function, taken in turns so that a busy moment hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def build_family(hypernetwork: dict = INR, normalization: str = "fuse") -> NeuMetaForImageClassification:
    """ResNet-18 with every parameter generated, by default by the paper's INR with BatchNorm fused."""
    config = resnet18()
    reference = find_target(config).build(config)
    return NeuMetaForImageClassification.from_reference(
        reference, hypernetwork=hypernetwork, normalization=normalization, trained_widths=[0.25, 1.0]
    )


def measure_memory(queue: multiprocessing.Queue) -> None:
    """Peak resident memory, in GB, of a process that loads the libraries and the family, then generates it once."""
    with torch.no_grad():
        build_family().generate()
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def measure_generation(repeats: int) -> dict[str, float]:
    """Generation against its bare matrix products, float32."""
    family = build_family()
    coordinates = family.coordinates_at(family.config.target_config)
    rows = sum(tensor.num_out * tensor.num_in for tensor in coordinates.values())
    chunk = 16384
    encoded, hidden = torch.randn(chunk, ENCODING), torch.randn(chunk, 256)
    first, inner, last = torch.randn(256, ENCODING), torch.randn(256, 256), torch.randn(49, 256)

    def bare_products() -> None:
        for start in range(0, rows, chunk):
            size = min(chunk, rows - start)
            F.linear(encoded[:size], first)
            for _ in range(3):
                F.linear(hidden[:size], inner)
            F.linear(hidden[:size], last)

    with torch.no_grad():
        return {"rows": rows, **side_by_side({"ours": family.generate, "baseline": bare_products}, repeats=repeats)}


def measure_training_step(repeats: int) -> dict[str, float]:
    """One step of the last-block preset against one plain step: ResNet-20, batch 128, channels last."""
    config = cifar_resnet20(10)
    config.batch_norm = False
    family = find_target(config)
    reference = family.build(config)
    model = NeuMetaForImageClassification.from_reference(
        reference, hypernetwork={**INR, "num_hidden_layers": 5}, generated=["layer3.2"], trained_widths=[0.5, 1.0]
    )
    sampler = SizeSampler([0.5, 0.75, 1.0], sampler="uniform", num_random=1, seed=0)
    ours = NeuMetaObjective(model, reference, losses=LossesRecipe(), sampler=sampler, seed=0)
    plain_config = cifar_resnet20(10)
    plain = ReferenceObjective(family.build(plain_config).to(memory_format=torch.channels_last))  # pyright: ignore
    return compare_steps(ours, [plain], repeats)


def measure_whole_step(width: float, repeats: int) -> dict[str, float]:
    """One step of the whole-network grid at one width against the plain step of that network."""
    ours, plain = whole_objectives(width)
    return compare_steps(ours, [plain], repeats)


def whole_objectives(width: float) -> tuple[NeuMetaObjective, ReferenceObjective]:
    """The losses of the whole-network grid at one width, and of the plain network of that width."""
    model, reference = build_whole_network()
    sampler = SizeSampler([width], sampler="uniform", num_random=1, seed=0)
    losses = LossesRecipe(task=1.0, reconstruction=0.0, regularization=0.0)
    ours = NeuMetaObjective(model, reference, losses=losses, sampler=sampler, seed=0)
    return ours, plain_objective(reference, width)


def whole_steppers(width: float) -> dict[str, Callable[[], None]]:
    """A step of each of `whole_objectives`, as functions."""
    ours, plain = whole_objectives(width)
    stepper = make_stepper()
    return {"ours": stepper(ours), "plain": stepper(plain)}


def measure_recipe_step(repeats: int) -> dict[str, float]:
    """One step of the whole-network recipe against one of each network of the benchmark, trained alone."""
    recipe = load_recipe(WHOLE_RECIPE)
    model, reference = build_whole_network()
    sampler = make_sampler(recipe, model)
    ours = NeuMetaObjective(model, reference, losses=recipe.losses, sampler=sampler, seed=0)
    plain = [plain_objective(reference, width) for width in ALONE]
    return compare_steps(ours, plain, repeats, steps=len(sampler.turns) or 1)


def count_recipe_macs(num_steps: int = 200) -> dict[str, float]:
    """Multiply-accumulates per image of the whole-network recipe's training, and of the networks' trained alone.

    A size that is trained counts three times, for its forward pass and the two products of its backward pass, and the
    teacher once. What generating takes is thousands of times less than a batch of images.

    Args:
        num_steps: Over which the recipe's random sizes are averaged.
    """
    recipe = load_recipe(WHOLE_RECIPE)
    assert recipe.pretrain is not None
    assert recipe.train is not None
    model, reference = build_whole_network()
    sampler = make_sampler(recipe, model)
    family, image = model.target_family, torch.zeros(1, 3, 32, 32)

    counted: dict[str, int] = {}

    def macs_at(size: Draw) -> int:
        key = str(size)
        if key not in counted:
            counted[key] = count_macs(family.build(model.target_config_at(size)), image, family=family)
        return counted[key]

    teacher = macs_at(1.0) if recipe.losses.distillation else 0
    steps = [3 * sum(map(macs_at, sampler.draw(step))) + teacher for step in range(num_steps)]
    ours = statistics.mean(steps) * recipe.train.epochs
    alone = sum(3 * macs_at(width) for width in ALONE) * recipe.pretrain.epochs
    return {"ours": ours, "baseline": alone, "ratio": ours / alone}


def build_whole_network() -> tuple[NeuMetaForImageClassification, nn.Module]:
    """The family of the whole-network recipe before training, and its reference."""
    config = cifar_resnet20(10)
    config.shortcut = "projection"
    reference = find_target(config).build(config)
    model = NeuMetaForImageClassification.from_reference(
        reference, hypernetwork=GRID, normalization="keep", coordinate_noise=0.0, trained_widths=[0.25, 1.0]
    )
    return model.train(), reference


def plain_objective(reference: nn.Module, width: float) -> ReferenceObjective:
    """The loss of a network of some width, built natively."""
    config = config_of(reference)
    return ReferenceObjective(find_target(config).build(resize(config, width)).train())


def measure_grid_generation(repeats: int) -> float:
    """Seconds to generate ResNet-18 at width 0.5 from the grid."""
    family = build_family(GRID, "keep")
    with torch.no_grad():
        return side_by_side({"ours": lambda: family.generate(0.5)}, repeats=repeats * 3)["ours"]


def make_stepper() -> Callable[[nn.Module], Callable[[], None]]:
    """What makes the training step of an objective, AdamW included; all count the same steps and see one batch."""
    images = to_channels_last(torch.randn(128, 3, 32, 32))
    labels = torch.randint(0, 10, (128,))
    step = 0

    def stepper(objective: nn.Module) -> Callable[[], None]:
        trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

        def take() -> None:
            nonlocal step
            step += 1
            with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION == "bf16"), CpuConvolutions():
                loss = objective(pixel_values=images, labels=labels, step=step)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return take

    return stepper


def compare_steps(ours: nn.Module, plain: Sequence[nn.Module], repeats: int, *, steps: int = 1) -> dict[str, float]:
    """A step of ours against one of each plain objective.

    AdamW is included; batch 128 at 32 pixels, channels last, in the precision that recipes choose.

    Args:
        ours: Has sizes that follow from the number of the step.
        plain: Networks of one size.
        repeats: A third of how often all are timed.
        steps: How many are timed together, where they differ in turn.
    """
    stepper = make_stepper()
    steppers = [stepper(objective) for objective in plain]

    def take_all(takes: list[Callable[[], None]]) -> None:
        for take in takes * steps:
            take()

    own = [stepper(ours)]
    timed = {"ours": lambda: take_all(own), "baseline": lambda: take_all(steppers)}
    seconds = side_by_side(timed, repeats=repeats * 3)
    return {name: value / steps for name, value in seconds.items()}


def measure_morph(repeats: int) -> dict[str, float]:
    """Forward pass of a morph against the same architecture built natively, batch 8 at 224 pixels."""
    morph = build_family().morph(0.5)
    native = AutoModelForImageClassification.from_config(morph.config).eval()
    images = torch.randn(8, 3, 224, 224)
    with torch.inference_mode():
        return side_by_side({"ours": lambda: morph(images), "baseline": lambda: native(images)}, repeats=repeats * 3)


def plot(results: dict[str, dict], path: Path) -> None:
    """Ratios as bars, with their limits."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(results)
    bars = axes.barh(names, [results[name]["ratio"] for name in names], color="#1f5fa8", height=0.5)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    for index, name in enumerate(names):
        axes.plot([LIMITS[name]] * 2, [index - 0.35, index + 0.35], color="#c0392b")
    axes.invert_yaxis()
    axes.set_xlim(0, 2.5)
    axes.set_xlabel("time relative to the baseline (red: limit)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)


def plot_commits(measured: dict[str, dict], path: Path) -> None:
    """What each thing takes after, relative to before, as bars."""
    figure = Figure(figsize=(6, 2.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bars = axes.barh(list(measured), [values["after/before"] for values in measured.values()], color="#1f5fa8")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1, color="#555555", linestyle="--", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("time relative to the commit before")
    figure.savefig(path, dpi=150, format="png")


def compare_commits(revision: str, path: Path) -> int:
    """Measure another commit and the newest one here; print and write what each took."""
    from before_after import compare  # beside this script, which others load by its path

    compared = compare(revision)
    result = {"facts": {**environment_facts(), "seed": 0, "mixed_precision": PRECISION}, **compared}
    table = Table("what", "before (s)", "after (s)", "after/before", "ours/plain before, after")
    for name, values in compared["measured"].items():
        seconds, ratios = values["seconds"], values.get("ours/plain", {})
        table.add_row(
            name,
            *(f"{seconds[which]['ours']:.4f}" for which in ("before", "after")),
            f"{values['after/before']:.2f}",
            ", ".join(f"{ratio:.2f}" for ratio in ratios.values()),
        )
    Console().print(table)
    with write_beside(path) as beside:
        beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with write_beside(path.with_suffix(".png")) as beside:
        plot_commits(compared["measured"], beside)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="outputs/speed", help="PREFIX of the files; default: %(default)s")
    parser.add_argument(
        "--against", metavar="REVISION", help="measure this commit and the newest one here, HEAD, in turns"
    )
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    return parser


def main() -> int:
    """Run, print, write."""
    arguments = build_parser().parse_args()
    prefix = Path(arguments.output)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    if arguments.against:
        return compare_commits(arguments.against, prefix.with_name(prefix.name + ".json"))
    torch.manual_seed(0)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure_memory, args=(queue,))
    process.start()
    peak = queue.get()
    process.join()
    measured = {
        "generation": measure_generation(arguments.repeats),
        "training step": measure_training_step(arguments.repeats),
        "whole step at 1.0": measure_whole_step(1.0, arguments.repeats),
        "whole step at 0.5": measure_whole_step(0.5, arguments.repeats),
        "whole recipe's step": measure_recipe_step(arguments.repeats),
        "morph": measure_morph(arguments.repeats),
    }
    table = Table("what", "ours (s)", "baseline (s)", "ratio", "limit")
    for name, values in measured.items():
        values["ratio"] = values["ours"] / values["baseline"]
        values["limit"] = LIMITS[name]
        table.add_row(
            name, f"{values['ours']:.3f}", f"{values['baseline']:.3f}", f"{values['ratio']:.2f}", f"{LIMITS[name]}"
        )
    Console().print(table)
    print(f"peak memory of generating ResNet-18: {peak:.2f} GB (limit 1.5)")
    macs = count_recipe_macs()
    print(
        f"the whole recipe's training takes {macs['ratio']:.2f} of the multiply-accumulates of the four networks' "
        f"({macs['ours']:.3g} and {macs['baseline']:.3g} per image; limit {MACS_LIMIT})"
    )
    grid_seconds = measure_grid_generation(arguments.repeats)
    print(f"the grid generates ResNet-18 at width 0.5 in {grid_seconds:.3f} s (limit {GRID_LIMIT})")
    result = {
        "facts": {**environment_facts(), "seed": 0, "repeats": arguments.repeats, "mixed_precision": PRECISION},
        "peak_memory_gb": peak,
        "peak_memory_limit_gb": 1.5,
        "grid_generation_s": grid_seconds,
        "grid_generation_limit_s": GRID_LIMIT,
        "recipe_macs": {**macs, "limit": MACS_LIMIT},
        "ratios": measured,
    }
    with write_beside(prefix.with_name(prefix.name + ".json")) as beside:
        beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with write_beside(prefix.with_name(prefix.name + ".png")) as beside:
        plot(measured, beside)
    return 0


if __name__ == "__main__":
    sys.exit(main())
