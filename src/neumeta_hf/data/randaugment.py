"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719) by Pillow: two random changes of each image, at one strength."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from neumeta_hf.data.augmentation import draws

NUM_CHANGES = 2
STRENGTH = 9 / 30
"""Of the strongest change: the paper's for ImageNet, 9 of 30."""
_GREY = 128


def _moved(
    matrix: Callable[[float, tuple[int, int]], tuple[float, ...]],
) -> Callable[[Image.Image, float], Image.Image]:
    def move(image: Image.Image, strength: float) -> Image.Image:
        fill = (_GREY,) * len(image.getbands())
        options = {"resample": Image.Resampling.BILINEAR, "fillcolor": fill if len(fill) > 1 else _GREY}
        return image.transform(image.size, Image.Transform.AFFINE, matrix(strength, image.size), **options)

    return move


def _rotated(image: Image.Image, strength: float) -> Image.Image:
    fill = (_GREY,) * len(image.getbands())
    return image.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=fill if len(fill) > 1 else _GREY)


# Each takes a strength from -1 to 1; some do the same at either sign, or at any strength.
CHANGES: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, strength: image,
    "autocontrast": lambda image, strength: ImageOps.autocontrast(image),
    "equalize": lambda image, strength: ImageOps.equalize(image),
    "posterize": lambda image, strength: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
    "solarize": lambda image, strength: ImageOps.solarize(image, 256 - round(256 * abs(strength))),
    "color": lambda image, strength: ImageEnhance.Color(image).enhance(1 + 0.9 * strength),
    "contrast": lambda image, strength: ImageEnhance.Contrast(image).enhance(1 + 0.9 * strength),
    "brightness": lambda image, strength: ImageEnhance.Brightness(image).enhance(1 + 0.9 * strength),
    "sharpness": lambda image, strength: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * strength),
    "rotate": _rotated,
    "shear across": _moved(lambda strength, size: (1, 0.3 * strength, -0.15 * strength * size[1], 0, 1, 0)),
    "shear down": _moved(lambda strength, size: (1, 0, 0, 0.3 * strength, 1, -0.15 * strength * size[0])),
    "translate across": _moved(lambda strength, size: (1, 0, 0.45 * strength * size[0], 0, 1, 0)),
    "translate down": _moved(lambda strength, size: (1, 0, 0, 0, 1, 0.45 * strength * size[1])),
}


def randaugment(images: Tensor, indices: np.ndarray, *, seed: int, epoch: int) -> Tensor:
    """Change each image in two ways that are drawn for it.

    Args:
        images: uint8, `[batch, 1 or 3, height, width]`, on the CPU.
        indices: Numbers of the images in their data set, `[batch]`.
        seed: Seed of the run.
        epoch: Epoch of the run.

    Returns:
        As `images`.
    """
    names = list(CHANGES)
    drawn = [
        (draws(indices, seed=seed, epoch=epoch, stream=f"change {number}"), f"sign {number}")
        for number in range(1, NUM_CHANGES + 1)
    ]
    plan = [
        ((which * len(names)).astype(int), np.where(draws(indices, seed=seed, epoch=epoch, stream=sign) < 0.5, -1, 1))
        for which, sign in drawn
    ]
    changed = torch.empty_like(images)
    for index, pixels in enumerate(images):
        array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
        image = Image.fromarray(array)
        for which, signs in plan:
            image = CHANGES[names[which[index]]](image, float(signs[index]) * STRENGTH)
        result = torch.from_numpy(np.array(image))
        changed[index] = result[None] if result.ndim == 2 else result.permute(2, 0, 1)
    return changed
