"""The network that a run starts from: fresh, or a checkpoint that fits the data."""

import logging
from collections.abc import Sequence
from typing import Any

from accelerate.utils import set_seed
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from neumeta_hf.data import Data, ImageData, check_keys
from neumeta_hf.data.classes import compare_names, in_order, stated_names
from neumeta_hf.errors import RecipeError, TargetError
from neumeta_hf.images import height_and_width
from neumeta_hf.targets import TargetFamily, config_of, find_target
from neumeta_hf.targets.masters import load_in_float32
from neumeta_hf.tasks import Task, build_task
from neumeta_hf.training.agreement import other_images, resolve_recipe
from neumeta_hf.training.heads import name_classes, with_new_head
from neumeta_hf.training.recipe import Recipe, TargetRecipe

logger = logging.getLogger(__name__)


def task_of(recipe: Recipe) -> Task:
    """Build the task of a recipe, with the recipe's options.

    Args:
        recipe: The run.

    Returns:
        The task of its target family.

    Raises:
        RecipeError: The task has no such option, or takes other labels than the recipe's data has.
        DataError: A key of the data is of images, and the task reads text, or the other way round.
        TargetError: There is no such target family.
    """
    task = build_task(find_target(recipe.target.family).task, recipe.task)
    check_keys(recipe.data, task)
    if task.modality == "image" and recipe.data.labels not in task.labels:
        raise RecipeError(
            f"data.labels={recipe.data.labels!r}: {task.name}, the task of the target family {recipe.target.family!r}, "
            f"needs {' or '.join(repr(kind) for kind in task.labels)}."
        )
    return task


def load_checkpoint(recipe: Recipe) -> nn.Module | None:
    """Load the network of `target.checkpoint`, in float32.

    Args:
        recipe: The run.

    Returns:
        The network at full size; None where the run starts from random weights.

    Raises:
        TargetError: The family reads no bare weights, the checkpoint is of another family, or it is for labels of
            another kind; or `target.config` was given as well.
        CheckpointError: It cannot be read, or lacks weights or has too many.
        RecipeError: A new head is asked for, and there is nothing that it could be put on, or that would train it.
    """
    target = recipe.target
    _check_new_head(recipe)
    if target.checkpoint is None:
        return None
    if target.config:
        raise TargetError("target.config and target.checkpoint were both given: a checkpoint brings its own config.")
    family = find_target(target.family)
    set_seed(recipe.seed)
    model = load_in_float32(target.checkpoint, family)
    config = config_of(model)
    if not family.accepts(config):
        raise TargetError(
            f"target.checkpoint is a {config.model_type}, but target.family is {target.family}: give a network of "
            "that target family, or set target.family to the one of the network."
        )
    if (problem := getattr(config, "problem_type", None)) not in (None, "single_label_classification"):
        raise TargetError(
            f"target.checkpoint says problem_type={problem!r}, but networks here give one class to each image or "
            "pixel. Take a network of that kind, or mend its config.json."
        )
    return model


def _check_new_head(recipe: Recipe) -> None:
    target = recipe.target
    if not target.new_head:
        return
    if target.checkpoint is None:
        problem = (
            "target.checkpoint names no network to put it on, and a fresh network has a new head anyway. Name one, or "
            "leave it out"
        )
    elif not task_of(recipe).has_classes:
        problem = f"networks of the target family {target.family!r} tell no classes apart. Leave it out"
    elif target.classes == "position":
        problem = "target.classes: position would match the classes of the old head. Leave one of the two out"
    elif recipe.pretrain is None:
        problem = "pretrain is null, and its random weights would be taken as they are. Give a pretrain section"
    else:
        return
    raise RecipeError(f"target.new_head: {problem}.")


def load_target(recipe: Recipe, label_names: Sequence[str], checkpoint: nn.Module | None = None) -> Any:
    """Load the unprepared target: fresh, or from its checkpoint.

    Args:
        recipe: The run.
        label_names: Names of the data's classes; none where the task has none.
        checkpoint: As from `load_checkpoint`, where it is loaded already.

    Returns:
        The network at full size. Its `id2label` has the names in the order of its outputs: those of `label_names`,
        possibly in another order, which labels are then to follow.

    Raises:
        TargetError: The target family has no such config field, or reads no bare weights. The checkpoint is of another
            target family, has other classes than the data or takes other images.
        RecipeError: Recipe and checkpoint disagree on how images are made.
        CheckpointError: The checkpoint cannot be read, or lacks weights or has too many.
    """
    target = recipe.target
    family = find_target(target.family)
    masks = recipe.data.labels == "mask"
    if target.checkpoint is None:
        wanted = recipe.data.preprocessing
        shape = (wanted.num_channels, *height_and_width(wanted.image_size))
        config = family.make_config(target.config, image_shape=shape, label_names=label_names)
        if (made := family.image_shape(config)) != shape:
            raise TargetError(
                f"target.config is for images of {made} (channels, height, width), but data.num_channels and "
                f"data.image_size give {shape}: leave it out of target.config, or make the two agree."
            )
        _match_classes(config, label_names, target, masks=masks, where="target.config")
        return family.fresh(config)
    if checkpoint is None:
        checkpoint = load_checkpoint(recipe)
        recipe = resolve_recipe(recipe, checkpoint)
    assert checkpoint is not None
    if label_names and target.new_head:
        set_seed(recipe.seed)
        checkpoint = with_new_head(checkpoint, family, label_names)
    elif label_names:
        _match_classes(config_of(checkpoint), label_names, target, masks=masks, where="target.checkpoint")
    _fit_to_images(checkpoint, family, recipe)
    return checkpoint


