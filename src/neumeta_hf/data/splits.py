"""Image splits: a map from indices to a normalised batch."""

import copy
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from neumeta_hf.data.augmentation import crop, flip, random_resized_crop
from neumeta_hf.data.config import DataConfig
from neumeta_hf.errors import DataError


class ImageSource(Protocol):
    """Decoded images and classes by number; what a split reads from."""

    def __len__(self) -> int: ...

    def images(self, indices: Sequence[int], split: "ImageSplit") -> Tensor:
        """Images as bytes, `[batch, channels, size, size]`."""
        ...

    def labels(self, indices: Sequence[int]) -> Tensor:
        """Classes, `[batch]`."""
        ...


class ArraySource:
    """All images decoded, in memory.

    Args:
        pixels: uint8, `[images, channels, height, width]`.
        labels: int64, `[images]`.
    """

    def __init__(self, pixels: Tensor, labels: Tensor):
        self._pixels = pixels
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def images(self, indices: Sequence[int], split: "ImageSplit") -> Tensor:
        return self._pixels[torch.as_tensor(indices)]

    def labels(self, indices: Sequence[int]) -> Tensor:
        return self._labels[torch.as_tensor(indices)]


class DecodingSource:
    """Images decoded when they are asked for.

    Args:
        dataset: A `datasets.Dataset` with an image column.
        image_column: Its name.
        labels: int64, `[images]`.
        config: Size and colours wanted, and the crop of training images.
    """

    def __init__(self, dataset: Any, image_column: str, labels: Tensor, config: DataConfig):
        self._dataset = dataset
        self._image_column = image_column
        self._labels = labels
        self._config = config

    def __len__(self) -> int:
        return len(self._labels)

    def images(self, indices: Sequence[int], split: "ImageSplit") -> Tensor:
        config = self._config
        images = [to_colours(image, config.num_channels) for image in self._dataset[list(indices)][self._image_column]]
        by_area = config.augmentation == "random_resized_crop_flip"
        if by_area and split.augmented:
            moment = {"size": config.image_size, "seed": config.data_seed, "epoch": split.epoch}
            images = [random_resized_crop(image, index, **moment) for image, index in zip(images, indices, strict=True)]
        else:
            images = [to_size(image, config.image_size, centre_crop=by_area) for image in images]
        return torch.stack([to_bytes(image) for image in images])

    def labels(self, indices: Sequence[int]) -> Tensor:
        return self._labels[torch.as_tensor(indices)]


def to_colours(image: Image.Image | None, num_channels: int) -> Image.Image:
    """Bring an image to the colours that the network gets.

    Args:
        image: Of any mode with 8 bits per channel; transparency is dropped.
        num_channels: 1 for grey, 3 for RGB.

    Returns:
        The image, of mode "L" or "RGB".

    Raises:
        DataError: The image is missing, or has more than 8 bits per channel, which PIL would clip at 255.
    """
    if image is None:
        raise DataError("an image of the data set is missing (None): filter such rows out.")
    if image.mode[0] in "IF":
        raise DataError(
            f"an image is of mode {image.mode}: only 8 bits per channel are read. Scale and convert it first."
        )
    mode = "L" if num_channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def to_size(image: Image.Image, size: int, *, centre_crop: bool = False) -> Image.Image:
    """Bring an image to the size that the network gets.

    A square image is resized whole. Of any other, or with `centre_crop`, the shorter side is resized to 256/224 of the
    size and the centre is cropped, as is usual for ImageNet: to the pixel what transformers' ConvNextImageProcessor
    does with `crop_pct=224/256`.

    Args:
        image: Grey or RGB.
        size: Height and width wanted.
        centre_crop: Crop square images too.

    Returns:
        The image, `size` high and wide; itself where nothing is to do.
    """
    if centre_crop or image.width != image.height:
        shorter = size * 256 // 224
        width, height = (shorter * side // min(image.size) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        return image.crop((left, top, left + size, top + size))
    return image if image.width == size else image.resize((size, size), Image.Resampling.BILINEAR)


def to_bytes(image: Image.Image) -> Tensor:
    """Pixels of an image.

    Args:
        image: Grey or RGB.

    Returns:
        uint8, `[1 or 3, height, width]`.
    """
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


class ImageSplit(Dataset):
    """A part of a data set as normalised batches; training splits augment.

    Args:
        source: Where images come from.
        indices: Which images of the source belong to the split; augmentation knows images by these numbers, so that
            cuts and subsets do not change it.
        config: Normalisation and augmentation.
        augmented: Whether images are augmented.
        name: Of the split, for messages.
    """

    def __init__(self, source: ImageSource, indices: np.ndarray, config: DataConfig, *, augmented: bool, name: str):
        self.source = source
        self.indices = indices
        self.config = config
        self.augmented = augmented
        self.name = name
        self.epoch = 0
        self._mean = torch.tensor(config.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(config.std).view(1, -1, 1, 1)

    def __len__(self) -> int:
        return len(self.indices)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation images get.

        Args:
            epoch: From 0. Worker processes learn of it when the next pass over a `DataLoader` starts them.
        """
        self.epoch = epoch

    def with_augmentation(self, augmented: bool) -> Self:
        """The same images, augmented or not.

        Args:
            augmented: Whether images are augmented, as the config says.

        Returns:
            Another split; this one does not change.
        """
        other = copy.copy(self)
        other.augmented = augmented
        return other

    def subset(self, num_images: int, *, seed: int) -> Self:
        """A random part.

        Args:
            num_images: How many, at most the length.
            seed: Of the choice.

        Returns:
            A split of these images.

        Raises:
            DataError: The split has fewer images.
        """
        if not 0 <= num_images <= len(self):
            raise DataError(f"{num_images} images asked of the {self.name} split, which has {len(self)}.")
        other = copy.copy(self)
        other.indices = np.sort(np.random.default_rng(seed).permutation(self.indices)[:num_images])
        return other

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """A batch, already collated.

        Args:
            positions: Positions in this split, `[batch]`.

        Returns:
            "pixel_values", float32 `[batch, channels, size, size]`, and "labels", int64 `[batch]`.
        """
        indices = self.indices[np.asarray(positions, dtype=np.int64)]
        images = self.source.images(indices.tolist(), self)
        policy = self.config.augmentation if self.augmented else "none"
        moment = {"seed": self.config.data_seed, "epoch": self.epoch}
        if policy in ("crop", "crop_flip"):
            images = crop(images, indices, **moment)
        if policy in ("crop_flip", "random_resized_crop_flip"):
            images = flip(images, indices, **moment)
        pixel_values = (images.float() / 255 - self._mean) / self._std
        return {"pixel_values": pixel_values, "labels": self.source.labels(indices.tolist())}


def collate(batch: Any) -> dict[str, Tensor]:
    """The `collate_fn` of a `DataLoader` over an `ImageSplit`, whose batches come collated already.

    Args:
        batch: As from `ImageSplit.__getitems__`.

    Returns:
        The batch.
    """
    return batch
