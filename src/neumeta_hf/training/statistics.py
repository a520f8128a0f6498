"""Sizes and images that BatchNorm statistics are measured at and on."""

import dataclasses
import itertools
import logging
import math
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from neumeta_hf.configuration_neumeta import MAX_STATISTICS
from neumeta_hf.data import ImageSplit, ImageStream, Split, StreamSplit
from neumeta_hf.errors import DataError, RecipeError
from neumeta_hf.evaluation import parse_widths
from neumeta_hf.evaluation.budget import uniform_widths
from neumeta_hf.image_batches import NormalizedImages
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.progress import progress_bar
from neumeta_hf.stored_statistics import NEAR
from neumeta_hf.training.processes import on_main, share
from neumeta_hf.training.recipe import CalibrationRecipe, Recipe
from neumeta_hf.training.sampling import make_sampler, training_depths, training_widths
from neumeta_hf.training.synthesis import LIMIT, statistics_distance, synthesize_images

logger = logging.getLogger(__name__)

_MANY_WIDTHS = 17
"""Trained widths whose statistics are all stored unless the recipe says else."""

# Without being asked for, images are to cost no more than the training of a small network does; half of these steps
# cost nine points at sizes without statistics, and twice as many bring none (docs/results/calibration.json).
_AUTOMATIC = CalibrationRecipe(images=64, networks=8, steps=200)
_ASKED_FOR = CalibrationRecipe(networks=16, steps=400)
_AUTOMATIC_PIXELS = 64 * 64 * 64
_FEWEST_IMAGES = 8
_MEASURED_IMAGES = 512


def images_of(split: Split | StreamSplit, num_images: int) -> ImageSplit:
    """Take a split as one of images, which BatchNorm statistics and the static cache need.

    Args:
        split: The training split.
        num_images: How many are looked at.

    Returns:
        The same split; of a stream its first images.

    Raises:
        DataError: It is of something else.
    """
    if isinstance(split, ImageStream):
        return split.head(num_images)
    if not isinstance(split, ImageSplit):
        raise DataError(
            f"the {split.name} split has no images, but BatchNorm statistics are measured on images alone: fuse "
            "BatchNorm (preparation.normalization: fuse)."
        )
    return split