def _match_classes(config: Any, label_names: Sequence[str], target: TargetRecipe, *, masks: bool, where: str) -> None:
    """Let the classes of a network have names; refuse others than the data's."""
    if not label_names:
        return
    stated = stated_names(config, masks=masks)
    if stated is not None and target.classes == "name" and stated != list(label_names):
        if problem := compare_names(stated, label_names, us=where, them="the data"):
            raise TargetError(_other_classes(stated, label_names, problem, where))
        logger.info("%s has the classes of the data in another order: labels are renumbered to its own", where)
        return
    if config.num_labels != len(label_names):
        raise TargetError(
            _other_classes(
                range(config.num_labels),
                label_names,
                "they are matched by position" if stated else f"{where} does not name its classes",
                where,
            )
        )
    name_classes(config, label_names)


def _other_classes(stated: Sequence[Any], label_names: Sequence[str], problem: str, where: str) -> str:
    same = len(stated) == len(label_names)
    said = f"{where} tells {len(stated)} classes apart, but the data set has {len(label_names)}: {problem}. "
    if where == "target.config":
        return said + "Leave its classes out of target.config, which then has those of the data."
    return (
        said + "Choose the data that it was trained on, or rename classes on one of the two sides (id2label in its "
        "config.json; folders or label column of the data). For a new head, set `target.new_head: true` and give a "
        "pretrain section" + (". To match them as they stand, set `target.classes: position`." if same else ".")
    )


def _fit_to_images(model: nn.Module, family: TargetFamily, recipe: Recipe) -> None:
    """Let the config of a checkpoint say the size of the data's images, where its weights are for any size."""
    images = recipe.data.preprocessing
    height, width = height_and_width(images.image_size)
    wanted, shape = (images.num_channels, height, width), family.image_shape(config_of(model))
    fits = shape == wanted
    if not fits and shape[0] == wanted[0]:
        family.set_image_size(model, height if height == width else [height, width])
        resized = family.empty(config_of(model)).state_dict()
        shapes, before = (
            {name: tensor.shape for name, tensor in state.items()} for state in (resized, model.state_dict())
        )
        fits = shapes == before
        if fits:
            logger.info(
                "target.checkpoint is for images of %dx%d and can take any size: its config now says %dx%d",
                *shape[1:],
                height,
                width,
            )
    if not fits:
        raise other_images(shape, wanted)


def start_target(recipe: Recipe, task: Task, data: Data, checkpoint: nn.Module | None, preprocessor: Any = None) -> Any:
    """Make the network that a run starts from, random weights drawn by the recipe's seed.

    Args:
        recipe: The run, resolved.
        task: What its networks do.
        data: The data set.
        checkpoint: As from `load_checkpoint`.
        preprocessor: Preprocessor of images; of text the tokenizer.

    Returns:
        The network at full size.

    Raises:
        RecipeError: Nothing would train its random weights.
        NeuMetaError: As `load_target` or `load_text_target`.
    """
    if checkpoint is None:
        if recipe.pretrain is None:
            raise RecipeError(
                "the target has neither a checkpoint nor a pretrain section: its weights would be random. Give "
                "target.checkpoint, or a pretrain section."
            )
        set_seed(recipe.seed)
    if task.modality == "text":
        return load_text_target(recipe, preprocessor, checkpoint)
    return load_target(recipe, data.label_names if task.has_classes else [], checkpoint)


def load_text_target(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, checkpoint: nn.Module | None) -> nn.Module:
    """Load the unprepared target of a run on text: fresh, or a checkpoint that knows the tokens of the data.

    Args:
        recipe: The run.
        tokenizer: Tokenizer of the data.
        checkpoint: As from `load_checkpoint`.

    Returns:
        The network at full size.

    Raises:
        TargetError: The family has no such config field, or the network is for fewer tokens, or for shorter texts.
    """
    family = find_target(recipe.target.family)
    where = "target.config" if checkpoint is None else "target.checkpoint"
    if checkpoint is None:
        network = family.fresh(family.make_text_config(recipe.target.config, tokenizer))
    else:
        network = checkpoint
    config: Any = config_of(network)
    if len(tokenizer) > config.vocab_size:
        raise TargetError(
            f"{where} is for {config.vocab_size} tokens, and the tokenizer has {len(tokenizer)}: name the network's "
            "own with data.tokenizer, or leave vocab_size out of target.config."
        )
    longest = min(getattr(config, "max_position_embeddings", None) or 2**30, tokenizer.model_max_length)
    if recipe.data.block_size > longest:
        raise TargetError(
            f"{where} and its tokenizer are for {longest} tokens at most, and data.block_size={recipe.data.block_size}:"
            " lower it."
        )
    return network


def match_labels(data: Data, config: PreTrainedConfig) -> ImageData:
    """Give the labels of a data set the numbers that the network of a run has for its classes.

    Args:
        data: As loaded.
        config: Config of the network that the run starts from, or of its reference.

    Returns:
        The same images; `data` itself where nothing is to renumber.

    Raises:
        DataError: The data has a class that the network has not: it is not the data that the run was started with.
    """
    assert isinstance(data, ImageData)
    names = stated_names(config, masks=data.train.config.labels == "mask")
    return data if names is None else in_order(data, names)
