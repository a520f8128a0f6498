"""Losses that tasks share, each a function of tensors alone."""

import torch
import torch.nn.functional as F
from torch import Tensor


def class_divergence(logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Divergence of the student from the teacher (Hinton et al. 2015, arXiv:1503.02531), times temperature squared.

    Args:
        logits: `[items, classes]`.
        teacher_logits: `[items, classes]`.
        temperature: Divides both logits.

    Returns:
        A scalar, the mean over the items.
    """
    student = F.log_softmax(logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean") * temperature**2


def dice_loss(logits: Tensor, labels: Tensor, *, ignore_index: int) -> Tensor:
    """Compute 1 minus the soft Dice coefficient (Milletari et al. 2016, arXiv:1606.04797), over classes present.

    Args:
        logits: `[batch, classes, height, width]`.
        labels: Class of each pixel, `[batch, height, width]`.
        ignore_index: Label of pixels that do not count.

    Returns:
        A scalar in [0, 1]; over the batch as a whole, and over the classes that occur in it.
    """
    num_labels = logits.shape[1]
    counted = (labels != ignore_index).unsqueeze(1)
    truth = F.one_hot(labels.where(labels != ignore_index, 0), num_labels).movedim(-1, 1) * counted
    probabilities = logits.float().softmax(1) * counted
    axes = (0, 2, 3)
    both, sizes = (probabilities * truth).sum(axes), probabilities.sum(axes) + truth.sum(axes)
    present = truth.sum(axes) > 0
    dice = 1 - 2 * both / sizes.clamp(min=torch.finfo(sizes.dtype).tiny)
    return (dice * present).sum() / present.sum().clamp(min=1)
