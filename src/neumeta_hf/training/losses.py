"""The losses of a training step, each a function of tensors alone."""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction_loss(generated: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Tensor:
    """Mean squared distance to the reference's weights, weighted by their magnitude: `sum |r| (w - r)^2 / sum |r|`.

    Args:
        generated: Name to tensor, at full size.
        reference: The same names, and possibly more.

    Returns:
        A scalar.
    """
    distance = weight = torch.zeros(())
    for name, tensor in generated.items():
        magnitude = reference[name].abs()
        distance = distance.to(tensor.device) + (magnitude * (tensor - reference[name]).square()).sum()
        weight = weight.to(tensor.device) + magnitude.sum()
    return distance / weight


def regularization_loss(generated: Iterable[Tensor]) -> Tensor:
    """Sum of the L2 norms of the generated tensors.

    Args:
        generated: The tensors.

    Returns:
        A scalar.
    """
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in generated]).sum()


def distillation_loss(logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Divergence of the student from the teacher (Hinton et al. 2015, arXiv:1503.02531), times temperature squared.

    Args:
        logits: `[batch, classes]`.
        teacher_logits: `[batch, classes]`.
        temperature: Divides both logits.

    Returns:
        A scalar, the mean over the batch.
    """
    student = F.log_softmax(logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean") * temperature**2
