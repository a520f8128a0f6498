"""What every room knows of images and masks."""

from collections.abc import Sequence

IGNORED = 255
"""Label of pixels that belong to no class, in masks and to every loss: transformers' usual `loss_ignore_index`."""


def height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Both sides of an image size.

    Args:
        image_size: One number for both, or height and width.

    Returns:
        Height and width.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height, width
