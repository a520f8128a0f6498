"""Images that are read as they come, and decoded when a batch has them."""

import copy
import dataclasses
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import datasets
import numpy as np
import torch
from torch import Tensor

from neumeta_hf.data.columns import find_columns
from neumeta_hf.data.config import DataConfig
from neumeta_hf.data.decoding import ImageColumn
from neumeta_hf.data.loading import ImageData, check_images, keep_decoded
from neumeta_hf.data.masks import MaskClasses, class_names, refuse_lossy
from neumeta_hf.data.partition import open_streams
from neumeta_hf.data.splits import DecodingSource, ImageSource, ImageSplit, MaskColumn, RenumberedSource
from neumeta_hf.data.streams import Place, StreamSplit
from neumeta_hf.errors import DataError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class StreamedColumns:
    """What of each row is read.

    Attributes:
        image: Column of the images.
        label: Column of the classes or masks; None: none is read.
        modes: What columns of images say theirs are converted to, where they say so.
        label_names: Of the classes, in order.
        masks: What values of masks stand for; None: labels are classes.
    """

    image: str
    label: str | None
    modes: Mapping[str, str | None]
    label_names: Sequence[str]
    masks: MaskClasses | None


class ImageStream(StreamSplit):
    """Images in their files, mixed before they are decoded.

    Args:
        documents: As `datasets` streams them; their images are not decoded.
        columns: What of a row is read.
        config: Size of windows, the seed, and how images reach the network.
        augmented: Whether images are augmented: each by its round and its number in it.
        name: Of the split, for messages.
    """

    def __init__(
        self,
        documents: datasets.IterableDataset,
        columns: StreamedColumns,
        config: DataConfig,
        *,
        augmented: bool,
        name: str,
    ):
        super().__init__(documents, config, name=name)
        self.columns = columns
        self.augmented = augmented
        self._numbers: Sequence[int] | None = None

    @property
    def lack(self) -> str:
        """As `StreamSplit` says."""
        return "have no row: name another split"

    def windows(self, documents: Iterator[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
        """Rows as they are stored, as `StreamSplit` says."""
        size = self.config.shuffle_blocks
        while window := list(itertools.islice(documents, size)):
            self._warn_of_order(window)
            yield window

    def batch(
        self, rows: Sequence[Any], places: Sequence[Place], *, rank: int, num_processes: int
    ) -> dict[str, Tensor]:
        """As from an `ImageSplit`; images are mixed with others of the batch."""
        found: list[dict[str, Tensor]] = []
        pairs = zip(places, rows, strict=True)
        for epoch, part in itertools.groupby(pairs, key=lambda pair: pair[0].round):
            numbered = {
                (place.window * self.config.shuffle_blocks + place.index) * num_processes + rank: row
                for place, row in part
            }
            split = self._split_of(numbered)
            split.set_epoch(epoch)
            found.append(split.__getitems__(range(len(split))))
        return {name: torch.cat([batch[name] for batch in found]) for name in found[0]}

    def shown(self, batch: Mapping[str, Tensor]) -> Tensor:
        """As of an `ImageSplit`."""
        return self._split_of({}).shown(batch)

    def head(self, num_images: int) -> ImageSplit:
        """The first images, augmented as in the first round.

        Args:
            num_images: How many; all of them where there are fewer.

        Returns:
            A split that has them in their files.

        Raises:
            DataError: There is none.
        """
        rows = list(itertools.islice(copy.deepcopy(self.documents), num_images))
        if not rows:
            raise DataError(f"the {self.name} split has no row: name another (data.{self.name}_split).")
        return self._split_of(dict(enumerate(rows)))

    def renumbered(self, numbers: Sequence[int]) -> Self:
        """The same images, whose classes have other numbers.

        Args:
            numbers: Of each class, in its order, the number that it gets.

        Returns:
            Another stream; this one does not change.
        """
        other = copy.copy(self)
        other._numbers = numbers
        return other

    def _split_of(self, rows: Mapping[int, Mapping[str, Any]]) -> ImageSplit:
        """Some rows by their numbers."""
        columns, config = self.columns, self.config
        images = self._column(columns.image, rows)
        labels: MaskColumn | None = None
        if columns.label is not None and columns.masks is not None:
            masks = self._column(columns.label, rows, check=refuse_lossy, kind="mask")
            labels = MaskColumn(masks, columns.masks)
        source: ImageSource = DecodingSource(images, labels, config)
        if columns.label is not None and columns.masks is None:
            source = _WithClasses(source, {number: self._class(row) for number, row in rows.items()})
        if self._numbers is not None:
            source = RenumberedSource(source, self._numbers)
        return ImageSplit(
            source, np.array(list(rows), dtype=np.int64), config, augmented=self.augmented, name=self.name
        )

    def _column(self, name: str, rows: Mapping[int, Mapping[str, Any]], **fields: Any) -> ImageColumn:
        options = {"split": self.name, "max_pixels": self.config.max_image_pixels, "mode": self.columns.modes[name]}
        return ImageColumn(_Entries(name, rows), name, **options, **fields)

    def _class(self, row: Mapping[str, Any]) -> int:
        label = row[str(self.columns.label)]
        if type(label) is not int or not 0 <= label < len(self.columns.label_names):
            raise DataError(
                f"a row of the {self.name} split has the label {label!r} in column {self.columns.label!r}, but "
                f"classes are 0 to {len(self.columns.label_names) - 1} (-1 and None stand for unlabelled images): "
                "filter such rows out."
            )
        return label

    def _warn_of_order(self, window: Sequence[Mapping[str, Any]]) -> None:
        columns = self.columns
        if columns.label is None or columns.masks is not None or len(window) == 1 or len(columns.label_names) == 1:
            return
        if all(row[columns.label] == window[0][columns.label] for row in window):
            logger.warning(
                "%d consecutive rows of the %s split are of one class, and so are the batches made of them: store the "
                "rows in mixed order, or raise data.shuffle_blocks (%d now)",
                len(window),
                self.name,
                self.config.shuffle_blocks,
            )


class _Entries:
    """Stored images of some rows by their numbers, as `ImageColumn` asks a data set for them."""

    def __init__(self, name: str, rows: Mapping[int, Mapping[str, Any]]):
        self._name = name
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, numbers: Sequence[int]) -> dict[str, list[Any]]:
        return {self._name: [self._rows[number][self._name] for number in numbers]}


class _WithClasses:
    """Images of a source, with classes by number."""

    def __init__(self, source: ImageSource, classes: Mapping[int, int]):
        self._source = source
        self._classes = classes

    def __len__(self) -> int:
        return len(self._source)

    def images(self, indices: Sequence[int], split: ImageSplit) -> Tensor:
        return self._source.images(indices, split)

    def labels(self, indices: Sequence[int]) -> Tensor | None:
        return torch.tensor([self._classes[index] for index in indices], dtype=torch.int64)


def stream_image_data(config: DataConfig) -> ImageData:
    """Open images as streams: training reads on and on, validation and test keep their first images, decoded.

    Args:
        config: Says which, how images reach the network, and how many are kept.

    Returns:
        The splits.

    Raises:
        DataError: As `load_image_data`; or classes or columns are known only once all rows were read, or a key of the
            config makes no sense of a stream.
    """
    check_images(config)
    if config.dataset == "digits":
        raise DataError("data.streaming=true: the embedded digits are in memory. Set it to false.")
    streams = open_streams(config)
    for role, documents in streams.items():
        if documents.features is None:
            raise DataError(
                f"the column types of the {role} split are known only after all of it is read: save it as parquet, or "
                "set data.streaming to false."
            )
    image, label = find_columns(streams, config)
    columns = _columns(streams["train"].features, image, label, config)
    stored = {
        role: _undecoded(documents.select_columns([name for name in (image, label) if name is not None]), columns)
        for role, documents in streams.items()
    }
    is_augmented = config.augmentation != "none" or config.mixup > 0 or config.cutmix > 0
    kept = {}
    for role in ("validation", "test"):
        split = ImageStream(stored[role], columns, config, augmented=False, name=role).head(config.kept_blocks)
        split.source = keep_decoded(split.source, config, split=role)
        kept[role] = split
    train = ImageStream(stored["train"], columns, config, augmented=is_augmented, name="train")
    return ImageData(train=train, **kept, label_names=list(columns.label_names))


def _columns(features: Any, image: str, label: str | None, config: DataConfig) -> StreamedColumns:
    modes = {name: feature.mode for name, feature in features.items() if isinstance(feature, datasets.Image)}
    if label is None:
        return StreamedColumns(image, None, modes, [], None)
    if config.labels == "class":
        if not isinstance(features[label], datasets.ClassLabel):
            raise DataError(
                f"data.label_column={label!r}: the classes of a column of {features[label].dtype} are known only "
                "after all of it is read. Name a column of type ClassLabel, or set data.streaming to false."
            )
        return StreamedColumns(image, label, modes, list(features[label].names), None)
    names = class_names(config.mask_values) if config.mask_values is not None else config.label_names
    if names is None:
        raise DataError(
            "data.labels=mask: the classes are known only after all masks are read. Name them (data.label_names or "
            "data.mask_values), or set data.streaming to false."
        )
    return StreamedColumns(image, label, modes, names, MaskClasses.of(config, len(names)))


def _undecoded(documents: Any, columns: StreamedColumns) -> Any:
    for name in (columns.image, columns.label):
        if name in columns.modes:
            documents = documents.cast_column(name, datasets.Image(decode=False))
    return documents
