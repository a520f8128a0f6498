"""What recipe and checkpoint both speak of: taken from the one that does, and an error where they disagree."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from neumeta_hf.data import DataConfig, Preprocessing
from neumeta_hf.data.classes import name_masks, stated_names
from neumeta_hf.data.preprocessor import MOST_PIXELS, stated_preprocessing
from neumeta_hf.errors import RecipeError, TargetError
from neumeta_hf.images import height_and_width
from neumeta_hf.targets import config_of, find_target
from neumeta_hf.tasks import build_task
from neumeta_hf.training.recipe import Recipe

logger = logging.getLogger(__name__)

_PREPROCESSING = [field.name for field in dataclasses.fields(Preprocessing)]


def resolve_recipe(recipe: Recipe, checkpoint: nn.Module | None) -> Recipe:
    """Fill in what the recipe leaves open: from its checkpoint where that says it, else the defaults.

    Args:
        recipe: The run.
        checkpoint: The network of `target.checkpoint`; None where the run starts from random weights.

    Returns:
        Another recipe, which says how images are made, and what masks without names show where the checkpoint does.

    Raises:
        RecipeError: Recipe and checkpoint disagree on how images are made.
        TargetError: The checkpoint's images are made in a way that a recipe has no words for, or have other channels.
        CheckpointError: What lies beside the checkpoint, or the names of its classes, is damaged.
        HubError: What lies beside the checkpoint cannot be read.
        DataError: The checkpoint names more classes than masks can hold.
    """
    if not _reads_images(recipe):
        return recipe
    if checkpoint is None:
        return dataclasses.replace(recipe, data=recipe.data.filled())
    name, config = str(recipe.target.checkpoint), config_of(checkpoint)
    data = take_preprocessing(recipe, name, config, what="target.checkpoint")
    if recipe.target.classes == "name" and not recipe.target.new_head:
        data = name_masks(data, stated_names(config, masks=data.labels == "mask"))
    return dataclasses.replace(recipe, data=data)


def take_preprocessing(recipe: Recipe, name: str, config: PreTrainedConfig, *, what: str) -> DataConfig:
    """Fill in what a recipe leaves open of images: from what a network says of its own, else the defaults.

    Args:
        recipe: The run.
        name: Name of the network: a folder or Hub id.
        config: Config of the network.
        what: To call the network in errors.

    Returns:
        What the recipe says of its data, with nothing of images left open; of text itself.

    Raises:
        RecipeError: Recipe and network disagree, or neither says how colours are normalised.
        TargetError: The network has images of other channels, or made in a way that a recipe has no words for.
        NeuMetaError: As `stated_preprocessing`.
    """
    if not _reads_images(recipe):
        return recipe.data
    data, shape = recipe.data, find_target(config).image_shape(config)
    if data.num_channels not in (None, shape[0]):
        size = shape[1:] if data.image_size is None else height_and_width(data.image_size)
        raise other_images(shape, (data.num_channels, *size), what=what)
    if recipe.target.preprocessing == "recipe":
        logger.info("target.preprocessing=recipe: what %s says about its images is set aside.", name)
        stated = None
    else:
        stated = compare_preprocessing(data, name, config)
    data = _taken(data, {**_of_config(config, name), **(stated or {})}, name)
    filled = data.filled()
    if lacking := [key for key in ("mean", "std") if getattr(data, key) is None]:
        said = (
            f"{' and '.join(f'data.{key}' for key in lacking)}: no preprocessor_config.json of {name} says it (or that "
        )
        said += "file is set aside), and neither does the recipe. Give what the network was trained with"
        if filled.num_channels != 1:
            raise RecipeError(f"{said}.")
        logger.warning("%s; until then it is %s", said, ", ".join(f"{key}={getattr(filled, key)}" for key in lacking))
    return filled


def _reads_images(recipe: Recipe) -> bool:
    return build_task(find_target(recipe.target.family).task).modality == "image"


def other_images(shape: Sequence[int], wanted: Sequence[int], *, what: str = "target.checkpoint") -> TargetError:
    """Say that a checkpoint takes other images than the recipe gives.

    Args:
        shape: Channels, height and width of the checkpoint's.
        wanted: Those of the recipe's.
        what: To call the checkpoint.

    Returns:
        The error.
    """
    told, asked = ("x".join(map(str, sizes)) for sizes in (shape, wanted))
    return TargetError(
        f"{what} takes images of {told} (channels, height, width), but data.num_channels and data.image_size give "
        f"{asked}: give the checkpoint's, because its weights fit no other."
    )


def compare_preprocessing(data: DataConfig, name: str, config: PreTrainedConfig) -> dict[str, Any] | None:
    """Refuse a recipe that says something else of a network's images than what lies beside the network.

    Args:
        data: What the recipe says.
        name: Name of the network: a folder or Hub id.
        config: Config of the network.

    Returns:
        What the network says, in the words of `DataConfig`. None: nothing.

    Raises:
        RecipeError: Naming each key and both values.
        NeuMetaError: As `stated_preprocessing`.
    """
    num_channels, *_ = find_target(config).image_shape(config)
    stated = stated_preprocessing(name, num_channels=num_channels, model_type=config.model_type)
    differing = [
        f"data.{key}={said} in the recipe, {stated[key]} in {name}"
        for key in _PREPROCESSING
        if stated and key in stated and (said := getattr(data, key)) is not None and not _equal(key, said, stated[key])
    ]
    if differing:
        raise RecipeError(
            f"recipe and network disagree on their images: {'; '.join(differing)}. To use the network's settings, "
            "leave these keys out of the recipe. To use the recipe's on purpose, set `target.preprocessing: recipe`."
        )
    return stated


def _of_config(config: PreTrainedConfig, name: str) -> dict[str, Any]:
    """What a network's own config says of its images, whatever their preprocessing."""
    num_channels, height, width = find_target(config).image_shape(config)
    if max(height, width) > MOST_PIXELS:
        raise TargetError(
            f"{name} is for images of {height}x{width} pixels: at most {MOST_PIXELS:,} a side are read from a "
            "checkpoint, so that it cannot ask for all memory."
        )
    return {"num_channels": num_channels, "image_size": height if height == width else [height, width]}


def _taken(data: DataConfig, stated: dict[str, Any], name: str) -> DataConfig:
    taken = {key: value for key, value in stated.items() if getattr(data, key) is None}
    if taken:
        said = ", ".join(f"{key}={value}" for key, value in taken.items())
        logger.info("what the recipe leaves open is taken from %s: %s", name, said)
    return dataclasses.replace(data, **taken)


def _equal(key: str, ours: Any, theirs: Any) -> bool:
    if key == "image_size":
        return height_and_width(ours) == height_and_width(theirs)
    if key in ("mean", "std"):
        return len(ours) == len(theirs) and all(
            math.isclose(our, their, abs_tol=1e-6) for our, their in zip(ours, theirs, strict=True)
        )
    return ours == theirs


def continue_recipe(recipe: Recipe, written: Recipe) -> Recipe:
    """Fill in what a recipe leaves open from the run that it goes on with: its checkpoint may be gone by now.

    Args:
        recipe: As given with `--resume`.
        written: As the run wrote it down; of an older version, with less in it.

    Returns:
        Another recipe.
    """
    if not _reads_images(recipe):
        return recipe
    then = written.data.filled()
    open_keys = [key for key in (*_PREPROCESSING, "label_names") if getattr(recipe.data, key) is None]
    data = dataclasses.replace(recipe.data, **{key: getattr(then, key) for key in open_keys})
    return dataclasses.replace(recipe, data=data)
