"""Images of a data set, decoded one at a time: bounded in size, and each that cannot be read named by row and file."""

import contextlib
import dataclasses
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar

import datasets
import fsspec
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from neumeta_hf.errors import DataError, one_line

Result = TypeVar("Result")

_ENTRIES_AT_ONCE = 32  # as they are in their files, which can have many megabytes each


@dataclasses.dataclass(frozen=True)
class ImageColumn:
    """A column of images.

    Attributes:
        rows: The data set with this column alone, undecoded.
        name: Name of the column.
        split: Split of the data set, for messages.
        max_pixels: Most pixels of one image.
        mode: What the column says its images are converted to; None: nothing.
        check: Is called with each image that is opened and not yet decoded; a DataError of it refuses the image.
        kind: What messages call one of them.
    """

    rows: Any
    name: str
    split: str
    max_pixels: int
    mode: str | None = None
    check: Callable[[Image.Image], None] | None = None
    kind: str = "image"

    @classmethod
    def of(cls, dataset: datasets.Dataset, name: str, **fields: Any) -> "ImageColumn":
        """Take a column out of a data set.

        Args:
            dataset: Has the column, of type Image.
            name: Name of the column.
            **fields: The others.

        Returns:
            The column.
        """
        feature: Any = dataset.features[name]
        rows = dataset.select_columns([name]).cast_column(name, datasets.Image(decode=False))
        return cls(rows, name, mode=feature.mode, **fields)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: Sequence[int], convert: Callable[[int, Image.Image], Result]) -> Iterator[Result]:
        """Decode images one after the other, so that one is held at its full size at a time.

        Args:
            indices: Rows of the data set.
            convert: Is called with the row and the image; a DataError of it says what the image is or has.

        Yields:
            What `convert` returns.

        Raises:
            DataError: An image is missing, broken, too large or refused; it names the row, and the file if there is
                one.
        """
        for start in range(0, len(indices), _ENTRIES_AT_ONCE):
            part = list(indices[start : start + _ENTRIES_AT_ONCE])
            try:
                entries = self.rows[part][self.name]
            except Exception as error:
                raise DataError(
                    f"rows {part[0]} to {part[-1]} of split {self.split!r} cannot be read: {one_line(error)}. Load the "
                    "data set anew."
                ) from error
            for index, entry in zip(part, entries, strict=True):
                yield self._read(index, entry, convert)

    def _read(self, index: int, entry: Any, convert: Callable[[int, Image.Image], Result]) -> Result:
        where = f"the {self.kind} in row {index} of split {self.split!r}"
        if entry is not None and entry["path"]:
            where += f" ({'/'.join(PurePosixPath(entry['path']).parts[-2:])!r})"
        try:
            return convert(index, self._decode(entry))
        except DataError as error:
            raise DataError(f"{where} {error}", command=f"{where} {error.command}") from None
        except Image.DecompressionBombError as error:
            raise DataError(
                f"{where} has more pixels than data.max_image_pixels={self.max_pixels}: make it smaller, leave the row "
                "out, or raise the limit."
            ) from error
        except Exception as error:  # of PIL, numpy, fsspec: there is no end of what broken files make them raise
            raise DataError(f"{where} cannot be decoded: {_reason(error)}") from error

    def _decode(self, entry: Any) -> Image.Image:
        # To the pixel what `datasets.Image.decode_example` gives.
        if entry is None or (entry["bytes"] is None and entry["path"] is None):
            raise DataError("is missing (None): filter such rows out.")
        source = entry["path"] if entry["bytes"] is None else io.BytesIO(entry["bytes"])
        if isinstance(source, str) and "://" in source:
            with fsspec.open(source, "rb") as file:
                source = io.BytesIO(file.read())  # pyright: ignore[reportAttributeAccessIssue]
        with _at_most(self.max_pixels), Image.open(source) as opened:
            if opened.format == "EPS":
                raise DataError("is an EPS file, which is a program that would be run to draw it: save it as PNG.")
            if self.check is not None:
                self.check(opened)
            opened.load()
            image: Image.Image = opened
            if opened.getexif().get(ExifTags.Base.Orientation) is not None:
                image = ImageOps.exif_transpose(opened)
            return image if self.mode in (None, image.mode) else image.convert(self.mode)


def _reason(error: Exception) -> str:
    """What is wrong with an image, and the way out."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image, or Pillow does not know its format. Mend the file, or leave the row out."
    if isinstance(error, FileNotFoundError):
        return "the file is not there. Put it back, or leave the row out."
    if isinstance(error, MemoryError):
        return "there is too little memory for it. Make it smaller, or leave the row out."
    if "PngImagePlugin.MAX_TEXT" in str(error):
        return "its texts or its colour profile are too long. Save it again without them, or leave the row out."
    return f"{one_line(error).rstrip('.')}. Mend the file, or leave the row out."


class _Limit(int):
    """A number of pixels above which PIL fails. Of a plain one it warns above that, and fails above twice it."""

    def __rmul__(self, other: int) -> int:
        return int(self)


_LIMIT_IN_PLACE = threading.Lock()  # PIL's limit is one for the process


@contextlib.contextmanager
def _at_most(num_pixels: int) -> Iterator[None]:
    """Let PIL open and decode images up to a size, and leave its own limit as it was."""
    with _LIMIT_IN_PLACE:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _Limit(num_pixels)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
