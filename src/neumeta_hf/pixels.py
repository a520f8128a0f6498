"""What a mask says of logits: the one loss per pixel, of models and of tasks."""

import torch.nn.functional as F
from torch import Tensor

from neumeta_hf.images import IGNORED


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy of the pixels that have a class.

    Args:
        logits: `[batch, classes, height, width]`.
        labels: Class of each pixel, `[batch, height, width]`; `IGNORED` belongs to none.

    Returns:
        A scalar in nats; 0 where no pixel has a class.
    """
    # Not the mean, which is 0 / 0 for a batch without any class.
    num_pixels = (labels != IGNORED).sum().clamp(min=1)
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum") / num_pixels
