"""What every room knows of images and masks."""

from collections.abc import Sequence
from typing import Literal

from PIL import Image

IGNORED = 255
"""Label of pixels that belong to no class, in masks and to every loss: transformers' usual `loss_ignore_index`."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
"""How pixels are interpolated when an image is resized, in Pillow's words."""


def height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Both sides of an image size.

    Args:
        image_size: One number for both, or height and width.

    Returns:
        Height and width.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height, width


def resampling(interpolation: Interpolation) -> Image.Resampling:
    """Pillow's name for a way to interpolate, which image processors save as its number.

    Args:
        interpolation: In the words of recipes.

    Returns:
        The filter.
    """
    return Image.Resampling[interpolation.upper()]


def covering_size(size: int, shorter: int, center_crop: bool | int) -> int:
    """Compute how many pixels a side is resized to before its centre is cropped.

    Args:
        size: Length of the side, after the crop.
        shorter: Length of the shorter of the two sides, after the crop.
        center_crop: True: 256/224 of the size, as is usual for ImageNet. A number: what the shorter side is resized to.

    Returns:
        Whole pixels, rounded down as transformers does.
    """
    return size * 256 // 224 if center_crop is True else size * center_crop // shorter
