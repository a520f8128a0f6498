"""The losses of weights, each a function of tensors alone; those of what networks put out belong to tasks."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def reconstruction_loss(generated: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Tensor:
    """Compute the squared distance to the reference's weights, weighted by magnitude: `sum |r| (w - r)^2 / sum |r|`.

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
    """Sum the L2 norms of the generated tensors.

    Args:
        generated: The tensors.

    Returns:
        A scalar.
    """
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in generated]).sum()


def detail_loss(generated: Mapping[str, Tensor], varying_axes: Mapping[str, tuple[bool, bool]]) -> Tensor:
    """Share of the weights that half as many channels could not hold.

    A smaller size merges neighbouring channels (see the `grid` hypernetwork with relative positions, and any smooth
    INR). Merging pairs of channels loses the finest level of the Haar transform along each axis that sizes change. That
    is `sum (w[2j + 1] - w[2j])^2 / 2`, here relative to `sum w^2`. Where it is low at the smallest trained size, the
    family can go on below its trained range, and larger sizes keep their detail.

    Args:
        generated: Name to tensor; of an odd number of channels the last has no partner and does not count.
        varying_axes: Name to whether sizes change the number of output and of input channels.

    Returns:
        A scalar in [0, 1]: the mean over all such axes of two channels or more; 0 where there is none.
    """
    shares = [torch.zeros(())]
    for name, tensor in generated.items():
        for axis, varies in enumerate(varying_axes[name]):
            if varies and tensor.ndim > axis and tensor.shape[axis] > 1:
                first, second = (tensor.movedim(axis, 0)[start::2] for start in (0, 1))
                lost = (second - first[: len(second)]).square().sum() / 2
                shares.append(lost / tensor.square().sum().clamp(min=torch.finfo(tensor.dtype).tiny))
    return torch.stack([share.to(shares[-1].device) for share in shares]).sum() / max(len(shares) - 1, 1)
