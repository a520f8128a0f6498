"""From a `DataConfig` to training, validation and test splits."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

import datasets
import numpy as np
import torch
from datasets.exceptions import DatasetsError
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from neumeta_hf.data.config import Augmentation, DataConfig
from neumeta_hf.data.splits import ArraySource, DecodingSource, ImageSource, ImageSplit, to_bytes, to_colours, to_size
from neumeta_hf.errors import DataError


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A data set, split.

    Attributes:
        train: What the network learns from.
        validation: What selection looks at.
        test: What is reported, once.
        label_names: Of the classes, in order.
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
            split is named for two purposes; a split has labels that training has not; or a field of the config is out
            of range.
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
    if config.num_channels not in (1, 3):
        raise DataError(f"data.num_channels={config.num_channels}: give 1 (grey) or 3 (RGB).")
    if config.image_size < 1:
        raise DataError(f"data.image_size={config.image_size}: give the height and width in pixels, at least 1.")
    for name in ("mean", "std"):
        values = getattr(config, name)
        if len(values) != config.num_channels or (name == "std" and min(values) <= 0):
            raise DataError(
                f"data.{name}={values}: give {config.num_channels} number(s), one per channel, std above 0."
            )
    if not 0 <= config.validation_fraction < 1:
        raise DataError(f"data.validation_fraction={config.validation_fraction}: give a fraction in [0, 1).")
    if config.augmentation not in (known := get_args(Augmentation)):
        raise DataError(f"data.augmentation={config.augmentation!r}: give one of {', '.join(known)}.")
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


def _load_digits(config: DataConfig) -> tuple[ImageSource, ImageSource, list[str]]:
    from sklearn.datasets import load_digits

    names = ("subset", "image_column", "label_column", "train_split", "test_split", "validation_split")
    if named := [name for name in names if getattr(config, name) != getattr(DataConfig(), name)]:
        raise DataError(
            f"data.{named[0]}={getattr(config, named[0])!r}: the embedded digits have nothing of that kind to name. "
            "Leave it out, or write ./digits for a folder of that name."
        )
    digits: Any = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = torch.stack([_decode_image(Image.fromarray(image), config) for image in pixels])
    labels = torch.from_numpy(digits.target.astype(np.int64))
    # A fixed fifth, whatever the seeds: the test split must be the same for everybody.
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    num_test = len(labels) // 5
    train, test = order[num_test:], order[:num_test]
    sources = (ArraySource(images[train], labels[train]), ArraySource(images[test], labels[test]))
    return *sources, [str(name) for name in digits.target_names]


def _load_from_datasets(config: DataConfig) -> tuple[ImageSource, ImageSource | None, ImageSource, list[str]]:
    names = {"train": config.train_split, "test": config.test_split}
    if config.validation_split is not None:
        names["validation"] = config.validation_split
    loaded = {split: _load_split(config, split) for split in names.values()}
    train = loaded[config.train_split]
    image_column = _find_column(config.image_column, train, datasets.Image, "image_column")
    label_column = _find_column(config.label_column, train, datasets.ClassLabel, "label_column")
    for split, dataset in loaded.items():
        for column in (image_column, label_column):
            if dataset.features.get(column) != train.features[column]:
                raise DataError(
                    f"column {column!r} of split {split!r} is not what it is in split {config.train_split!r}: "
                    f"{dataset.features.get(column)}, {train.features[column]}. Make the splits alike."
                )
    labels, label_names = _read_labels(loaded, label_column, config)
    sources: dict[str, ImageSource] = {}
    for role, split in names.items():
        images = loaded[split].select_columns([image_column])
        if config.in_memory:
            sources[role] = ArraySource(_decode(images, image_column, config, split=split), labels[split])
        else:
            sources[role] = DecodingSource(images, image_column, labels[split], config)
    return sources["train"], sources.get("validation"), sources["test"], label_names


def _read_labels(
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


def _find_column(named: str | None, dataset: Any, kind: type, field: str) -> str:
    columns = list(dataset.features)
    if named is not None:
        if named not in columns:
            raise DataError(f"data.{field}={named!r}: the data set has the columns {', '.join(columns)}.")
        feature = dataset.features[named]
        is_plain = isinstance(feature, datasets.Value) and feature.dtype.startswith(_LABEL_TYPES)
        if not (isinstance(feature, kind) or (kind is datasets.ClassLabel and is_plain)):
            raise DataError(
                f"data.{field}={named!r}: the column is {feature}, not {kind.__name__}"
                f"{' or whole numbers or strings' if kind is datasets.ClassLabel else ''}. Name another of "
                f"{', '.join(columns)}, or cast it."
            )
        return named
    found = [name for name, feature in dataset.features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        raise DataError(
            f"the data set has {len(found)} columns of type {kind.__name__} among {', '.join(columns)}: say which with "
            f"data.{field}."
        )
    return found[0]


def _decode_image(image: Image.Image | None, config: DataConfig) -> Tensor:
    return to_bytes(to_size(to_colours(image, config.num_channels), config.image_size))


def _decode(dataset: Any, image_column: str, config: DataConfig, *, split: str) -> Tensor:
    pixels = torch.empty(len(dataset), config.num_channels, config.image_size, config.image_size, dtype=torch.uint8)
    start = 0
    with tqdm(total=len(dataset), desc=f"decoding {split}", unit=" images", disable=None, leave=False) as bar:
        try:
            for batch in dataset.iter(batch_size=1000):
                for offset, image in enumerate(batch[image_column]):
                    pixels[start + offset] = _decode_image(image, config)
                start += len(batch[image_column])
                bar.update(len(batch[image_column]))
        except (OSError, SyntaxError) as error:  # PIL's words for a file that is no image, or a broken one
            raise DataError(
                f"an image of split {split!r} between rows {start} and {start + 999} cannot be decoded: {error}. Mend "
                "the file, or leave the row out."
            ) from error
    return pixels
