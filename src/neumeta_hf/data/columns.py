"""Which columns of a data set are its images, and which its classes or masks."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import datasets
import pyarrow.compute

from neumeta_hf.data.config import DataConfig
from neumeta_hf.errors import DataError

_LABEL_TYPES = ("int", "uint", "bool", "string", "large_string")
_MASK_NAMES = ("label", "labels", "mask", "annotation", "segmentation")


def find_columns(loaded: Mapping[str, datasets.Dataset], config: DataConfig) -> tuple[str, str | None]:
    """Find the columns of images and of labels.

    Args:
        loaded: The splits by role, "train" among them.
        config: Names the columns, or leaves them to be found by their types.

    Returns:
        Names of the columns of images, and of classes or masks; None where no labels are read.

    Raises:
        DataError: A column is missing, ambiguous, of another type, or not alike in all splits.
    """
    features: Mapping[str, Any] = loaded["train"].features
    image_column, label_column = _find(features, loaded, config)
    for dataset in loaded.values():
        for column in (image_column, label_column):
            if column is not None and dataset.features.get(column) != features[column]:
                raise DataError(
                    f"column {column!r} is {dataset.features.get(column)} in split {str(dataset.split)!r}, but "
                    f"{features[column]} in split {config.train_split!r}. Make the splits alike."
                )
    return image_column, label_column


def _find(
    features: Mapping[str, Any], loaded: Mapping[str, datasets.Dataset], config: DataConfig
) -> tuple[str, str | None]:
    if config.labels == "mask":
        return _find_pair(features, config)
    image_column = _find_column(config.image_column, features, datasets.Image, "image_column")
    if config.labels == "none":
        return image_column, None
    if config.label_column is None and not any(map(_is_label, features.values())):
        raise no_classes(loaded, image_column)
    return image_column, _find_column(config.label_column, features, datasets.ClassLabel, "label_column")


def _find_pair(features: Mapping[str, Any], config: DataConfig) -> tuple[str, str]:
    mask_column = config.label_column
    if mask_column is None:
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        called = [name for name in images if name in _MASK_NAMES and name != config.image_column]
        found = f"the data set has {len(images)} columns of type Image among {', '.join(features)}"
        if len(images) < 2:
            raise DataError(
                f"{found}, but masks need a second one beside the images. In a folder, a metadata.jsonl per split "
                'names the files of each pair: {"image_file_name": "images/1.png", "label_file_name": "masks/1.png"}.'
            )
        if len(images) != 2 or len(called) != 1:
            raise DataError(
                f"{found}: the column of masks is found without a name only if there are two and one is called "
                f"{', '.join(_MASK_NAMES)}. Say which with data.label_column."
            )
        mask_column = called[0]
    if mask_column == config.image_column:
        raise DataError(f"data.image_column and data.label_column are both {mask_column!r}: name two columns.")
    mask_column = _find_column(mask_column, features, datasets.Image, "label_column")
    others = {name: feature for name, feature in features.items() if name != mask_column}
    return _find_column(config.image_column, others, datasets.Image, "image_column"), mask_column


def _is_label(feature: Any) -> bool:
    is_plain = isinstance(feature, datasets.Value) and feature.dtype.startswith(_LABEL_TYPES)
    return is_plain or isinstance(feature, datasets.ClassLabel)


def _find_column(named: str | None, features: Mapping[str, Any], kind: type, field: str) -> str:
    if named is not None:
        if named not in features:
            raise DataError(
                f"data.{field}={named!r} is not a column of the data set, which has {', '.join(features)}. Name one "
                "of these."
            )
        feature = features[named]
        if not (isinstance(feature, kind) or (kind is datasets.ClassLabel and _is_label(feature))):
            raise DataError(
                f"data.{field}={named!r}: the column is {feature}, not {kind.__name__}"
                f"{' or whole numbers or strings' if kind is datasets.ClassLabel else ''}. Name another of "
                f"{', '.join(features)}, or cast it."
            )
        return named
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if not found and kind is datasets.Image:
        raise DataError(
            f"the data set has no column of type Image among {', '.join(features)}: name a data set of images "
            "(data.dataset), such as a folder of image files."
        )
    if len(found) != 1:
        raise DataError(
            f"the data set has {len(found)} columns of type {kind.__name__} among {', '.join(features)}: say which "
            f"with data.{field}."
        )
    return found[0]


def no_classes(loaded: Mapping[str, datasets.Dataset], image_column: str) -> DataError:
    """Say why a data set has images alone: `datasets` takes the folders of files for classes, or does not.

    Args:
        loaded: The splits by role.
        image_column: Name of the column of images.

    Returns:
        An error with the reason and the way out.
    """
    ways = (
        "put the images of each class into a folder of its own (such as train/cat/1.png), all equally deep, or set "
        "data.labels=none to use images alone."
    )
    files: list[PurePosixPath] = []
    for dataset in loaded.values():
        if not isinstance(dataset, datasets.Dataset):  # a stream, whose files are not known
            continue
        entries = dataset.data.column(image_column)
        paths = pyarrow.compute.struct_field(entries, "path").to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
        files += [PurePosixPath(path) for path in paths if path]
    folders = {file.parent for file in files}
    above = {folder for inner in folders for folder in inner.parents}
    stray = next((file for file in files if file.parent in above), None)
    if stray is not None:
        reason = (
            f"the file {'/'.join(stray.parts[-2:])!r} lies beside folders of images: folders are classes only if "
            "every image lies in one. Move it into one of them, or set data.labels=none to use images alone."
        )
    elif folders:
        names = sorted({folder.name for folder in folders})
        why = "and two classes are needed" if len(names) == 1 else "which are no classes"
        reason = f"all images lie in folders called {', '.join(map(repr, names[:5]))}, {why}. For classes, {ways}"
    else:
        columns = ", ".join(next(iter(loaded.values())).features)
        reason = f"its columns are {columns}. For classes in folders, {ways}"
    return DataError(f"the data set has no classes: {reason}")
