"""Augmentation as a pure function of seed, epoch and image.

There is no random state to save, to lose, or to split between processes: resuming is exact, and two processes equal
one.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neumeta_hf.images import IGNORED, height_and_width

# A number, once given, stays: another would change what published recipes train on.
_STREAMS = {
    **{"row": 1, "column": 2, "flip": 3, "area": 4, "ratio": 5, "scale": 6},
    **{"change 1": 7, "sign 1": 8, "change 2": 9, "sign 2": 10},
    **{"other": 11, "cut": 12, "share": 13, "cut row": 14, "cut column": 15},
}


def draws(indices: np.ndarray, *, seed: int, epoch: int, stream: str) -> np.ndarray:
    """Draw one uniform number per image, by hashing (SplitMix64, Steele et al. 2014).

    Args:
        indices: Numbers of the images in their data set, `[batch]`.
        seed: Seed of the run.
        epoch: Epoch of the run.
        stream: What the number is for; streams are independent.

    Returns:
        Numbers in [0, 1), `[batch]`: the same for an image whatever batch or process it is in.
    """
    with np.errstate(over="ignore"):
        state = np.asarray(indices, dtype=np.uint64)
        for word in (seed, epoch, _STREAMS[stream]):
            state = _mix(state ^ np.uint64(word % 2**64) * np.uint64(0xD6E8FEB86659FD93))
    return (state >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def crop(images: Tensor, indices: np.ndarray, *, seed: int, epoch: int, masks: bool = False) -> Tensor:
    """Pad with black by an eighth of the size, and crop the size back at random.

    Args:
        images: `[batch, channels, height, width]`, any type, on the CPU.
        indices: Numbers of the images in their data set, `[batch]`.
        seed: Seed of the run.
        epoch: Epoch of the run.
        masks: Whether `images` are masks, which are padded with `IGNORED`.

    Returns:
        As `images`.
    """
    height, width = images.shape[-2:]
    down, across = max(1, height // 8), max(1, width // 8)
    fill = IGNORED if masks else 0
    padded = torch.nn.functional.pad(images, (across, across, down, down), value=fill).numpy()
    top = np.floor(draws(indices, seed=seed, epoch=epoch, stream="row") * (2 * down + 1)).astype(np.int64)
    left = np.floor(draws(indices, seed=seed, epoch=epoch, stream="column") * (2 * across + 1)).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    return torch.from_numpy(windows[np.arange(len(images)), :, top, left])


def scale_crop(images: Tensor, indices: np.ndarray, *, seed: int, epoch: int, masks: bool = False) -> Tensor:
    """Scale by 0.5 to 2, and crop the size back at random; what became smaller is put on black at random.

    Args:
        images: uint8, `[batch, channels, height, width]`, on the CPU.
        indices: Numbers of the images in their data set, `[batch]`.
        seed: Seed of the run.
        epoch: Epoch of the run.
        masks: Whether `images` are masks, which take the nearest pixel and are put on `IGNORED`.

    Returns:
        As `images`. The logarithm of the scale is uniform.
    """
    moment = {"seed": seed, "epoch": epoch}
    scales = 0.5 * 4.0 ** draws(indices, stream="scale", **moment)
    rows, columns = draws(indices, stream="row", **moment), draws(indices, stream="column", **moment)
    resample = Image.Resampling.NEAREST if masks else Image.Resampling.BILINEAR
    scaled = torch.full_like(images, IGNORED if masks else 0)
    for before, after, scale, row, column in zip(images, scaled, scales, rows, columns, strict=True):
        (down, top, bottom), (across, left, right) = (
            _scale_axis(size, scale, place) for size, place in zip(images.shape[-2:], (row, column), strict=True)
        )
        wanted, box = (across.stop - across.start, down.stop - down.start), (left, top, right, bottom)
        for channel, shown in zip(before, after, strict=True):
            part = Image.fromarray(channel.numpy()).resize(wanted, resample, box=box)
            shown[down, across] = torch.from_numpy(np.array(part))
    return scaled


def _scale_axis(size: int, scale: float, place: float) -> tuple[slice, float, float]:
    """Which pixels of the result show something, and from where to where in the original that is."""
    scaled = max(1, round(size * scale))
    start = int(place * (abs(scaled - size) + 1))
    if scaled < size:
        return slice(start, start + scaled), 0, size
    return slice(0, size), start * size / scaled, (start + size) * size / scaled


def flip(images: Tensor, indices: np.ndarray, *, seed: int, epoch: int) -> Tensor:
    """Mirror half of the images left to right.

    Args:
        images: `[batch, channels, height, width]`, any type.
        indices: Numbers of the images in their data set, `[batch]`.
        seed: Seed of the run.
        epoch: Epoch of the run.

    Returns:
        As `images`.
    """
    mirrored = torch.from_numpy(draws(indices, seed=seed, epoch=epoch, stream="flip") < 0.5)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def random_resized_crop(
    image: Image.Image,
    index: int,
    *,
    size: int | Sequence[int],
    seed: int,
    epoch: int,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """Crop 8 to 100 % of the area at an aspect ratio of 3/4 to 4/3 times that of the size, and resize it.

    After Szegedy et al. 2015 (arXiv:1409.4842), section 6.

    Args:
        image: An image of any size, grey or RGB: others are not interpolated.
        index: Number of the image in its data set.
        size: Height and width of the result; one number for both.
        seed: Seed of the run.
        epoch: Epoch of the run.
        resample: How pixels are interpolated.

    Returns:
        The crop. A crop that would not fit is cut to the image.
    """
    number = np.array([index])
    area, ratio, row, column = (
        float(draws(number, seed=seed, epoch=epoch, stream=stream)[0]) for stream in ("area", "ratio", "row", "column")
    )
    high, wide = height_and_width(size)
    wanted = (0.08 + 0.92 * area) * image.width * image.height
    aspect = float(np.exp(np.log(3 / 4) + ratio * (np.log(4 / 3) - np.log(3 / 4)))) * (wide / high)
    width = min(image.width, max(1, round((wanted * aspect) ** 0.5)))
    height = min(image.height, max(1, round((wanted / aspect) ** 0.5)))
    left, top = int(column * (image.width - width + 1)), int(row * (image.height - height + 1))
    box = (left, top, left + width, top + height)
    return image.resize((wide, high), resample, box=box)
