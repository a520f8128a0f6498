"""Image splits: a map from indices to a normalised batch."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neumeta_hf.data.augmentation import crop, flip, random_resized_crop, scale_crop
from neumeta_hf.data.base import RowSplit
from neumeta_hf.data.config import DataConfig, Preprocessing
from neumeta_hf.data.decoding import ImageColumn
from neumeta_hf.data.masks import MaskClasses, to_classes
from neumeta_hf.data.mixing import draw_others, mix
from neumeta_hf.data.randaugment import randaugment
from neumeta_hf.errors import DataError
from neumeta_hf.images import IGNORED, covering_size, height_and_width, resampling


class ImageSource(Protocol):
    """Decoded images and labels by number; what a split reads from."""

    def __len__(self) -> int: ...

    def images(self, indices: Sequence[int], split: "ImageSplit") -> Tensor:
        """Images as bytes, `[batch, channels, height, width]`."""
        ...

    def labels(self, indices: Sequence[int]) -> Tensor | None:
        """Classes, int64 `[batch]`; masks, uint8 `[batch, height, width]`; or None."""
        ...


class ArraySource:
    """All images decoded, in memory.

    Args:
        pixels: uint8, `[images, channels, height, width]`.
        labels: Classes, int64 `[images]`; masks, uint8 `[images, height, width]`; or None.
    """

    def __init__(self, pixels: Tensor, labels: Tensor | None):
        self._pixels = pixels
        self._labels = labels

    def __len__(self) -> int:
        return len(self._pixels)

    def images(self, indices: Sequence[int], split: "ImageSplit") -> Tensor:
        return self._pixels[torch.as_tensor(indices)]

    def labels(self, indices: Sequence[int]) -> Tensor | None:
        return None if self._labels is None else self._labels[torch.as_tensor(indices)]


@dataclasses.dataclass(frozen=True)
class MaskColumn:
    """The masks of a data set.

    Attributes:
        images: The masks themselves.
        classes: What their values stand for.
    """

    images: ImageColumn
    classes: MaskClasses


class DecodingSource:
    """Images, and masks, decoded when they are asked for, one at a time.

    Args:
        images: The column of images.
        labels: Classes, int64 `[images]`; the column of masks; or None.
        config: Size and colours wanted, and the crop of training images.
    """

    def __init__(self, images: ImageColumn, labels: Tensor | MaskColumn | None, config: DataConfig):
        self._images = images
        self._labels = labels
        self._config = config
        # Of the images read last, for their masks to be compared with: a batch asks for images, then for labels.
        self._sizes: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indices: Sequence[int], split: "ImageSplit") -> Tensor:
        config, wanted = self._config, self._config.preprocessing
        is_cropped = config.augmentation == "random_resized_crop_flip" and split.augmented
        options: Any = {"size": wanted.image_size, "resample": resampling(wanted.interpolation)}
        options |= {"seed": config.data_seed, "epoch": split.epoch}
        self._sizes = {}

        def convert(index: int, image: Image.Image) -> Tensor:
            image = to_colours(image, wanted.num_channels)
            self._sizes[index] = image.size
            if is_cropped:
                return to_bytes(random_resized_crop(image, index, **options))
            return to_bytes(bring_to_size(image, wanted, max_pixels=config.max_image_pixels))

        return torch.stack(list(self._images.read(indices, convert)))

    def labels(self, indices: Sequence[int]) -> Tensor | None:
        if not isinstance(self._labels, MaskColumn):
            return None if self._labels is None else self._labels[torch.as_tensor(indices)]
        config, classes = self._config, self._labels.classes
        wanted = dataclasses.replace(config.preprocessing, interpolation="nearest")

        def convert(index: int, image: Image.Image) -> Tensor:
            mask = to_classes(image, classes)
            if mask.size != (expected := self._sizes.get(index, mask.size)):
                raise DataError(
                    f"has {mask.size[0]}x{mask.size[1]} pixels and its image {expected[0]}x{expected[1]}: bring masks "
                    "to the size of their images first."
                )
            return to_bytes(bring_to_size(mask, wanted, max_pixels=config.max_image_pixels))[0]

        return torch.stack(list(self._labels.images.read(indices, convert)))


class RenumberedSource:
    """Another source, whose labels have other numbers; `IGNORED` stays what it is.

    Args:
        source: Where images and labels come from.
        numbers: Of each class of the source, in its order, the number that it gets.
    """

    def __init__(self, source: ImageSource, numbers: Sequence[int]):
        self._source = source
        self._classes = torch.tensor(numbers, dtype=torch.int64)
        self._pixels = torch.full((IGNORED + 1,), IGNORED, dtype=torch.uint8)
        self._pixels[: min(len(numbers), IGNORED)] = self._classes[:IGNORED].clamp(max=IGNORED).to(torch.uint8)

    def __len__(self) -> int:
        return len(self._source)

    def images(self, indices: Sequence[int], split: "ImageSplit") -> Tensor:
        """As of the source."""
        return self._source.images(indices, split)

    def labels(self, indices: Sequence[int]) -> Tensor | None:
        """As of the source, renumbered."""
        labels = self._source.labels(indices)
        if labels is None:
            return None
        return (self._pixels if labels.dtype == torch.uint8 else self._classes)[labels.long()]


def to_colours(image: Image.Image, num_channels: int) -> Image.Image:
    """Bring an image to the colours that the network gets.

    Args:
        image: An image of any mode with 8 bits per channel; transparency is dropped.
        num_channels: 1 for grey, 3 for RGB.

    Returns:
        The image, of mode "L" or "RGB".

    Raises:
        DataError: The image has more than 8 bits per channel, which PIL would clip at 255.
    """
    if image.mode[0] in "IF":
        raise DataError(f"is of mode {image.mode}: only 8 bits per channel are read. Scale and convert it first.")
    mode = "L" if num_channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def to_size(
    image: Image.Image,
    size: tuple[int, int],
    *,
    center_crop: bool | int = False,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
    max_pixels: int | None = None,
) -> Image.Image:
    """Bring an image to the size that the network gets.

    It is resized whole. With `center_crop` it is resized to cover 256/224 of the size, and the centre is cropped, as is
    usual for ImageNet: of square sizes to the pixel what transformers' ConvNextImageProcessor does with
    `crop_pct=224/256`.

    Args:
        image: Grey or RGB, or a mask.
        size: Height and width wanted.
        center_crop: Crop instead. A number: what the shorter side is resized to, instead of 256/224 of the size.
        resample: How pixels are interpolated.
        max_pixels: Most pixels of what the centre is cropped from, which a long strip makes huge. None: any number.

    Returns:
        The image, of that size; itself where nothing is to do.

    Raises:
        DataError: There would be more pixels than that.
    """
    height, width = size
    if center_crop:
        if image.width * height < image.height * width:
            across = covering_size(width, min(size), center_crop)
            down = across * image.height // image.width
        else:
            down = covering_size(height, min(size), center_crop)
            across = down * image.width // image.height
        if max_pixels is not None and across * down > max_pixels:
            raise DataError(
                f"has {image.width}x{image.height} pixels, which data.center_crop makes {across}x{down}, more than "
                f"data.max_image_pixels={max_pixels}: leave the row out, or raise the limit."
            )
        image = image.resize((across, down), resample)
        left, top = (across - width) // 2, (down - height) // 2
        return image.crop((left, top, left + width, top + height))
    return image if image.size == (width, height) else image.resize((width, height), resample)


def bring_to_size(image: Image.Image, wanted: Preprocessing, *, max_pixels: int | None = None) -> Image.Image:
    """Bring an image to the size that a network gets, as a recipe says.

    Args:
        image: Grey or RGB, or a mask.
        wanted: Size, crop and interpolation.
        max_pixels: As for `to_size`.

    Returns:
        As `to_size`.

    Raises:
        DataError: As `to_size`.
    """
    options: Any = {"center_crop": wanted.center_crop, "resample": resampling(wanted.interpolation)}
    return to_size(image, height_and_width(wanted.image_size), max_pixels=max_pixels, **options)


def to_bytes(image: Image.Image) -> Tensor:
    """Pixels of an image.

    Args:
        image: Grey or RGB, or a mask.

    Returns:
        uint8, `[1 or 3, height, width]`.
    """
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


class ImageSplit(RowSplit):
    """A part of a data set as normalised batches; training splits augment.

    Args:
        source: Where images come from.
        indices: Which images of the source belong to the split; augmentation knows images by these numbers, so that
            cuts and subsets do not change it.
        config: Normalisation and augmentation.
        augmented: Whether images are augmented.
        name: Name of the split, for messages.
    """

    rows_are = "images"
    evaluation_batch_size = 512

    def __init__(self, source: ImageSource, indices: np.ndarray, config: DataConfig, *, augmented: bool, name: str):
        self.source = source
        self.indices = indices
        self.config = config
        self.augmented = augmented
        self.name = name
        self.epoch = 0
        self._mean = torch.tensor(config.preprocessing.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(config.preprocessing.std).view(1, -1, 1, 1)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation images get.

        Args:
            epoch: From 0. Worker processes learn of it when they start; by `workers.WithSharedEpoch` whenever it is.
        """
        self.epoch = epoch

    def with_augmentation(self, augmented: bool) -> Self:
        """Copy the split, with augmentation or without.

        Args:
            augmented: Whether images are augmented, as the config says.

        Returns:
            Another split; this one does not change.
        """
        other = copy.copy(self)
        other.augmented = augmented
        return other

    def sample(self, num_rows: int) -> dict[str, Tensor]:
        return super(ImageSplit, self.with_augmentation(True)).sample(num_rows)

    def shown(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Show the images of a batch as they look.

        Args:
            batch: As from `__getitems__`, on any device.

        Returns:
            `[batch, channels, height, width]` in [0, 1], on the CPU.
        """
        return (batch["pixel_values"].cpu() * self._std + self._mean).clamp(0, 1)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """A batch, already collated.

        Args:
            positions: Positions in this split, `[batch]`.

        Returns:
            "pixel_values", float32 `[batch, channels, height, width]`, and "labels", int64: of classes `[batch]`, of
            masks `[batch, height, width]` with 255 where there is no class, and absent where the source has none. Where
            images are mixed, also `batches.OTHER_LABELS` and `batches.OTHER_SHARES`.
        """
        indices = self.indices[np.asarray(positions, dtype=np.int64)]
        batch, config = self._batch(indices), self.config
        if self.augmented and (config.mixup or config.cutmix):
            moment = {"seed": config.data_seed, "epoch": self.epoch}
            others = self._batch(draw_others(indices, self.indices, **moment))
            batch = mix(batch, others, indices, mixup=config.mixup, cutmix=config.cutmix, **moment)
        return batch

    def _batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        images, labels = self.source.images(indices.tolist(), self), self.source.labels(indices.tolist())
        batch = {"pixel_values": (self._augment(images, indices).float() / 255 - self._mean) / self._std}
        if labels is not None and self.config.labels == "mask":
            labels = self._augment(labels[:, None], indices, masks=True)[:, 0].long()
        return batch if labels is None else {**batch, "labels": labels}

    def _augment(self, images: Tensor, indices: np.ndarray, *, masks: bool = False) -> Tensor:
        policy = self.config.augmentation if self.augmented else "none"
        moment = {"seed": self.config.data_seed, "epoch": self.epoch}
        if policy in ("crop", "crop_flip", "randaugment"):
            images = crop(images, indices, masks=masks, **moment)
        if policy == "scale_crop_flip":
            images = scale_crop(images, indices, masks=masks, **moment)
        if policy.endswith("flip") or policy == "randaugment":
            images = flip(images, indices, **moment)
        return randaugment(images, indices, **moment) if policy == "randaugment" else images


def collate(batch: Any) -> dict[str, Tensor]:
    """Pass a batch on: the `collate_fn` of a `DataLoader` over an `ImageSplit`, which collates by itself.

    Args:
        batch: As from `ImageSplit.__getitems__`.

    Returns:
        The batch.
    """
    return batch
