"""From a `DataConfig` to training, validation and test splits."""

import dataclasses
import logging
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from neumeta_hf.data.config import DataConfig
from neumeta_hf.data.splits import ArraySource, DecodingSource, ImageSource, ImageSplit, to_bytes
from neumeta_hf.errors import DataError

logger = logging.getLogger(__name__)


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
        DataError: The data set cannot be found or read, a split or column is missing or ambiguous, mean and std do not
            fit the channels, or the augmentation does not fit `in_memory`.
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
    everything = np.arange(len(validation)) if validation is not None else cut
    return ImageData(
        train=ImageSplit(train, kept, config, augmented=config.augmentation != "none", name="train"),
        validation=ImageSplit(validation or train, everything, config, augmented=False, name="validation"),
        test=ImageSplit(test, np.arange(len(test)), config, augmented=False, name="test"),
        label_names=label_names,
    )


def _check(config: DataConfig) -> None:
    for name in ("mean", "std"):
        values = getattr(config, name)
        if len(values) != config.num_channels or (name == "std" and min(values) <= 0):
            raise DataError(f"data.{name}={values}: give {config.num_channels} number(s), one per channel, std above 0.")
    if not 0 <= config.validation_fraction < 1:
        raise DataError(f"data.validation_fraction={config.validation_fraction}: give a fraction in [0, 1).")
    if config.augmentation == "random_resized_crop_flip" and config.in_memory:
        raise DataError("data.augmentation=random_resized_crop_flip crops the original image: set data.in_memory=false.")


def _load_digits(config: DataConfig) -> tuple[ImageSource, ImageSource, list[str]]:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = torch.stack(
        [to_bytes(Image.fromarray(image), config.image_size, config.num_channels) for image in pixels]
    )
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
    loaded = {role: _load_split(config, split) for role, split in names.items()}
    image_column = _find_column(config.image_column, loaded["train"], datasets.Image, "image_column")
    label_column = _find_column(config.label_column, loaded["train"], datasets.ClassLabel, "label_column")
    feature = loaded["train"].features[label_column]
    if isinstance(feature, datasets.ClassLabel):
        label_names = list(feature.names)
        classes = {index: index for index in range(len(label_names))}
    else:
        values = sorted(set(loaded["train"][label_column][:]))
        label_names, classes = [str(value) for value in values], {value: index for index, value in enumerate(values)}
    sources: dict[str, ImageSource] = {}
    for role, dataset in loaded.items():
        found = dataset[label_column][:]
        if unknown := sorted({label for label in found if label not in classes}):
            raise DataError(
                f"split {names[role]!r} of {config.dataset} has the labels {unknown[:5]}, which the training split has "
                "not (-1 stands for an unlabelled split): name another split."
            )
        labels = torch.tensor([classes[label] for label in found])
        if config.in_memory:
            sources[role] = ArraySource(_decode(dataset, image_column, config), labels)
        else:
            sources[role] = DecodingSource(dataset.select_columns([image_column]), image_column, labels, config)
    return sources["train"], sources.get("validation"), sources["test"], label_names


def _load_split(config: DataConfig, split: str) -> Any:
    try:
        return datasets.load_dataset(config.dataset, config.subset, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"split {split!r} of data set {config.dataset!r} cannot be loaded: {reason}. Without the network pass a local "
            "folder of the same data (data.dataset=path/to/folder); split names are data.train_split and data.test_split."
        ) from error


def _find_column(named: str | None, dataset: Any, kind: type, field: str) -> str:
    columns = list(dataset.features)
    if named is not None:
        if named not in columns:
            raise DataError(f"data.{field}={named!r}: the data set has the columns {', '.join(columns)}.")
        return named
    found = [name for name, feature in dataset.features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        raise DataError(
            f"the data set has {len(found)} columns of type {kind.__name__} among {', '.join(columns)}: say which with "
            f"data.{field}."
        )
    return found[0]


def _decode(dataset: Any, image_column: str, config: DataConfig) -> Tensor:
    pixels = torch.empty(len(dataset), config.num_channels, config.image_size, config.image_size, dtype=torch.uint8)
    images = dataset.select_columns([image_column])
    start = 0
    bar = tqdm(total=len(dataset), desc="decoding images", disable=None, leave=False)
    for batch in images.iter(batch_size=1000):
        for image in batch[image_column]:
            pixels[start] = to_bytes(image, config.image_size, config.num_channels)
            start += 1
        bar.update(len(batch[image_column]))
    bar.close()
    return pixels
