"""Mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899).

Which image is mixed into which, and how much of it, is a function of seed, epoch and image, as all augmentation is.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from neumeta_hf.batches import OTHER_LABELS, OTHER_SHARES
from neumeta_hf.data.augmentation import draws


def draw_others(indices: np.ndarray, everything: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Choose the image that is mixed into each.

    Args:
        indices: Numbers of the images in their data set, `[batch]`.
        everything: Numbers that may be chosen.
        seed: Seed of the run.
        epoch: Epoch of the run.

    Returns:
        Numbers, `[batch]`.
    """
    chosen = draws(indices, seed=seed, epoch=epoch, stream="other")
    return everything[(chosen * len(everything)).astype(np.int64)]


def mix(
    batch: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
    indices: np.ndarray,
    *,
    mixup: float,
    cutmix: float,
    seed: int,
    epoch: int,
) -> dict[str, Tensor]:
    """Mix another image into each: as a whole, or as a rectangle.

    Args:
        batch: "pixel_values" and "labels".
        others: The same, of the images to mix in.
        indices: Numbers of the images in their data set, `[batch]`.
        mixup: The share of the image as it was is drawn from `Beta(mixup, mixup)`. 0: no image is mixed as a whole.
        cutmix: Likewise of the area outside of the rectangle. Where both are above 0, each is done to half of the
            images.
        seed: Seed of the run.
        epoch: Epoch of the run.

    Returns:
        The batch with mixed images, `batches.OTHER_LABELS` and `batches.OTHER_SHARES`.
    """
    from scipy.special import betaincinv  # only who mixes waits for it

    moment = {"seed": seed, "epoch": epoch}
    images, more = batch["pixel_values"], others["pixel_values"]
    is_cut = np.full(len(indices), cutmix > 0)
    if mixup and cutmix:
        is_cut = draws(indices, stream="cut", **moment) < 0.5
    alpha = np.where(is_cut, cutmix, mixup)
    share = 1 - betaincinv(alpha, alpha, draws(indices, stream="share", **moment))
    rows, columns = draws(indices, stream="cut row", **moment), draws(indices, stream="cut column", **moment)
    high, wide = images.shape[-2:]
    weights = torch.from_numpy(share).to(images.dtype)[:, None, None, None].expand(-1, 1, high, wide).clone()
    for number in np.flatnonzero(is_cut):
        # A rectangle of the image's aspect around any point, cut to the image.
        (top, bottom), (left, right) = (
            _span(size, share[number] ** 0.5, place) for size, place in ((high, rows[number]), (wide, columns[number]))
        )
        weights[number] = 0
        weights[number, :, top:bottom, left:right] = 1
    return {
        **batch,
        "pixel_values": images + weights * (more - images),
        OTHER_LABELS: others["labels"],
        OTHER_SHARES: weights.mean(dim=(1, 2, 3)),
    }


def _span(size: int, ratio: float, place: float) -> tuple[int, int]:
    half, centre = round(size * ratio) / 2, place * size
    return max(0, round(centre - half)), min(size, round(centre + half))
