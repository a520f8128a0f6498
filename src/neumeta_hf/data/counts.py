"""Whether the classes of a data set are there to be learned from and told apart."""

import logging
from collections.abc import Sequence

import numpy as np

from neumeta_hf.data.masks import propose_values
from neumeta_hf.data.splits import ImageSplit
from neumeta_hf.errors import DataError
from neumeta_hf.images import IGNORED
from neumeta_hf.progress import progress_bar

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 64


def count_labels(split: ImageSplit, num_classes: int) -> np.ndarray:
    """Count the images of each class, or the pixels of masks at the network's size, without augmentation.

    Args:
        split: With classes or masks; masks that are not in memory are decoded for it.
        num_classes: How many there are.

    Returns:
        By the index of the class, `[256 or more]`; of masks, what is at `IGNORED` are pixels of no class.

    Raises:
        DataError: A mask cannot be read.
    """
    counts = np.zeros(max(num_classes, IGNORED + 1), dtype=np.int64)
    size = _ROWS_AT_ONCE if split.config.labels == "mask" else max(1, len(split))
    starts = range(0, len(split), size)
    with progress_bar(starts, description=f"counting classes of {split.name}", unit=" rounds", leave=False) as bar:
        for start in bar:
            labels = split.source.labels(split.indices[start : start + size].tolist())
            if labels is not None:
                counts += np.bincount(labels.numpy().ravel(), minlength=len(counts))
    return counts


def check_classes(train: ImageSplit, validation: ImageSplit, label_names: Sequence[str]) -> None:
    """Refuse classes that cannot be learned, and say which have nothing to learn from.

    Args:
        train: What the network learns from, with classes or masks.
        validation: What selection looks at; may be empty.
        label_names: Names of the classes, in order.

    Raises:
        DataError: Fewer than two classes have an image, or a pixel, in training, or no pixel has one in validation.
    """
    counts = count_labels(train, len(label_names))
    present = [index for index in range(len(label_names)) if counts[index]]
    what = "masks" if train.config.labels == "mask" else "images"
    if len(present) < 2:
        raise DataError(
            f"of the classes {_listed(label_names)}, the {len(train)} {what} for training have "
            f"{_listed([label_names[index] for index in present]) or 'none'}, but a network needs two to tell apart: "
            f"{_way_out(train, present, has_ignored=counts[IGNORED] > 0, label_names=label_names)}"
        )
    if missing := [name for index, name in enumerate(label_names) if index not in present]:
        logger.warning("the %s for training have nothing of %s, so this is not learned", what, _listed(missing))
    if what == "masks" and len(validation):
        found = np.flatnonzero(count_labels(validation, len(label_names))[:IGNORED])
        if len(found) == 0:
            raise DataError(
                f"no pixel of the {len(validation)} masks for validation has a class, so training cannot tell which "
                "weights are best: raise data.validation_fraction, or name another data.validation_split."
            )
        if len(found) == 1:
            logger.warning(
                "the masks for validation hold only %s, so the best weights are those with the best intersection over "
                "union of this class",
                label_names[found[0]],
            )


def warn_of_missing_classes(train: ImageSplit, others: Sequence[ImageSplit], label_names: Sequence[str]) -> None:
    """Say which classes of training have no image in a split that networks are measured on.

    Args:
        train: What the network learns from, with classes.
        others: The splits; one without any image says nothing.
        label_names: Names of the classes, in order.
    """
    learned = count_labels(train, len(label_names)) > 0
    for split in others:
        counts = count_labels(split, len(label_names))
        missing = [name for index, name in enumerate(label_names) if learned[index] and not counts[index]]
        if len(split) and missing:
            spec = {"validation": split.config.validation_split, "test": split.config.test_split}.get(split.name)
            advice = f": for data sorted by class, use data.{split.name}_fraction, which cuts at random"
            logger.warning(
                "the %s split has no image of %s, so its scores say nothing about %s%s",
                split.name,
                _listed(missing),
                "it" if len(missing) == 1 else "them",
                advice if "[" in (spec or "") else "",
            )


def _way_out(train: ImageSplit, present: Sequence[int], *, has_ignored: bool, label_names: Sequence[str]) -> str:
    config = train.config
    if config.labels == "class":
        return (
            "name another data.train_split (a slice of a data set sorted by class has few classes), or add images of "
            "another class."
        )
    named = config.mask_values
    if not has_ignored or IGNORED in (named or ()) or config.ignore_index is not None or not present:
        return "mend the masks, or name what their values stand for in data.mask_values."
    if named is None:
        others = [name for index, name in enumerate(label_names) if index not in present]
        named = {index: label_names[index] if config.label_names else "..." for index in present}
        named |= {IGNORED: others[0] if len(others) == 1 else "..."}
    else:
        named = {**named, IGNORED: "..."}
    return f"the other pixels are {IGNORED}, which stands for no class unless it has a name: {propose_values(named)}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