def calibration_batches(split: ImageSplit, num_images: int, *, batch_size: int = 256) -> NormalizedImages:
    """Images as training sees them in its first epoch, augmentation included, to measure BatchNorm statistics on.

    Args:
        split: The training split.
        num_images: How many; all of them where there are fewer.
        batch_size: Images per batch, at most; batches are of equal size, but for one image, since each counts alike.

    Returns:
        Normalised batches, `[batch, channels, height, width]`.
    """
    chosen = split.with_augmentation(True).subset(min(num_images, len(split)), seed=0)
    chosen.set_epoch(0)  # whatever epoch training is in, so that a resumed run measures on the same
    num_batches = -(-len(chosen) // batch_size)
    return NormalizedImages(
        chosen.__getitems__(part.tolist())["pixel_values"]
        for part in np.array_split(np.arange(len(chosen)), num_batches)
    )


def statistics_widths(recipe: Recipe, model: NeuMetaModel, *, has_images: bool = True) -> list[float]:
    """List the uniform widths whose statistics a checkpoint stores.

    Args:
        recipe: The run.
        model: Its family.
        has_images: Whether the checkpoint has images for other sizes, if the recipe leaves that open.

    Returns:
        Ratios; one for each network that a uniform width gives where the recipe says "all", and the trained ones where
        it says nothing. Of many trained ones those are left out that lie between two others which are near enough.
        Without images, others are put between those that are not near.
    """
    widths = recipe.statistics_widths
    if widths == "all":
        # Several widths round to one network; the last is the exact one where there is any.
        by_size = {}
        for width in uniform_widths(model):
            by_size[model.size_at(width)] = width
        return list(by_size.values())
    if widths is None:
        trained = training_widths(recipe)
        stored = trained if len(trained) <= _MANY_WIDTHS else _thinned(trained)
        return stored if has_images else _filled(stored)
    return parse_widths(widths, what="statistics_widths") if isinstance(widths, str) else widths


def _thinned(widths: list[float]) -> list[float]:
    """As few of ascending widths as leave each between two that are near, or as far apart as they were."""
    chosen = widths[:1]
    for width, following in itertools.pairwise([*widths[1:], math.inf]):
        if following > NEAR * chosen[-1]:
            chosen.append(width)
    return chosen


def _filled(widths: list[float]) -> list[float]:
    """Ascending widths, and as many between them as make all neighbours near."""
    filled = widths[:1]
    for low, high in itertools.pairwise(widths):
        steps = math.ceil(math.log(high / low) / math.log(NEAR) - 1e-9)
        filled += [low * (high / low) ** (step / steps) for step in range(1, steps)]
        filled.append(high)
    return filled


def resolve_calibration(recipe: Recipe, model: NeuMetaModel) -> CalibrationRecipe:
    """Say how many calibration images a run makes, and how.

    Args:
        recipe: The run.
        model: Its family.

    Returns:
        The recipe's section without anything left open. Where the recipe leaves the number open it is 0 if no size
        could need one: the family has no statistics, or one trained width alone.
    """
    asked = recipe.calibration
    defaults, images = (_AUTOMATIC, asked.images) if asked.images is None else (_ASKED_FOR, asked.images)
    if images is None:
        _, height, width = model.target_family.image_shape(model.reference_config)
        images = min(_AUTOMATIC.images or 0, max(_FEWEST_IMAGES, _AUTOMATIC_PIXELS // (height * width)))
        several = len(set(training_widths(recipe))) > 1 or len(set(training_depths(recipe))) > 1
        images = images if model.statistic_names and several else 0
    return dataclasses.replace(
        asked, images=images, networks=asked.networks or defaults.networks, steps=asked.steps or defaults.steps
    )


def draw_calibration_sizes(recipe: Recipe, model: NeuMetaModel) -> list[Any]:
    """Draw the sizes that calibration images are made for.

    Args:
        recipe: The run.
        model: Its family.

    Returns:
        The trained extremes, then sizes in which the width groups draw on their own.

    Raises:
        RecipeError: No such size is possible for the family.
    """
    networks = resolve_calibration(recipe, model).networks or 0
    sampler = make_sampler(recipe, model, sampler="sandwich", num_random=0, num_per_group=networks - 2)
    try:
        return sampler.draw(0)
    except RecipeError as error:
        raise RecipeError(
            "calibration.images: the family has no random size in which each width group has its own ratio. Set "
            "calibration.images: 0, or choose a narrower range of sizes.widths."
        ) from error


def store_statistics(recipe: Recipe, model: NeuMetaModel, split: ImageSplit, accelerator: Accelerator) -> None:
    """Measure the statistics of a family's BatchNorm, and make images for the sizes that have none.

    Args:
        recipe: The run.
        model: Its family; it then holds the statistics, and on the main process the images.
        split: The training split.
        accelerator: Accelerator of the run; its processes share the statistics, and all have to call this.

    Raises:
        RecipeError: There are more widths than a checkpoint stores, or no sizes to make images for.
        CheckpointError: The statistics of a network are not finite.
    """
    measured = None  # what images are made like, where the recipe leaves their number open
    if recipe.calibration.images is None and resolve_calibration(recipe, model).images:
        measured = calibration_batches(split, min(recipe.statistics_images, _MEASURED_IMAGES))
    reach = max(float(batch.abs().max()) for batch in measured) if measured is not None else 0.0
    has_images = reach <= LIMIT + 0.1
    widths = statistics_widths(recipe, model, has_images=has_images)
    if not has_images:
        logger.warning(
            "no calibration images are made: training images reach %.1f standard deviations from their mean, and "
            "stored ones 4 (data.mean, data.std). Sizes without statistics then need images of yours. Statistics are "
            "stored at %d widths%s.",
            reach,
            len(widths),
            "" if recipe.statistics_widths else ", near enough for every uniform one",
        )
    sizes = list(dict.fromkeys(itertools.product(widths, training_depths(recipe))))
    if len(sizes) > MAX_STATISTICS:
        raise RecipeError(
            f"statistics_widths at the depths of sizes.depths gives {len(sizes)} sizes: at most {MAX_STATISTICS} are "
            "stored. Give fewer."
        )
    batches = calibration_batches(split, recipe.statistics_images)
    logger.info(
        "statistics of BatchNorm: %d networks on %d images each (statistics_widths, statistics_images)",
        len(sizes),
        sum(map(len, batches)),
    )
    _measure_statistics(model, batches, sizes, accelerator)
    if has_images:
        on_main(accelerator, lambda: _store_images(recipe, model, batches if measured is None else measured))


def _measure_statistics(
    model: NeuMetaModel, batches: NormalizedImages, sizes: list[tuple[float, float]], accelerator: Accelerator
) -> None:
    """As `NeuMetaModel.calibrate`, each process some of the sizes."""

    def measure(mine: list[tuple[float, float]]) -> list[dict[str, Tensor]]:
        if not mine:
            return []
        shown = accelerator.is_local_main_process
        bar = progress_bar(mine, description="statistics", unit=" sizes", shown=shown)
        found = model.measure_statistics(batches, bar).values()
        return [{name: statistic.cpu() for name, statistic in statistics.items()} for statistics in found]

    measured = share(accelerator, sizes, measure)
    model.hold_statistics(
        {(float(width), float(depth)): of for (width, depth), of in zip(sizes, measured, strict=True)}
    )
    model.statistics.to(model.device)


def _store_images(recipe: Recipe, model: NeuMetaModel, batches: NormalizedImages) -> None:
    """Make calibration images where the recipe has some."""
    calibration = resolve_calibration(recipe, model)
    if not calibration.images:
        return
    logger.info(
        "calibration images, for the statistics of all other sizes: %d networks on %d images each, then %d steps of a "
        "batch of %d, about the work of training one network on %d images (calibration.images: 0 for none)",
        calibration.networks,
        sum(map(len, batches)),
        calibration.steps,
        calibration.images,
        (calibration.steps or 0) * calibration.images,
    )
    model.store_calibration_images(_calibration_images(recipe, model, calibration, batches))


def _calibration_images(
    recipe: Recipe, model: NeuMetaModel, calibration: CalibrationRecipe, batches: NormalizedImages
) -> Tensor:
    """Synthesise images for the networks of many sizes, whose statistics are measured on real ones first."""
    assert calibration.images is not None
    assert calibration.steps is not None
    sizes = draw_calibration_sizes(recipe, model)
    depths = make_sampler(recipe, model, sampler="sandwich", num_random=0).draw_depths(0, len(sizes))
    bar = progress_bar(sizes, description="calibration networks", unit=" sizes")
    networks = [model.morph(size, depth=depth, calibration=batches) for size, depth in zip(bar, depths, strict=True)]
    images = synthesize_images(
        networks,
        model.target_family.image_shape(model.reference_config),
        num_images=calibration.images,
        steps=calibration.steps,
        learning_rate=calibration.learning_rate,
        seed=recipe.seed,
        progress=progress_bar(range(calibration.steps), description="calibration images"),
    )
    with torch.no_grad():
        distance = statistics_distance(networks[-1], images).item()
    logger.info("calibration images: squared distance of the statistics %.4f at the last size", distance)
    return images
