"""How much of what each channel carries its layers take in, measured on a batch of data."""

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from neumeta_hf.batches import Inputs
from neumeta_hf.building import tied_names
from neumeta_hf.errors import PreparationError
from neumeta_hf.preparation.cliques import Clique
from neumeta_hf.preparation.comparison import run

ReadAxes = dict[tuple[str, int], Tensor]
"""A weight and the axis along which it reads its inputs, to how much it takes in at each place of that axis."""


@torch.no_grad()
def measure_reading(network: nn.Module, batch: Inputs) -> ReadAxes:
    """Measure what the layers of a network take in of each of their inputs.

    That is the root mean square of the input times the sum of the magnitudes of the weights that it meets, as a share
    of the layer's total: layers of large weights count no more than others. Layers that no forward pass runs, and
    grouped convolutions, which read every channel with weights of its own, are left out.

    Args:
        network: In evaluation mode; unchanged.
        batch: What it takes; a few hundred samples as in training.

    Returns:
        The shares, in float64.

    Raises:
        PreparationError: An input is not finite, or the network puts out no tensor.
    """
    squares: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and layer.groups == 1)
    }

    def hook_of(name: str, axis: int):
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            features = inputs[0].detach().movedim(axis, -1).flatten(0, -2)
            squares[name] = squares.get(name, 0) + features.square().sum(dim=0, dtype=torch.float64).cpu()
            counts[name] = counts.get(name, 0) + len(features)

        return hook

    hooks = [
        layer.register_forward_pre_hook(hook_of(name, -1 if isinstance(layer, nn.Linear) else 1))
        for name, layer in layers.items()
    ]
    try:
        run(network, batch)
    finally:
        for hook in hooks:
            hook.remove()
    same, reading = tied_names(network), {}
    for name, total in squares.items():
        layer = layers[name]
        axis = 0 if isinstance(layer, _ConvTransposeNd) else 1
        weights = layer.weight.detach().cpu().movedim(axis, 0).flatten(1).abs().sum(dim=1, dtype=torch.float64)
        taken = (total / max(counts[name], 1)).sqrt() * weights
        if not taken.isfinite().all():
            raise PreparationError(
                f"{name} takes in values that are not finite on the batch of data: give data that the network was "
                "trained for."
            )
        tensor = f"{name}.weight"
        reading[same.get(tensor, tensor), axis] = taken / taken.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return reading


def activation_importance(clique: Clique, reading: ReadAxes) -> Tensor:
    """Sum over the layers that read a clique what each takes in of each channel.

    Args:
        clique: Axes that are permuted together.
        reading: As from `measure_reading`, of the network that the clique was found in.

    Returns:
        `[num_channels]`.

    Raises:
        PreparationError: No layer that ran reads the clique.
    """
    found = [
        reading[member.name, member.axis][member.positions].sum(dim=1)
        for member in clique.members
        if (member.name, member.axis) in reading
    ]
    if not found:
        raise PreparationError(
            f"no layer that ran on the batch reads {clique}: there are no activations to order its channels by. Take "
            'order="importance", which looks at weights alone.'
        )
    return torch.stack(found).sum(dim=0)
