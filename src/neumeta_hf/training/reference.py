"""The network that a run starts from: fresh, or a checkpoint that fits the data."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn

from neumeta_hf.data import ImageData
from neumeta_hf.errors import RecipeError, TargetError
from neumeta_hf.images import height_and_width
from neumeta_hf.targets import TargetFamily, config_of, find_target
from neumeta_hf.tasks import Task, build_task
from neumeta_hf.training.recipe import Recipe

logger = logging.getLogger(__name__)


def task_of(recipe: Recipe) -> Task:
    """What the networks of a recipe do, with the recipe's options.

    Args:
        recipe: The run.

    Returns:
        The task of its target family.

    Raises:
        RecipeError: The task has no such option, or takes other labels than the recipe's data has.
        TargetError: There is no such target family.
    """
    task = build_task(find_target(recipe.target.family).task, recipe.task)
    if recipe.data.labels not in task.labels:
        raise RecipeError(
            f"data.labels={recipe.data.labels!r}: {task.name}, the task of the target family {recipe.target.family!r}, "
            f"needs {' or '.join(repr(kind) for kind in task.labels)}."
        )
    return task


def load_target(recipe: Recipe, label_names: Sequence[str]) -> Any:
    """The unprepared target: fresh, or from its checkpoint.

    Args:
        recipe: The run.
        label_names: Names of the data's classes; none where the task has none.

    Returns:
        The network at full size.

    Raises:
        TargetError: The family has no such config field or reads no bare weights, the checkpoint is of another family,
            has another number of classes than the data or takes other images.
        CheckpointError: The checkpoint cannot be read, or lacks weights or has too many.
    """
    target = recipe.target
    family = find_target(target.family)
    if target.checkpoint is None:
        height, width = height_and_width(recipe.data.image_size)
        shape = (recipe.data.num_channels, height, width)
        return family.build(family.make_config(target.config, image_shape=shape, label_names=label_names))
    if target.config:
        raise TargetError("target.config and target.checkpoint were both given: a checkpoint brings its own config.")
    model = family.load(target.checkpoint)
    config = config_of(model)
    if not family.accepts(config):
        raise TargetError(f"target.checkpoint is a {config.model_type}, target.family is {target.family}.")
    if label_names:
        if config.num_labels != len(label_names):
            raise TargetError(
                f"target.checkpoint tells {config.num_labels} classes apart, the data set has {len(label_names)}: "
                "fine-tune it on the data first, or choose the data that it was trained on."
            )
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
    _fit_to_images(model, family, recipe)
    return model


def _fit_to_images(model: nn.Module, family: TargetFamily, recipe: Recipe) -> None:
    """Let the config of a checkpoint say the size of the data's images, where its weights are for any size."""
    height, width = height_and_width(recipe.data.image_size)
    wanted, shape = (recipe.data.num_channels, height, width), family.image_shape(config_of(model))
    fits = shape == wanted
    if not fits and shape[0] == wanted[0]:
        family.set_image_size(model, height if height == width else [height, width])
        with torch.device("meta"):
            resized = family.build(config_of(model)).state_dict()
        shapes, before = (
            {name: tensor.shape for name, tensor in state.items()} for state in (resized, model.state_dict())
        )
        fits = shapes == before
    if not fits:
        told, asked = ("x".join(map(str, sizes)) for sizes in (shape, wanted))
        raise TargetError(
            f"target.checkpoint takes images of {told} (channels, height, width), and data.num_channels and "
            f"data.image_size give {asked}: give the checkpoint's, whose weights are for no other."
        )


def start_target(recipe: Recipe, task: Task, data: ImageData) -> Any:
    """Make the network that a run starts from, its random weights drawn by the recipe's seed.

    Args:
        recipe: The run.
        task: What its networks do.
        data: The data set.

    Returns:
        The network at full size.

    Raises:
        RecipeError: Nothing would train its random weights.
        NeuMetaError: As `load_target`.
    """
    if recipe.pretrain is None and recipe.target.checkpoint is None:
        raise RecipeError(
            "the target has neither a checkpoint nor a pretrain section: its weights would be random. Give "
            "target.checkpoint, or a pretrain section."
        )
    set_seed(recipe.seed)
    return load_target(recipe, data.label_names if task.has_classes else [])
