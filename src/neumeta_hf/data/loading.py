"""From a `DataConfig` to training, validation and test splits."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

import datasets
import numpy as np
import torch
from datasets.exceptions import DatasetsError
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from neumeta_hf.data.config import Augmentation, DataConfig, Labels, Preprocessing
from neumeta_hf.data.splits import (
    ArraySource,
    DecodingSource,
    ImageSource,
    ImageSplit,
    MaskColumn,
    bring_to_size,
    to_bytes,
    to_classes,
    to_colours,
)
from neumeta_hf.errors import DataError
from neumeta_hf.images import IGNORED, Interpolation, height_and_width


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A data set, split.

    Attributes:
        train: What the network learns from.
        validation: What selection looks at.
        test: What is reported, once.
        label_names: Of the classes, in order; none where no labels are read.
    """

    train: ImageSplit
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
        DataError: The data set cannot be found or read; a split or column is missing, ambiguous or of another type; one
            split is named for two purposes; a split has labels that training has not; a mask has colours or values that
            are no classes; or a field of the config is out of range or does not fit the others.
    """
    _check(config)
    if config.dataset == "digits":
        train, test, label_names = _load_digits(config)
        validation = None
    else:
        train, validation, test, label_names = _load_from_datasets(config)
    order = np.random.default_rng(config.data_seed).permutation(len(train))
    num_validation = round(len(train) * config.validation_fraction) if validation is None else 0
    kept, cut = np.sort(order[num_validation:]), np.sort(order[:num_validation])
    if validation is None:
        validation, chosen = train, cut
    else:
        chosen = np.arange(len(validation))
    return ImageData(
        train=ImageSplit(train, kept, config, augmented=config.augmentation != "none", name="train"),
        validation=ImageSplit(validation, chosen, config, augmented=False, name="validation"),
        test=ImageSplit(test, np.arange(len(test)), config, augmented=False, name="test"),
        label_names=label_names,
    )


def _check(config: DataConfig) -> None:
    _check_preprocessing(config.preprocessing)
    if not 0 <= config.validation_fraction < 1:
        raise DataError(f"data.validation_fraction={config.validation_fraction}: give a fraction in [0, 1).")
    if config.augmentation not in (known := get_args(Augmentation)):
        raise DataError(f"data.augmentation={config.augmentation!r}: give one of {', '.join(known)}.")
    _check_labels(config)
    if config.augmentation == "random_resized_crop_flip" and (config.in_memory or config.dataset == "digits"):
        raise DataError(
            "data.augmentation=random_resized_crop_flip crops the original image, which is not kept in memory: set "
            "data.in_memory=false. For the embedded digits choose another augmentation."
        )
    names = [config.train_split, config.test_split, config.validation_split]
    if twice := sorted({name for name in names if name is not None and names.count(name) > 1}):
        raise DataError(
            f"split {twice[0]!r} is named twice among data.train_split, data.validation_split and data.test_split: "
            "images that were trained on or selected by say nothing when they are tested on. Leave out "
            "data.validation_split to have one cut from the training split."
        )


def _check_preprocessing(wanted: Preprocessing) -> None:
    if wanted.num_channels not in (1, 3):
        raise DataError(f"data.num_channels={wanted.num_channels}: give 1 (grey) or 3 (RGB).")
    sides = [wanted.image_size] * 2 if isinstance(wanted.image_size, int) else wanted.image_size
    if len(sides) != 2 or min(sides) < 1:
        raise DataError(
            f"data.image_size={wanted.image_size}: give the height and width in pixels, at least 1, as one number or "
            "as [height, width]."
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
    for name in ("label_names", "ignore_index"):
        if config.labels != "mask" and (value := getattr(config, name)) is not None:
            raise DataError(f"data.{name}={value}: it is of masks. Leave it out, or set data.labels=mask.")
    names = config.label_names
    if names is not None and (not 1 <= len(names) <= IGNORED or len(set(names)) < len(names)):
        raise DataError(f"data.label_names={names}: give 1 to {IGNORED} names, each once, in the order of the classes.")
    if config.labels == "mask" and config.augmentation == "random_resized_crop_flip":
        raise DataError(
            "data.augmentation=random_resized_crop_flip moves no masks along: choose scale_crop_flip, which does."
        )


def _load_digits(config: DataConfig) -> tuple[ImageSource, ImageSource, list[str]]:
    from sklearn.datasets import load_digits

    names = ("subset", "image_column", "label_column", "train_split", "test_split", "validation_split")
    if named := [name for name in names if getattr(config, name) != getattr(DataConfig(), name)]:
        raise DataError(
            f"data.{named[0]}={getattr(config, named[0])!r}: the embedded digits have nothing of that kind to name. "
            "Leave it out, or write ./digits for a folder of that name."
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
        return ArraySource(images[train], None), ArraySource(images[test], None), []
    sources = (ArraySource(images[train], labels[train]), ArraySource(images[test], labels[test]))
    return *sources, [str(name) for name in digits.target_names]


def _load_from_datasets(config: DataConfig) -> tuple[ImageSource, ImageSource | None, ImageSource, list[str]]:
    names = {"train": config.train_split, "test": config.test_split}
    if config.validation_split is not None:
        names["validation"] = config.validation_split
    loaded = {split: _load_split(config, split) for split in names.values()}
    train = loaded[config.train_split]
    image_column, label_column = _find_columns(train.features, config)
    for split, dataset in loaded.items():
        for column in (image_column, label_column):
            if column is not None and dataset.features.get(column) != train.features[column]:
                raise DataError(
                    f"column {column!r} of split {split!r} is not what it is in split {config.train_split!r}: "
                    f"{dataset.features.get(column)}, {train.features[column]}. Make the splits alike."
                )
    labels, label_names = _read_labels(loaded, label_column, config)
    sources: dict[str, ImageSource] = {}
    for role, split in names.items():
        source = DecodingSource(loaded[split], image_column, labels[split], config)
        sources[role] = _keep(source, config, split=split) if config.in_memory else source
    return sources["train"], sources.get("validation"), sources["test"], label_names


def _read_labels(
    loaded: Mapping[str, datasets.Dataset], column: str | None, config: DataConfig
) -> tuple[Mapping[str, Tensor | MaskColumn | None], list[str]]:
    if column is None:
        return dict.fromkeys(loaded), []
    if config.labels == "class":
        return _read_classes(loaded, column, config)
    label_names = config.label_names
    if label_names is None:
        label_names = [str(index) for index in range(_count_classes(loaded[config.train_split], column, config))]
    return {split: MaskColumn(column, split, len(label_names), config.ignore_index) for split in loaded}, label_names


def _count_classes(train: datasets.Dataset, column: str, config: DataConfig) -> int:
    any_class = MaskColumn(column, config.train_split, IGNORED, config.ignore_index)
    masks = train.select_columns([column])
    seen = np.zeros(IGNORED + 1, dtype=bool)

    def look(rows: range) -> None:
        for mask in masks[list(rows)][column]:
            seen[np.asarray(to_classes(mask, any_class))] = True

    _in_rounds(look, len(train), split=config.train_split, task="counting classes of")
    if not seen[:IGNORED].any():
        raise DataError(
            f"the masks of split {config.train_split!r} have no class: every pixel is {IGNORED} or "
            f"data.ignore_index={config.ignore_index}. Mend the masks, or give data.ignore_index another value."
        )
    return int(np.flatnonzero(seen[:IGNORED])[-1]) + 1


def _read_classes(
    loaded: Mapping[str, datasets.Dataset], column: str, config: DataConfig
) -> tuple[dict[str, Tensor], list[str]]:
    train = loaded[config.train_split]
    found = {split: dataset[column][:] for split, dataset in loaded.items()}
    feature = train.features[column]
    if isinstance(feature, datasets.ClassLabel):
        label_names = list(feature.names)
        classes = {index: index for index in range(len(label_names))}
    else:
        values = sorted(label for label in set(found[config.train_split]) if label is not None)
        label_names = [str(value) for value in values]
        classes = {value: index for index, value in enumerate(values)}
    for split, labels in found.items():
        if unknown := sorted({str(label) for label in labels if label not in classes}):
            raise DataError(
                f"split {split!r} of {config.dataset} has the labels {', '.join(unknown[:5])}, which are no classes of "
                "the training split (-1 and None stand for unlabelled images): name another split."
            )
    return {
        split: torch.tensor([classes[label] for label in labels], dtype=torch.int64) for split, labels in found.items()
    }, label_names


def _load_split(config: DataConfig, split: str) -> Any:
    try:
        return datasets.load_dataset(config.dataset, config.subset, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise DataError(
            f"split {split!r} of data set {config.dataset!r} cannot be loaded: {reason}. Without the network pass a "
            "local folder of the same data (data.dataset=path/to/folder); splits are named by data.train_split, "
            "data.validation_split and data.test_split."
        ) from error


_LABEL_TYPES = ("int", "uint", "bool", "string", "large_string")
_MASK_NAMES = ("label", "labels", "mask", "annotation", "segmentation")


def _find_columns(features: Mapping[str, Any], config: DataConfig) -> tuple[str, str | None]:
    if config.labels == "none":
        return _find_column(config.image_column, features, datasets.Image, "image_column"), None
    if config.labels == "class":
        image_column = _find_column(config.image_column, features, datasets.Image, "image_column")
        return image_column, _find_column(config.label_column, features, datasets.ClassLabel, "label_column")
    mask_column = config.label_column
    if mask_column is None:
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        called = [name for name in images if name in _MASK_NAMES and name != config.image_column]
        if len(images) != 2 or len(called) != 1:
            raise DataError(
                f"the data set has {len(images)} columns of type Image among {', '.join(features)}: masks are found by "
                f"themselves in one of two that is called {', '.join(_MASK_NAMES)}. Say which with data.label_column."
            )
        mask_column = called[0]
    if mask_column == config.image_column:
        raise DataError(f"data.image_column and data.label_column are both {mask_column!r}: name two columns.")
    mask_column = _find_column(mask_column, features, datasets.Image, "label_column")
    others = {name: feature for name, feature in features.items() if name != mask_column}
    return _find_column(config.image_column, others, datasets.Image, "image_column"), mask_column


def _find_column(named: str | None, features: Mapping[str, Any], kind: type, field: str) -> str:
    if named is not None:
        if named not in features:
            raise DataError(f"data.{field}={named!r}: the data set has the columns {', '.join(features)}.")
        feature = features[named]
        is_plain = isinstance(feature, datasets.Value) and feature.dtype.startswith(_LABEL_TYPES)
        if not (isinstance(feature, kind) or (kind is datasets.ClassLabel and is_plain)):
            raise DataError(
                f"data.{field}={named!r}: the column is {feature}, not {kind.__name__}"
                f"{' or whole numbers or strings' if kind is datasets.ClassLabel else ''}. Name another of "
                f"{', '.join(features)}, or cast it."
            )
        return named
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        raise DataError(
            f"the data set has {len(found)} columns of type {kind.__name__} among {', '.join(features)}: say which "
            f"with data.{field}."
        )
    return found[0]


def _keep(source: DecodingSource, config: DataConfig, *, split: str) -> ArraySource:
    everything = ImageSplit(source, np.arange(len(source)), config, augmented=False, name=split)
    wanted = config.preprocessing
    pixels = torch.empty(len(source), wanted.num_channels, *height_and_width(wanted.image_size), dtype=torch.uint8)
    labels: list[Tensor] = []

    def keep(rows: range) -> None:
        pixels[rows.start : rows.stop] = source.images(rows, everything)
        if (found := source.labels(rows)) is not None:
            labels.append(found)

    _in_rounds(keep, len(source), split=split, task="decoding")
    return ArraySource(pixels, torch.cat(labels) if labels else None)


def _in_rounds(decode: Callable[[range], None], num_rows: int, *, split: str, task: str) -> None:
    with tqdm(total=num_rows, desc=f"{task} {split}", unit=" images", disable=None, leave=False) as bar:
        for start in range(0, num_rows, 1000):
            rows = range(start, min(start + 1000, num_rows))
            try:
                decode(rows)
            except (OSError, SyntaxError) as error:  # PIL's words for a file that is no image, or a broken one
                raise DataError(
                    f"an image of split {split!r} between rows {start} and {start + 999} cannot be decoded: {error}. "
                    "Mend the file, or leave the row out."
                ) from error
            bar.update(len(rows))
