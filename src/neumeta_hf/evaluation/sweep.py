"""Scores against size: measure a family at many widths, as a table, as files, and as a picture."""

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from neumeta_hf.batches import Batch
from neumeta_hf.configuration_neumeta import check_sampling
from neumeta_hf.errors import RecipeError, SizeError
from neumeta_hf.evaluation.cost import count_macs, count_parameters
from neumeta_hf.evaluation.environment import environment_facts
from neumeta_hf.evaluation.network import evaluate_network, make_evaluation_loader
from neumeta_hf.evaluation.plots import plot_sweep, size_kind
from neumeta_hf.family_sizes import ignore_size_warnings
from neumeta_hf.files import write_beside
from neumeta_hf.image_batches import ImageBatches, NormalizedImages
from neumeta_hf.kinds import MAX_ROWS
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.printable import printable
from neumeta_hf.progress import progress_bar
from neumeta_hf.scores import ROW_KEYS
from neumeta_hf.targets import TargetFamily, config_of, find_target
from neumeta_hf.tasks import Task, build_task
from neumeta_hf.widths import format_size, format_width

if TYPE_CHECKING:
    from rich.table import Table

    from neumeta_hf.data import Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One size.

    Attributes:
        width: The ratio, or a ratio per width group; None of a network that is of no family.
        depth: Ratio of blocks.
        scores: Scores of the task by name, ratios as ratios.
        num_parameters: Number of parameters of the whole network.
        macs: Multiply-accumulates of the whole network for one image.
        compression_rate: 1 minus the share of the full-size network's parameters that is left; of the whole network.
        trained: Whether training drew this very network: it has the channels of a uniform trained width, and the blocks
            of a trained depth.
        in_range: Whether every width group lies between the smallest and the largest that training drew.
    """

    width: float | Mapping[str, float] | None
    scores: Mapping[str, float]
    num_parameters: int
    macs: int
    compression_rate: float
    trained: bool
    in_range: bool
    depth: float = 1.0

    @property
    def kind(self) -> str:
        """What the size was to training: see `size_kind`; "" of a network that is of no family."""
        if self.width is None:
            return ""
        return size_kind(trained=self.trained, in_range=self.in_range)


@dataclasses.dataclass(kw_only=True)
class Sweep:
    """A family at many sizes.

    Attributes:
        rows: One per size, in the order asked for.
        reference: The network that the family was made from, if it was given.
        facts: Where, when and on what it was measured.
    """

    rows: list[SweepRow]
    reference: SweepRow | None
    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Facts, reference and rows as plain values; a score that is not finite becomes None, which JSON can hold."""
        return {
            "facts": self.facts,
            "reference": _plain(self.reference) if self.reference else None,
            "rows": self._plain_rows(),
        }

    def _plain_rows(self) -> list[dict[str, Any]]:
        """The rows as plain values; they name their depth where one of them has another than 1."""
        has_depths = any(row.depth != 1 for row in self.rows)
        return [_plain(row, with_depth=has_depths) for row in self.rows]

    def save_json(self, path: str | Path) -> None:
        """Write `to_dict()`.

        Args:
            path: The file; replaced only when the new one is complete.

        Raises:
            OSError: The folder does not exist or cannot be written to.
        """
        with write_beside(path) as beside:
            beside.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def save_csv(self, path: str | Path) -> None:
        """Write one line per size; a width per group is written as the command takes it: "stage2=0.5,stage3=0.25".

        Args:
            path: The file; replaced only when the new one is complete.

        Raises:
            OSError: The folder does not exist or cannot be written to.
        """
        lines = [{**row, "width": format_width(row["width"], exact=True)} for row in self._plain_rows()]
        with write_beside(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)

    def plot(self, path: str | Path) -> None:
        """Draw the task's first score against parameters.

        Args:
            path: The PNG; replaced only when the new one is complete.

        Raises:
            OSError: The folder does not exist or cannot be written to.
        """
        with write_beside(path) as beside:
            plot_sweep(self.to_dict(), beside)

    def tables(self, width: int = 80) -> "list[Table]":
        """Lay out the rows for a terminal, the reference first.

        Args:
            width: Width of the terminal, in characters; what has no room beside the rest goes into a table below.

        Returns:
            Tables of rich.
        """
        from neumeta_hf.tables import Column, break_at_commas, build_tables

        names = [str(self.facts[key]) for key in ("checkpoint", "dataset", "split") if key in self.facts]
        rows = [*([self.reference] if self.reference else []), *self.rows]
        sizes = [break_at_commas(printable(format_size(row.width, row.depth))) for row in rows]
        if self.reference:
            sizes[0] = "reference"
        kinds = ["" if row is self.reference else row.kind for row in rows]
        columns = [
            Column(name="width", cells=sizes),
            *(
                Column(name=score.label, cells=[score.format(row.scores[score.name]) for row in rows])
                for score in build_task(self.facts["task"]).scores
            ),
            Column(name="parameters", cells=[f"{row.num_parameters:,}" for row in rows]),
            Column(name="MACs", cells=[f"{row.macs:,}" for row in rows]),
            Column(name="compression", cells=[f"{row.compression_rate:.1%}" for row in rows]),
            Column(name="size", cells=kinds, is_text=True),
        ]
        return build_tables(columns, width=width, title=", ".join(names), sections=[0] if self.reference else [])


