"""From a `DataConfig` to training, validation and test splits."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neumeta_hf.data.base import Data
from neumeta_hf.data.columns import find_columns, no_classes
from neumeta_hf.data.config import Augmentation, DataConfig, Labels, Preprocessing
from neumeta_hf.data.counts import warn_of_missing_classes
from neumeta_hf.data.decoding import ImageColumn
from neumeta_hf.data.masks import MaskClasses, class_names, count_classes, mask_values, refuse_lossy
from neumeta_hf.data.partition import check_fractions, cut_splits, load_splits
from neumeta_hf.data.splits import (
    ArraySource,
    DecodingSource,
    ImageSource,
    ImageSplit,
    MaskColumn,
    bring_to_size,
    to_bytes,
    to_colours,
)
from neumeta_hf.errors import DataError
from neumeta_hf.images import IGNORED, Interpolation, height_and_width
from neumeta_hf.progress import progress_bar

if TYPE_CHECKING:
    from neumeta_hf.data.image_streams import ImageStream


@dataclasses.dataclass(frozen=True)
class ImageData(Data):
    """A data set of images, split.

    Attributes:
        train: What the network learns from; a stream where it is read as it comes.
        validation: What selection looks at.
        test: What is reported, once.
        label_names: Names of the classes, in order; none where no labels are read.
    """

    train: "ImageSplit | ImageStream"
    validation: ImageSplit
    test: ImageSplit
    label_names: list[str]


def load_image_data(config: DataConfig) -> ImageData:
    """Load and split a data set.

    Args:
        config: Says which, and how images reach the network.

    Returns:
        The splits; only the training split augments.

    Raises:
        DataError: The data set cannot be found or read; a split or column is missing, ambiguous or of another type; two
            splits share rows; a split has labels that training has not; an image cannot be decoded, or is larger than
            the config allows; a mask has colours or values that are no classes; or a field of the config is out of
            range or does not fit the others.
    """
    check_images(config)
    loaded = _load_digits(config) if config.dataset == "digits" else _load_from_datasets(config)
    sources = {"train": loaded.train, "validation": loaded.validation, "test": loaded.test}
    sources = {role: source for role, source in sources.items() if source is not None}
    classes = None
    if loaded.test is None and config.labels == "class":
        classes = loaded.train.labels(range(len(loaded.train)))
    num_rows = {role: len(source) for role, source in sources.items()}
    cut = cut_splits(num_rows, config, None if classes is None else classes.numpy())

    def split(role: str, *, augmented: bool = False) -> ImageSplit:
        source, rows = cut[role]
        return ImageSplit(sources[source], rows, config, augmented=augmented, name=role)

    is_augmented = config.augmentation != "none" or config.mixup > 0 or config.cutmix > 0
    train = split("train", augmented=is_augmented)
    data = ImageData(
        train=train,
        validation=split("validation"),
        test=split("test"),
        label_names=loaded.label_names,
    )
    if config.labels == "class":
        warn_of_missing_classes(train, [data.validation, data.test], data.label_names)
    return data


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """What a data set has; a validation or test split that is None is cut from the training split."""

    train: ImageSource
    validation: ImageSource | None
    test: ImageSource | None
    label_names: list[str]


def check_images(config: DataConfig) -> None:
    """Refuse what no images can be read by.

    Args:
        config: Says how they are read.

    Raises:
        DataError: A key is out of range, or does not fit another.
    """
    _check_preprocessing(config.preprocessing)
    check_fractions(config)
    if config.augmentation not in (known := get_args(Augmentation)):
        raise DataError(f"data.augmentation={config.augmentation!r}: give one of {', '.join(known)}.")
    _check_labels(config)
    is_kept = config.dataset == "digits" or (config.in_memory and not config.streaming)
    if config.augmentation == "random_resized_crop_flip" and is_kept:
        raise DataError(
            "data.augmentation=random_resized_crop_flip crops the original image, which is not kept in memory: set "
            "data.in_memory=false. For the embedded digits choose another augmentation."
        )
    for name in ("mixup", "cutmix"):
        if not 0 <= (alpha := getattr(config, name)) <= 100:
            raise DataError(f"data.{name}={alpha}: give a number from 0 (none) to 100.")
        if alpha and config.labels != "class":
            raise DataError(
                f"data.{name}={alpha} mixes classes, but data.labels={config.labels} has no classes. Leave it out."
            )
    if config.max_image_pixels < 1:
        raise DataError(f"data.max_image_pixels={config.max_image_pixels}: give a number of pixels from 1 up.")


def _check_preprocessing(wanted: Preprocessing) -> None:
    if wanted.num_channels not in (1, 3):
        raise DataError(f"data.num_channels={wanted.num_channels}: give 1 (grey) or 3 (RGB).")
    sides = [wanted.image_size] * 2 if isinstance(wanted.image_size, int) else wanted.image_size
    if len(sides) != 2 or min(sides) < 1:
        raise DataError(
            f"data.image_size={wanted.image_size}: give the height and width in pixels, at least 1, as one number or "
            "as [height, width]."
        )
    crop = wanted.center_crop
    if not isinstance(crop, bool) and crop < min(sides):
        raise DataError(
            f"data.center_crop={crop}: give true, false, or a number of pixels of at least {min(sides)} "
            "(data.image_size). The shorter side is resized to it, then the centre is cropped."
        )
    if wanted.interpolation not in (known := get_args(Interpolation)):
        raise DataError(f"data.interpolation={wanted.interpolation!r}: give one of {', '.join(known)}.")
    for name in ("mean", "std"):
        values = getattr(wanted, name)
        finite = all(map(math.isfinite, values))
        if not finite or len(values) != wanted.num_channels or (name == "std" and min(values) <= 0):
            raise DataError(
                f"data.{name}={values}: give {wanted.num_channels} number(s), one per channel, std above 0."
            )


def _check_labels(config: DataConfig) -> None:
    if config.labels not in (known := get_args(Labels)):
        raise DataError(f"data.labels={config.labels!r}: give one of {', '.join(known)}.")
    if config.labels == "none" and config.label_column is not None:
        raise DataError(f"data.label_column={config.label_column!r}: data.labels=none reads no labels. Leave one out.")
    for name in ("label_names", "mask_values", "ignore_index"):
        if config.labels != "mask" and (value := getattr(config, name)) is not None:
            raise DataError(f"data.{name}={value} is for masks. Leave it out, or set data.labels=mask.")
    names = config.label_names
    if names is not None and (not 1 <= len(names) <= IGNORED or len(set(names)) < len(names)):
        raise DataError(f"data.label_names={names}: give 1 to {IGNORED} names, each once, in the order of the classes.")
    if (values := config.mask_values) is not None:
        if config.label_names is not None:
            raise DataError(
                "data.mask_values and data.label_names both name the classes of masks: leave one out. The first names "
                "them by the values in the masks."
            )
        are_values = all(isinstance(value, int) and value >= 0 and name for value, name in values.items())
        if not are_values or not 1 <= len(class_names(values)) <= IGNORED:
            raise DataError(
                f"data.mask_values={values}: give names of 1 to {IGNORED} classes by value from 0 up, such as "
                "{0: background, 255: lesion}."
            )
        if config.ignore_index in values:
            raise DataError(
                f"data.ignore_index={config.ignore_index} stands for no class, and data.mask_values calls it "
                f"{values[config.ignore_index]!r}: leave it out of one."
            )
    if config.labels == "mask" and config.augmentation in ("random_resized_crop_flip", "randaugment"):
        raise DataError(
            f"data.augmentation={config.augmentation} does not move masks along with images: choose scale_crop_flip, "
            "which does."
        )


def _load_digits(config: DataConfig) -> _Loaded:
    from sklearn.datasets import load_digits

    names = ("subset", "image_column", "label_column", "train_split", "test_split", "test_fraction", "validation_split")
    usual = {"train_split": ("train",), "test_split": (None, "test")}
    if named := [name for name in names if getattr(config, name) not in usual.get(name, (None,))]:
        raise DataError(
            f"data.{named[0]}={getattr(config, named[0])!r}: this does not apply to the embedded digits. Leave it "
            "out, or write ./digits for a folder of that name."
        )
    if config.labels == "mask":
        raise DataError("data.labels=mask: the embedded digits have no masks. Name another data set (data.dataset).")
    digits: Any = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    wanted = config.preprocessing
    images = torch.stack(
        [to_bytes(bring_to_size(to_colours(Image.fromarray(image), wanted.num_channels), wanted)) for image in pixels]
    )
    labels = torch.from_numpy(digits.target.astype(np.int64))
    # A fixed fifth, whatever the seeds: the test split must be the same for everybody.
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    num_test = len(labels) // 5
    train, test = order[num_test:], order[:num_test]
    if config.labels == "none":
        return _Loaded(ArraySource(images[train], None), None, ArraySource(images[test], None), [])
    sources = (ArraySource(images[train], labels[train]), None, ArraySource(images[test], labels[test]))
    return _Loaded(*sources, label_names=[str(name) for name in digits.target_names])


def _load_from_datasets(config: DataConfig) -> _Loaded:
    loaded = load_splits(config)
    image_column, label_column = find_columns(loaded, config)
    labels, label_names = _read_labels(loaded, image_column, label_column, config)
    sources: dict[str, ImageSource] = {}
    for role, dataset in loaded.items():
        images = ImageColumn.of(dataset, image_column, split=str(dataset.split), max_pixels=config.max_image_pixels)
        source = DecodingSource(images, labels[role], config)
        sources[role] = keep_decoded(source, config, split=images.split) if config.in_memory else source
    return _Loaded(sources["train"], sources.get("validation"), sources.get("test"), label_names)


def _read_labels(
    loaded: Mapping[str, datasets.Dataset], image_column: str, column: str | None, config: DataConfig
) -> tuple[Mapping[str, Tensor | MaskColumn | None], list[str]]:
    if column is None:
        return dict.fromkeys(loaded), []
    if config.labels == "class":
        return _read_classes(loaded, image_column, column, config)
    masks = {
        role: ImageColumn.of(
            dataset,
            column,
            split=str(dataset.split),
            max_pixels=config.max_image_pixels,
            check=refuse_lossy,
            kind="mask",
        )
        for role, dataset in loaded.items()
    }
    if config.mask_values is not None:
        label_names = class_names(config.mask_values)
    elif config.label_names is not None:
        label_names = config.label_names
    else:
        num_classes = count_classes(_values_of(masks["train"]), masks["train"].split, config.ignore_index)
        label_names = [str(index) for index in range(num_classes)]
    classes = MaskClasses.of(config, len(label_names))
    return {role: MaskColumn(column, classes) for role, column in masks.items()}, label_names


def _values_of(masks: ImageColumn) -> set[int]:
    """All values that the pixels of masks have."""
    found: set[int] = set()

    def look(rows: range) -> None:
        for values in masks.read(rows, lambda _, mask: np.unique(mask_values(mask))):
            found.update(values.tolist())

    _in_rounds(look, len(masks), f"counting classes of {masks.split}")
    return found


def _read_classes(
    loaded: Mapping[str, datasets.Dataset], image_column: str, column: str, config: DataConfig
) -> tuple[dict[str, Tensor], list[str]]:
    found = {role: dataset[column][:] for role, dataset in loaded.items()}
    if set(found["train"]) == {None}:  # `datasets` gives images so that lie in a folder called as their split
        raise no_classes(loaded, image_column)
    feature = loaded["train"].features[column]
    if isinstance(feature, datasets.ClassLabel):
        label_names = list(feature.names)
        classes = {index: index for index in range(len(label_names))}
    else:
        values = sorted(label for label in set(found["train"]) if label is not None)
        label_names = [str(value) for value in values]
        classes = {value: index for index, value in enumerate(values)}
    for role, labels in found.items():
        if unknown := sorted({str(label) for label in labels if label not in classes}):
            raise DataError(
                f"split {str(loaded[role].split)!r} of {config.dataset} has the labels {', '.join(unknown[:5])}, "
                "which are not classes of the training split (-1 and None stand for unlabelled images): filter these "
                "rows out, or name another split."
            )
    return {
        role: torch.tensor([classes[label] for label in labels], dtype=torch.int64) for role, labels in found.items()
    }, label_names


def keep_decoded(source: ImageSource, config: DataConfig, *, split: str) -> ArraySource:
    """Decode all images of a source.

    Args:
        source: Whose images are numbered from 0.
        config: Size and colours wanted.
        split: Of the data set, for messages.

    Returns:
        The same images and labels.

    Raises:
        DataError: An image cannot be decoded, or memory does not hold them all.
    """
    everything = ImageSplit(source, np.arange(len(source)), config, augmented=False, name=split)
    wanted = config.preprocessing
    shape = (len(source), wanted.num_channels, *height_and_width(wanted.image_size))
    try:
        pixels = torch.empty(shape, dtype=torch.uint8)
    except (RuntimeError, MemoryError) as error:
        raise DataError(
            f"the {len(source)} images of split {split!r} need {math.prod(shape):,} bytes of memory at the size of "
            "data.image_size: set data.in_memory=false, or lower data.image_size."
        ) from error
    labels: list[Tensor] = []

    def keep(rows: range) -> None:
        pixels[rows.start : rows.stop] = source.images(rows, everything)
        if (found := source.labels(rows)) is not None:
            labels.append(found)

    _in_rounds(keep, len(source), f"decoding {split}")
    return ArraySource(pixels, torch.cat(labels) if labels else None)


def _in_rounds(read: Callable[[range], None], num_rows: int, task: str) -> None:
    """Read rows in parts of a few hundred, with a progress bar."""
    with progress_bar(total=num_rows, description=task, unit=" images", leave=False) as bar:
        for start in range(0, num_rows, 256):
            rows = range(start, min(start + 256, num_rows))
            read(rows)
            bar.update(len(rows))
