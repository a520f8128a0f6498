"""Batches of images as loaders give them, read as tensors that a network may measure on, or refused."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neumeta_hf.errors import CheckpointError

_KEY = "pixel_values"
_NORMALISE = (
    "Normalise as training did: through the image processor that is saved with the family, or (images / 255 - mean) / "
    "std with the mean and std of training"
)
_LARGEST_POSITIVE = 16.0
"""Images that a mean was taken from reach below zero. Without one, a std of 1/16 of the range gives 16 at most."""
_LARGEST = 1000.0
"""Beyond bytes that a mean was taken from and no std divided, and beyond a std of 1/1000."""


class NormalizedImages(list[Tensor]):
    """Batches that are known to be as training saw them, so that their range is right whatever it is.

    For networks that were trained on values that normalised images do not have, such as bytes.
    """


class ImageBatches:
    """Batches of any of the forms that `images_of` takes, as tensors; counts what was taken.

    Attributes:
        image_shape: Channels, height and width that the network is made for; None: not known.
        num_batches: Taken so far.
        num_images: Taken so far.

    Args:
        batches: The batches, gone through as often as this is.
        image_shape: See the attribute; with it, other numbers of channels are refused.

    Raises:
        CheckpointError: `batches` is one batch, or nothing that holds any.
    """

    def __init__(self, batches: Iterable[Any], image_shape: Sequence[int] | None = None):
        is_one = isinstance(batches, Tensor | np.ndarray | Mapping | str | bytes)
        if is_one or not (hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
            raise CheckpointError(
                f"calibration got a {type(batches).__name__}: give batches of images, such as a data loader, or a list "
                "[images] of one batch."
            )
        self._batches = batches
        self.image_shape = None if image_shape is None else tuple(image_shape)
        self.num_batches = 0
        self.num_images = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.num_batches = self.num_images = 0
        any_range = isinstance(self._batches, NormalizedImages)
        for batch in self._batches:
            self.num_batches += 1
            images = images_of(batch, f"calibration batch {self.num_batches}", any_range=any_range)
            if self.image_shape is not None and images.shape[1] != self.image_shape[0]:
                raise CheckpointError(
                    f"calibration batch {self.num_batches} has images of {images.shape[1]} channels (its shape is "
                    f"{list(images.shape)}), and the network takes {self.image_shape[0]}."
                )
            self.num_images += len(images)
            yield images


def images_of(batch: Any, name: str = "the batch", *, any_range: bool = False, may_be_empty: bool = False) -> Tensor:
    """Find the normalised images of a batch.

    Args:
        batch: A tensor or array, `[batch, channels, height, width]`; a mapping that holds one as "pixel_values", as
            image processors and this library's data give it; or a tuple or list that begins with one of these, such as
            images and labels.
        name: What to call it in errors.
        any_range: Whether finite values of any size are taken.
        may_be_empty: Whether there may be no image in it.

    Returns:
        The images, neither moved nor converted.

    Raises:
        CheckpointError: It is something else, holds integers, NaN or infinite values, is of another rank or empty, or
            has values that no normalised image has.
    """
    inside = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if isinstance(inside, Mapping):
        if _KEY not in inside:
            raise CheckpointError(
                f"{name} is a mapping of {', '.join(map(str, inside)) or 'nothing'}: give images as {_KEY!r}."
            )
        inside = inside[_KEY]
    images = _as_tensor(inside)
    if images is None:
        held = type(batch).__name__ + (f" of a {type(inside).__name__}" if inside is not batch else "")
        raise CheckpointError(
            f"{name} is a {held}: give a tensor of images, a mapping with {_KEY!r} (as image processors make it with "
            'return_tensors="pt"), or images and labels as a pair.'
        )
    if not images.is_floating_point():
        raise CheckpointError(
            f"{name} holds {_dtype_of(images)}, and the network takes normalised floats. {_NORMALISE}."
        )
    if images.ndim != 4:
        raise CheckpointError(
            f"{name} has shape {list(images.shape)}: give [batch, channels, height, width]"
            + (", images[None] for one image." if images.ndim == 3 else ".")
        )
    if images.numel() == 0:
        if may_be_empty and len(images) == 0:
            return images
        raise CheckpointError(f"{name} has shape {list(images.shape)}: there is no image in it. Leave it out.")
    low, high = (value.item() for value in images.detach().float().aminmax())
    if not -torch.inf < low <= high < torch.inf:
        raise CheckpointError(f"{name} holds NaN or infinite values: look for a broken image, or a std of 0.")
    if not any_range and (high > _LARGEST or low < -_LARGEST or (low >= 0 and high > _LARGEST_POSITIVE)):
        raise CheckpointError(
            f"{name} reaches from {low:g} to {high:g}, which no normalised images do. {_NORMALISE}; where training "
            "saw such values, wrap the batches in neumeta_hf.image_batches.NormalizedImages."
        )
    return images


def _as_tensor(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(value.copy())
        except TypeError:  # of objects, or of text
            return None
    is_dense = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
    return value if is_dense else None


def _dtype_of(images: Tensor) -> str:
    return str(images.dtype).removeprefix("torch.")