def _plain(row: SweepRow, *, with_depth: bool = False) -> dict[str, Any]:
    values = dataclasses.asdict(row)
    width, depth, scores = (values.pop(name) for name in ("width", "depth", "scores"))
    finite = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    return {"width": width, **({"depth": depth} if with_depth else {}), **finite, **values}


def _check_sizes(widths: Sequence[float | Mapping[str, float]], depths: Sequence[float]) -> None:
    if not 1 <= len(widths) <= MAX_ROWS:
        given = f"has {len(widths):,} ratios" if widths else "is empty"
        raise SizeError(f"widths {given}: give at least one, such as [0.25, 0.5, 1.0], and at most {MAX_ROWS:,}.")
    seen = set()
    for width in widths:
        key = frozenset(width.items()) if isinstance(width, Mapping) else width
        if key in seen:
            raise SizeError(f"widths names {format_width(width)} twice: a sweep measures each size once.")
        seen.add(key)
    if not depths or len(set(depths)) < len(depths) or len(widths) * len(depths) > MAX_ROWS:
        raise SizeError(
            f"depths={list(depths)[:5]}: give at least one, each once, such as [0.67, 1.0], and at most {MAX_ROWS:,} "
            "sizes in all."
        )


def sweep(
    model: NeuMetaModel,
    split: "Split",
    widths: Sequence[float | Mapping[str, float]],
    *,
    depths: Sequence[float] = (1.0,),
    task: Task | None = None,
    reference: nn.Module | None = None,
    num_samples: int = 1,
    seed: int = 0,
    calibration: Iterable[Any] | None = None,
    batch_size: int | None = None,
    num_workers: int = 0,
    progress: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> Sweep:
    """Morph a family to each width and measure it.

    Args:
        model: The family.
        split: What is measured on.
        widths: Ratios, or ratios per width group.
        depths: Ratios of blocks; every width is measured at each of them.
        task: What networks are measured by. None: the family's, with default options.
        reference: The network that the family was made from, measured too; moved to the family's device.
        num_samples: Noisy generations averaged per morph; 1 is exact.
        seed: Seed of that noise.
        calibration: Batches to measure BatchNorm statistics on, at every size, as `morph` takes them.
        batch_size: Rows per forward pass. None: as `evaluate_network` has it.
        num_workers: Processes that load data.
        progress: Whether to show a progress bar.
        facts: Kept with the result, beside the environment's.

    Returns:
        The sweep.

    Raises:
        SizeError: A width or depth is impossible or named twice, or there is none, or more than 10,000; or
            `num_samples` or `seed` is out of range.
        CheckpointError: BatchNorm was kept, and there are neither statistics nor `calibration` for a width; or
            `calibration` is not of normalised images.
        DataError: The split is empty.
        RecipeError: A score of the task has the name of something else in a row.
    """
    _check_sizes(widths, depths)
    check_sampling(num_samples=num_samples, seed=seed)
    config, family = model.config, model.target_family
    task = task or build_task(family.task)
    if shadowed := [score.name for score in task.scores if score.name in ROW_KEYS]:
        raise RecipeError(
            f"the task {task.name} has a score named {shadowed[0]!r}, which is already the name of another column: "
            "rename the score."
        )
    full_config: Any = config.target_config
    example = model.target_family.example_batch(full_config, batch_size=1)
    full_size = count_parameters(model.skeleton_at(model.space.full))
    # Read and checked once, before anything is measured.
    batches = None if calibration is None else NormalizedImages(ImageBatches(calibration))

    # Two widths that round to the same size are one network: one that was trained, if either was.
    trained_sizes = {
        model.size_at(width, depth=depth) for width in config.trained_widths for depth in config.trained_depths
    }
    asked = [(width, depth) for depth in depths for width in widths]
    # Before all else: an impossible size must not cost the sweep before it.
    sizes = [model.size_at(width, depth=depth) for width, depth in asked]

    # One for all sizes: its processes are started once.
    loader = make_evaluation_loader(split, batch_size=batch_size, num_workers=num_workers, device=model.device)

    def measure(network: nn.Module, width: Any, **known: Any) -> SweepRow:
        row = _measure(network, split, task, family, example, device=model.device, loader=loader)
        rate = 1 - row.num_parameters / full_size
        return dataclasses.replace(row, width=width, compression_rate=rate, **known)

    # First, so that a reference that does not fit the data says so before the long part.
    measured = measure(reference, 1.0, trained=False, in_range=True) if reference is not None else None
    rows, origins = [], []
    with progress_bar(asked, description="sweep", unit=" sizes", shown=progress) as bar:
        for (width, depth), size in zip(bar, sizes, strict=True):
            with ignore_size_warnings():  # the row says it
                network = model.morph(width, depth=depth, num_samples=num_samples, seed=seed, calibration=batches)
            origins.append(network.morph_origin)
            is_trained, in_range = size in trained_sizes, model.is_in_trained_range(size)
            row = measure(network, width, depth=depth, trained=is_trained, in_range=in_range)
            first = task.scores[0]
            bar.set_postfix({"width": format_size(width, depth), first.label: first.format(row.scores[first.name])})
            rows.append(row)
    origin = origins[0]  # all were made alike
    sampling = {
        "task": task.name,
        "score": task.scores[0].to_dict(),
        "num_samples": num_samples,
        "noise": origin.noise,
        "seed": seed,
        "calibrated": origin.calibrated,
        "num_images": len(split),
    }
    return Sweep(rows=rows, reference=measured, facts={**environment_facts(model.device), **sampling, **(facts or {})})


def measure_network(
    network: nn.Module,
    split: "Split",
    *,
    task: Task | None = None,
    batch_size: int | None = None,
    num_workers: int = 0,
    progress: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> Sweep:
    """Measure a plain network as `sweep` measures the sizes of a family.

    Args:
        network: A network of a registered target family.
        split: What is measured on.
        task: What it is measured by. None: its family's, with default options.
        batch_size: Rows per forward pass. None: as `evaluate_network` has it.
        num_workers: Processes that load data.
        progress: Whether to show a progress bar.
        facts: Kept with the result, beside the environment's.

    Returns:
        A sweep of one row, whose width is None.

    Raises:
        DataError: The split is empty, or holds what the network does not know.
        TargetError: No target family has such a network.
    """
    config = config_of(network)
    family = find_target(config)
    task = task or build_task(family.task)
    example = family.example_batch(config, batch_size=1)
    options = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
    row = _measure(network, split, task, family, example, **options)
    measured = {"task": task.name, "score": task.scores[0].to_dict(), "num_images": len(split)}
    device = next(network.parameters()).device
    return Sweep(rows=[row], reference=None, facts={**environment_facts(device), **measured, **(facts or {})})


def _measure(
    network: nn.Module, split: "Split", task: Task, family: TargetFamily, example: Batch, **options: Any
) -> SweepRow:
    scores = evaluate_network(network, split, task=task, family=family, **options)
    return SweepRow(
        width=None,
        scores={name: value for name, value in scores.items() if name != "num_samples"},
        num_parameters=count_parameters(network),
        macs=count_macs(network, example, family=family),
        compression_rate=0.0,
        trained=False,
        in_range=True,
    )
