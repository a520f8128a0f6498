"""What a family's networks make of the same few images or texts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from neumeta_hf.batches import move_batch
from neumeta_hf.errors import DataError
from neumeta_hf.family_sizes import ignore_size_warnings
from neumeta_hf.files import write_beside
from neumeta_hf.image_batches import ImageBatches, NormalizedImages
from neumeta_hf.kinds import whole_number
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.tasks import Task, build_task
from neumeta_hf.widths import format_width

if TYPE_CHECKING:
    from neumeta_hf.data import Split


def draw_networks(
    model: NeuMetaModel,
    split: "Split",
    widths: Sequence[float | Mapping[str, float]],
    path: str | Path,
    *,
    reference: nn.Module | None = None,
    label_names: Sequence[str] | None = None,
    task: Task | None = None,
    num_images: int = 6,
    num_samples: int = 1,
    seed: int = 0,
    calibration: Iterable[Any] | None = None,
) -> None:
    """Draw predictions, segmentations, reconstructions or texts at several widths, side by side.

    Args:
        model: The family.
        split: Where the images or texts come from, evenly spaced.
        widths: Ratios, or ratios per width group.
        path: The PNG; replaced only when the new one is complete.
        reference: The network that the family was made from, which gets the first column; moved to the family's device.
        label_names: Names of the classes, in order. None: as the family's config names them.
        task: Draws. None: the family's.
        num_images: How many.
        num_samples: Noisy generations averaged per morph; 1 is exact.
        seed: Seed of that noise.
        calibration: Batches to measure BatchNorm statistics on, at every size, as `morph` takes them.

    Raises:
        SizeError: A width is impossible.
        CheckpointError: BatchNorm was kept, and there are neither statistics nor `calibration` for a width; or
            `calibration` is not of normalised images.
        DataError: The split is empty, `num_images` is no such number, or a class has no name.
    """
    if len(split) == 0:
        raise DataError(f"the {split.name} split is empty: there is nothing to draw.")
    if not whole_number(1).holds(num_images):
        raise DataError(f"num_images={num_images!r}: give a whole number from 1 up.")
    task = task or build_task(model.target_family.task)
    chosen = np.unique(np.linspace(0, len(split) - 1, num_images).round().astype(int))
    batch = move_batch(split.__getitems__(chosen.tolist()), model.device)
    batches = None if calibration is None else NormalizedImages(ImageBatches(calibration))
    networks: dict[str, Any] = {}
    if reference is not None:
        networks["reference"] = reference.to(model.device).eval()
    for width in widths:
        with ignore_size_warnings():
            network = model.morph(width, num_samples=num_samples, seed=seed, calibration=batches)
        networks[f"width {format_width(width)}"] = network
    if label_names is None:
        names: Any = model.config.id2label
        label_names = [names[label] for label in sorted(names)]
    figure = task.draw(model.target_family, networks, batch, split.shown(batch), label_names)
    with write_beside(path) as beside:
        figure.savefig(beside, dpi=150, format="png")
