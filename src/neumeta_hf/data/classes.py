"""Classes by name: what a network and a data set call them, and labels in the order of the network.

Two sides that name the same classes may count them in another order; folders that are called 1, 2 and 10, for one, are
sorted 1, 10, 2. Nothing of a network moves: the labels do.
"""

import collections
import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from neumeta_hf.data.config import DataConfig
from neumeta_hf.data.image_streams import ImageStream
from neumeta_hf.data.loading import ImageData
from neumeta_hf.data.splits import ImageSplit, RenumberedSource
from neumeta_hf.errors import CheckpointError, DataError
from neumeta_hf.images import IGNORED


def stated_names(config: Any, *, masks: bool) -> list[str] | None:
    """Read what a network calls its classes.

    Args:
        config: Config of the network; its `id2label` is read.
        masks: Whether its labels are masks, whose classes "0", "1", ... are called so where nobody named them.

    Returns:
        The names in the order of its outputs. None: it states none, but transformers' LABEL_0, LABEL_1, ... or numbers.

    Raises:
        CheckpointError: `id2label` does not name each output once.
    """
    names = getattr(config, "id2label", None)
    if not names:
        return None
    if (
        not isinstance(names, Mapping)
        or set(names) != set(range(len(names)))
        or not all(isinstance(name, str | int) for name in names.values())
    ):
        raise CheckpointError(
            f"id2label={str(dict(names) if isinstance(names, Mapping) else names)[:80]} must map 0, 1, ... to the "
            "name of one class each. Mend the network's config.json."
        )
    ordered = [str(names[index]) for index in range(len(names))]
    numbers = [str(index) for index in range(len(ordered))]
    if ordered == [f"LABEL_{number}" for number in numbers] or (masks and ordered == numbers):
        return None
    return ordered


def states_names(config: DataConfig) -> bool:
    """Tell whether a data set names its classes.

    Args:
        config: Config of the data set.

    Returns:
        False for masks without `label_names` and `mask_values`, which state indices alone, and without labels.
    """
    return config.labels == "class" or (
        config.labels == "mask" and (config.label_names is not None or config.mask_values is not None)
    )


def name_masks(config: DataConfig, label_names: Sequence[str] | None) -> DataConfig:
    """Let masks that state indices alone have the names that a network has for its classes.

    Args:
        config: Config of the data set.
        label_names: The network's; None: it states none.

    Returns:
        The config with `label_names`, by which the masks are read: an index beyond is an error. As it was for others.

    Raises:
        DataError: There are more classes than masks of bytes can hold.
    """
    if label_names is None or config.labels != "mask" or states_names(config):
        return config
    if len(label_names) > IGNORED:
        raise DataError(
            f"the network names {len(label_names)} classes, but masks hold at most {IGNORED}: name the classes of the "
            "masks with data.label_names."
        )
    return dataclasses.replace(config, label_names=list(label_names))


def compare_names(ours: Sequence[str], theirs: Sequence[str], *, us: str, them: str) -> str:
    """Say how two sets of names differ.

    Args:
        ours: Names of one side.
        theirs: Names of the other.
        us: What to call the first side.
        them: What to call the second side.

    Returns:
        The first few names of each that the other lacks or has twice; "" where they are the same set.
    """
    parts = []
    for names, others, side, other_side in ((ours, theirs, us, them), (theirs, ours, them, us)):
        known = set(others)
        if missing := [name for name in dict.fromkeys(names) if name not in known]:
            parts.append(f"{other_side} lacks {_few(missing)} of {side}")
        if twice := [name for name, count in collections.Counter(names).items() if count > 1]:
            parts.append(f"{side} has {_few(twice)} more than once")
    return "; ".join(parts)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def in_order(data: ImageData, label_names: Sequence[str], *, them: str = "the network") -> ImageData:
    """Give labels the numbers that a network has for the classes.

    Args:
        data: Its names may be fewer, and in another order.
        label_names: The network's.
        them: What to call the network.

    Returns:
        The same images, with `label_names`; `data` itself where these are its own.

    Raises:
        DataError: The data has a class that is not among `label_names`, or a name stands twice.
    """
    if data.label_names == list(label_names):
        return data
    ours, theirs = set(data.label_names), set(label_names)
    if ours - theirs or len(ours) < len(data.label_names) or len(theirs) < len(label_names):
        problem = compare_names(data.label_names, label_names, us="the data", them=them)
        raise DataError(
            f"classes are matched by name, but {problem}: give data with the classes of {them}, or rename the data's "
            "classes (folders or label column; data.label_names for masks)."
        )
    numbers = {name: number for number, name in enumerate(label_names)}
    order = [numbers[name] for name in data.label_names]

    def renumbered(split: ImageSplit) -> ImageSplit:
        other = copy.copy(split)
        other.source = RenumberedSource(split.source, order)
        return other

    return ImageData(
        train=data.train.renumbered(order) if isinstance(data.train, ImageStream) else renumbered(data.train),
        validation=renumbered(data.validation),
        test=renumbered(data.test),
        label_names=list(label_names),
    )
