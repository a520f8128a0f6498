"""Total variation (TV): how much the weights change from one channel to the next."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from neumeta_hf.errors import PreparationError
from neumeta_hf.preparation.cliques import Clique


def total_variation(state_dict: Mapping[str, Tensor], cliques: Iterable[Clique]) -> float:
    """Sum `abs(w[j + 1] - w[j])` over neighbouring channels `j`, along every axis that belongs to a clique.

    What counts: weights, biases and the affine parameters of normalisations. A weight whose two channel axes belong to
    cliques counts along both. What does not count: running statistics, which move with their channels but are no
    weights; kernel axes; the axes of image channels and of labels, which no clique holds. Where a channel owns several
    positions of an axis (after flattening), position `r` of a channel is compared with position `r` of the next.

    Args:
        state_dict: Weights by name.
        cliques: The cliques of the network.

    Returns:
        The sum, in the units of the weights, accumulated in float64.

    Raises:
        PreparationError: The weights lack a tensor of a clique, do not have its shape or are not finite.
    """
    return sum(path_length(channel_slices(clique, state_dict)) for clique in cliques)


def path_length(slices: Tensor) -> float:
    """Sum the L1 distances of neighbouring rows of `[num_channels, num_features]`, in float64."""
    return (slices[1:] - slices[:-1]).abs().sum(dtype=torch.float64).item()


def channel_slices(clique: Clique, state_dict: Mapping[str, Tensor]) -> Tensor:
    """Everything that each channel of a clique owns, concatenated over the members; no running statistics.

    Args:
        clique: Axes that are permuted together.
        state_dict: Weights by name.

    Returns:
        `[num_channels, num_features]` on the CPU, float64 where a member is and float32 otherwise.

    Raises:
        PreparationError: The weights lack a tensor of the clique, do not have its shape or are not finite.
    """
    parts = []
    for member in clique.members:
        if member.is_statistic:
            continue
        tensor = member.tensor_of(state_dict).detach().cpu()
        if not tensor.isfinite().all():
            raise PreparationError(
                f"{member.name!r} holds NaN or infinite values, which have no distance: take the "
                "weights of a training that did not diverge."
            )
        part = tensor.index_select(member.axis, member.positions.flatten()).movedim(member.axis, 0)
        parts.append(part.reshape(clique.num_channels, -1).to(torch.promote_types(part.dtype, torch.float32)))
    if not parts:
        return torch.zeros(clique.num_channels, 0)
    return torch.cat(parts, dim=1)
