"""Sizes and images that BatchNorm statistics are measured at and on."""

import logging

import numpy as np
import torch
from torch import Tensor

from neumeta_hf.data import ImageSplit
from neumeta_hf.evaluation import parse_widths
from neumeta_hf.evaluation.budget import uniform_widths
from neumeta_hf.image_batches import NormalizedImages
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.progress import progress_bar
from neumeta_hf.training.recipe import Recipe
from neumeta_hf.training.sampling import make_sampler, training_widths
from neumeta_hf.training.synthesis import statistics_distance, synthesize_images

logger = logging.getLogger(__name__)


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


def statistics_widths(recipe: Recipe, model: NeuMetaModel) -> list[float]:
    """The uniform widths whose statistics a checkpoint stores.

    Args:
        recipe: The run.
        model: Its family.

    Returns:
        Ratios; one for each network that a uniform width gives where the recipe says "all".
    """
    widths = recipe.statistics_widths
    if widths == "all":
        # Several widths round to one network; the last is the exact one where there is any.
        by_size = {}
        for width in uniform_widths(model):
            by_size[tuple(model.target_family.num_channels(model.target_config_at(width)).values())] = width
        return list(by_size.values())
    return parse_widths(widths) if isinstance(widths, str) else widths or training_widths(recipe)


def calibration_images(recipe: Recipe, model: NeuMetaModel, batches: list[Tensor]) -> Tensor:
    """Synthesise images for the networks of many sizes, whose statistics are measured on real ones first.

    Args:
        recipe: The run.
        model: Its family.
        batches: Real images, as training saw them.

    Returns:
        Normalised images, `[images, channels, height, width]`.
    """
    calibration = recipe.calibration
    num_per_group = calibration.networks - 2
    sampler = make_sampler(recipe, model, sampler="sandwich", num_random=0, num_per_group=num_per_group)
    sizes = progress_bar(sampler.draw(0), description="calibration networks", unit=" sizes")
    networks = [model.morph(size, calibration=batches) for size in sizes]
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
