"""From PIL images to `pixel_values`, for networks with one or three input channels."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from transformers import (
    AutoImageProcessor,
    ConvNextImageProcessorPil,
    SegformerImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.image_processing_utils import BaseImageProcessor

from neumeta_hf.checkpoints import open_checkpoint
from neumeta_hf.errors import TargetError
from neumeta_hf.images import Interpolation, covering_size, height_and_width, resampling

# ITU-R BT.601, as in PIL's own conversion.
_LUMA = (0.299, 0.587, 0.114)

CONVNEXT_RESIZES_WHOLE_FROM = 384
"""Sizes in pixels from which ConvNextImageProcessor crops nothing, whatever `crop_pct` says."""


class GrayscaleImageProcessor(ViTImageProcessorPil):
    """Turns any image into one grey channel, then resizes, rescales and normalises it.

    An image that is grey already, though stored as RGB, keeps its exact values. That matters because the pipelines of
    transformers hand every image over as RGB.
    """

    def process_image(self, image, **kwargs) -> np.ndarray:
        """Turn an image into `[1, height, width]`, with values and type as they were."""
        if isinstance(image, Image.Image):
            image = image.convert("L")
        array = super().process_image(image, **kwargs)
        if array.shape[0] == 1:
            return array
        grey = np.tensordot(_LUMA, array[:3], axes=1)[None]
        return (grey.round() if np.issubdtype(array.dtype, np.integer) else grey).astype(array.dtype)


def build_image_processor(
    *,
    num_channels: int,
    image_size: int | Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    center_crop: bool | int = False,
    interpolation: Interpolation = "bilinear",
) -> BaseImageProcessor:
    """Build an image processor that `pipeline("image-classification")` and `AutoImageProcessor` can use.

    It resizes to exactly `image_size`, scales to [0, 1] and normalises.

    Args:
        num_channels: Input channels of the network: 1 (grey) or 3 (RGB).
        image_size: Height and width, in pixels; one number for both.
        mean: What is subtracted from each channel, on the scale of [0, 1].
        std: What each channel is then divided by.
        center_crop: Instead of resizing whole: resize the shorter side to 8/7 of the size (a number: to so many
            pixels) and crop the centre, as is usual for ImageNet. Of RGB images and square sizes alone.
        interpolation: How pixels are interpolated.

    Returns:
        A stock processor of transformers for 3 channels, a `GrayscaleImageProcessor` for 1.

    Raises:
        TargetError: Another number of channels, `mean` or `std` are not as many, or `center_crop` of grey or oblong
            images.
    """
    if num_channels not in (1, 3):
        raise TargetError(f"images with {num_channels} channels have no image processor: it takes 1 (grey) or 3 (RGB).")
    if not len(mean) == len(std) == num_channels:
        raise TargetError(
            f"mean={list(mean)} and std={list(std)} do not fit {num_channels} channels: pass one value for each "
            "channel."
        )
    height, width = height_and_width(image_size)
    if center_crop:
        if num_channels != 3 or height != width:
            raise TargetError(
                f"center_crop with {num_channels} channel(s) and image_size={image_size} has no image processor: it "
                "takes 3 channels and as much height as width. Leave it out, then images are resized whole."
            )
        options = {"resample": resampling(interpolation), "image_mean": list(mean), "image_std": list(std)}
        if center_crop is True and height < CONVNEXT_RESIZES_WHOLE_FROM:
            return ConvNextImageProcessorPil(size={"shortest_edge": height}, crop_pct=224 / 256, **options)
        crop = {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
        return ViTImageProcessorPil(
            size={"shortest_edge": covering_size(height, height, center_crop)}, do_convert_rgb=True, **crop, **options
        )
    options = {
        "size": {"height": height, "width": width},
        "resample": resampling(interpolation),
        "image_mean": list(mean),
        "image_std": list(std),
    }
    if num_channels == 1:
        return GrayscaleImageProcessor(**options)
    return ViTImageProcessorPil(do_convert_rgb=True, **options)


def build_segmentation_processor(
    *,
    image_size: int | Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: Interpolation = "bilinear",
) -> SegformerImageProcessorPil:
    """Build an image processor that `pipeline("image-segmentation")` and `AutoImageProcessor` can use.

    It resizes to exactly `image_size` (masks that are passed along take the nearest pixel and keep their indices),
    scales to [0, 1] and normalises.

    Args:
        image_size: Height and width, in pixels; one number for both.
        mean: What is subtracted from each of the three channels, on the scale of [0, 1].
        std: What each channel is then divided by.
        interpolation: How pixels of images are interpolated.

    Returns:
        A stock processor of transformers, for RGB images; others are converted.

    Raises:
        TargetError: `mean` or `std` are not three values.
    """
    if not len(mean) == len(std) == 3:
        raise TargetError(
            f"mean={list(mean)} and std={list(std)} do not fit 3 channels, which segmentation takes: pass one value "
            "for each channel."
        )
    height, width = height_and_width(image_size)
    return SegformerImageProcessorPil(
        size={"height": height, "width": width},
        resample=resampling(interpolation),
        image_mean=list(mean),
        image_std=list(std),
        do_convert_rgb=True,
        do_reduce_labels=False,
    )


def load_image_processor(name: str, **options: Any) -> BaseImageProcessor:
    """Load the image processor beside a network; code that it names does not run.

    Args:
        name: A folder or Hub id.
        **options: Options of `from_pretrained`.

    Returns:
        A processor of transformers.

    Raises:
        CheckpointError: Its config cannot be read, or names no processor of transformers.
        MissingCheckpointError: There is no such network, or no image processor beside it; also an OSError.
    """
    checkpoint = open_checkpoint(name, options)
    return checkpoint.load_processor(functools.partial(AutoImageProcessor.from_pretrained, trust_remote_code=False))
