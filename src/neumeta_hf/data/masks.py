"""Masks: which of their values stand for which class."""

import dataclasses
import functools
from collections.abc import Collection, Mapping

import numpy as np
from PIL import Image

from neumeta_hf.data.config import DataConfig
from neumeta_hf.errors import DataError
from neumeta_hf.images import IGNORED

_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
_LOSSY_TIFFS = ("jpeg", "tiff_jpeg", "webp")


@dataclasses.dataclass(frozen=True)
class MaskClasses:
    """What the values in masks stand for.

    Attributes:
        classes: The index of a class for each value that stands for one.
        ignored: Values that stand for none.
        advice: What to do about any other value.
    """

    classes: Mapping[int, int]
    ignored: frozenset[int]
    advice: str

    @classmethod
    def of(cls, config: DataConfig, num_classes: int) -> "MaskClasses":
        """Read from a config which values are classes.

        Args:
            config: Says whether values have names.
            num_classes: Classes of masks whose values have none: the first values, from 0.

        Returns:
            Its classes, and the values that it ignores.
        """
        if config.mask_values is None:
            classes = {index: index for index in range(num_classes)}
            named = "Name every class in data.label_names or every value in data.mask_values"
        else:
            names = class_names(config.mask_values)
            classes = {value: names.index(name) for value, name in config.mask_values.items()}
            named = "Name every value in data.mask_values"
        ignored = {IGNORED, IGNORED if config.ignore_index is None else config.ignore_index}
        return cls(
            classes,
            frozenset(ignored - set(config.mask_values or ())),
            f"{named}, or set data.ignore_index to the value that stands for no class.",
        )

    @functools.cached_property
    def _all(self) -> dict[int, int]:
        return {**self.classes, **dict.fromkeys(self.ignored, IGNORED)}

    @functools.cached_property
    def _of_short(self) -> np.ndarray:
        """The class of each value of 16 bits; -1 where it has none and is not ignored."""
        table = np.full(2**16, -1, dtype=np.int16)
        for value, label in self._all.items():
            if 0 <= value < len(table):
                table[value] = label
        return table

    def of_values(self, values: np.ndarray) -> np.ndarray:
        """Look up classes.

        Args:
            values: Whole numbers.

        Returns:
            Indices of classes, `IGNORED` where there is none, and -1 for values that are neither; as `values`.
        """
        if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
            return self._of_short[values]
        found, places = np.unique(values, return_inverse=True)
        labels = np.array([self._all.get(value, -1) for value in found.tolist()], dtype=np.int16)
        return labels[places.reshape(values.shape)]


def class_names(mask_values: Mapping[int, str]) -> list[str]:
    """List the classes that values stand for, in the order in which they are first named."""
    return list(dict.fromkeys(mask_values.values()))


def refuse_lossy(mask: Image.Image) -> None:
    """Refuse a mask of a format whose compression changes values.

    Args:
        mask: As it was opened.

    Raises:
        DataError: Its file does not keep the values that were saved in it.
    """
    compression = mask.info.get("compression")
    if mask.format in _LOSSY_FORMATS or (mask.format == "TIFF" and compression in _LOSSY_TIFFS):
        what = f"TIFF with {compression}" if mask.format == "TIFF" else mask.format
        raise DataError(
            f"is a {what}, whose compression may change values, and so classes. Save masks as PNG: from their source, "
            "not from these files."
        )


def mask_values(mask: Image.Image) -> np.ndarray:
    """Values of a mask as they are in its file.

    Args:
        mask: Grey, palette (its indices, not its colours), 16 or 32 bits, or black and white (0 and 1).

    Returns:
        Whole numbers, `[height, width]`.

    Raises:
        DataError: The mask has colours or fractions.
    """
    if mask.mode not in ("1", "L", "P") and not mask.mode.startswith("I"):
        raise DataError(
            f"is of mode {mask.mode}: a mask has one channel, with the number of a class for each pixel. Convert its "
            "colours to class numbers first."
        )
    values = np.asarray(mask)
    return values.astype(np.uint8) if values.dtype == bool else values


def to_classes(mask: Image.Image, classes: MaskClasses) -> Image.Image:
    """Bring a mask to indices of classes.

    Args:
        mask: As for `mask_values`.
        classes: What its values stand for.

    Returns:
        The mask, of mode "L", with `IGNORED` where there is no class.

    Raises:
        DataError: The mask has colours or fractions, or a value that is neither a class nor ignored.
    """
    values = mask_values(mask)
    found = classes.of_values(values)
    if (strange := found < 0).any():
        raise DataError(
            f"has pixels of value {_shown(np.unique(values[strange]).tolist(), most=5)}: values are classes "
            f"({_shown(sorted(classes.classes))}) or ignored ({_shown(sorted(classes.ignored))}). {classes.advice}"
        )
    return Image.fromarray(found.astype(np.uint8))


def count_classes(values: Collection[int], split: str, ignore_index: int | None) -> int:
    """Count the classes of masks whose values have no names, and refuse values that cannot be taken for indices.

    Args:
        values: All that the masks hold.
        split: Split of the data set, for messages.
        ignore_index: The value that stands for no class, besides `IGNORED`.

    Returns:
        How many classes there are: the values from 0 up.

    Raises:
        DataError: There is no class, the only one beside 255 is 0, a value in between is missing, or one is above 254.
    """
    ignored = {IGNORED, ignore_index}
    classes = sorted(set(values) - ignored)
    if not classes:
        raise DataError(
            f"the masks of split {split!r} have no class: every pixel is {IGNORED} or data.ignore_index="
            f"{ignore_index}. Mend the masks, give data.ignore_index another value, or name the values in "
            "data.mask_values."
        )
    is_binary = classes == [0] and IGNORED in values
    if set(classes) == set(range(classes[-1] + 1)) - ignored and not is_binary and classes[-1] < IGNORED:
        return classes[-1] + 1
    named = [value for value in sorted(values) if value == IGNORED or value != ignore_index]
    raise DataError(
        f"the masks of split {split!r} have pixels of value {_shown(sorted(values))}: without names, values are the "
        f"classes 0, 1, 2 and so on without a gap, and {IGNORED} stands for no class. Name what they stand for: "
        f"{propose_values(dict.fromkeys(named, '...'))}. If a class just happens to be in no mask, name all classes "
        "in data.label_names instead."
    )


def propose_values(names: Mapping[int, str]) -> str:
    """Write the line of a recipe that names values of masks.

    Args:
        names: Names of the values.

    Returns:
        "data.mask_values: {...}", cut where it would be long.
    """
    shown = [f"{value}: {name}" for value, name in names.items()]
    return f"data.mask_values: {{{', '.join([*shown[:20], *(['and so on'] if len(shown) > 20 else [])])}}}"


def _shown(values: list[int], *, most: int = 20) -> str:
    """Values for a message; ranges of many are cut to their ends."""
    if values and len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")
