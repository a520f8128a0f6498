"""Data and references as a family's or network's classes have it: what is measured must mean the same on all sides."""

import logging
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from neumeta_hf.data import Data, DataConfig, ImageData
from neumeta_hf.data.classes import compare_names, in_order, name_masks, stated_names
from neumeta_hf.errors import DataError, TargetError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.targets import config_of, find_target
from neumeta_hf.tasks import Task

logger = logging.getLogger(__name__)


def name_data(config: PreTrainedConfig, data: DataConfig, task: Task) -> DataConfig:
    """Let masks that state indices alone be read as the classes of a family or network.

    Args:
        config: Config of the family or network.
        data: The config of a data set.
        task: What is done with it.

    Returns:
        The data's config, by which an index that is no class is an error.

    Raises:
        DataError: There are more classes than masks can hold.
    """
    if not task.has_classes:
        return data
    names = stated_names(config, masks=data.labels == "mask")
    return name_masks(data, names or [str(index) for index in range(_num_labels(config))])


def match_data(config: PreTrainedConfig, data: Data, task: Task, *, them: str = "the family") -> Data:
    """Number the labels of a data set as a family or network numbers its classes.

    Classes are matched by name; by position where it names none. Classes that the data lacks are said in a warning.

    Args:
        config: Config of the family or network.
        data: As loaded by the config from `name_data`.
        task: What is done with it; one without classes needs no match.
        them: What to call the family or network.

    Returns:
        The same images.

    Raises:
        DataError: The data has a class that is not known, or another number of classes where they have no names.
    """
    if not task.has_classes:
        return data
    assert isinstance(data, ImageData)
    num_labels = _num_labels(config)
    names = stated_names(config, masks=data.train.config.labels == "mask")
    if names is None:
        if len(data.label_names) != num_labels:
            raise DataError(
                f"the data has {len(data.label_names)} classes, but {them} tells {num_labels} unnamed classes apart: "
                "give data with as many classes, in the order of its training data."
            )
        return data
    matched = in_order(data, names, them=them)
    present = set(data.label_names)
    if lacking := [name for name in names if name not in present]:
        shown = ", ".join(lacking[:20]) + (f" and {len(lacking) - 20} more" if len(lacking) > 20 else "")
        logger.warning("the data lacks these classes of %s, so the scores say nothing about them: %s", them, shown)
    return matched


def check_reference(reference: nn.Module, model: NeuMetaModel, task: Task) -> None:
    """Refuse to measure a network beside a family whose classes it has not.

    Args:
        reference: The network.
        model: The family.
        task: What the family does.

    Raises:
        TargetError: It does something else, or its classes are others or in another order.
    """
    config, masks = config_of(reference), "mask" in task.labels
    if (does := find_target(config).task) != task.name:
        raise TargetError(f"the reference does {does}, the family {task.name}: give a network that does the same.")
    if not task.has_classes:
        return
    theirs, ours = stated_names(config, masks=masks), stated_names(model.config, masks=masks)
    if theirs is not None and ours is not None and theirs != ours:
        problem = compare_names(theirs, ours, us="the reference", them="the family")
        if not problem:
            place = next(place for place, (their, our) in enumerate(zip(theirs, ours, strict=True)) if their != our)
            problem = f"class {place} is {theirs[place]!r} in the reference and {ours[place]!r} in the family"
    elif (found := _num_labels(config)) != (wanted := _num_labels(model.config)):
        problem = f"the reference tells {found} apart, the family {wanted}"
    else:
        return
    said = (
        f"the reference does not have the family's classes in the same order: {problem}. Give the network that the "
        "family was made from, or "
    )
    raise TargetError(f"{said}none.", command=f"{said}leave out --reference.")


def _num_labels(config: Any) -> int:
    return config.num_labels
