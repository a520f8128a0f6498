"""A grid of learned values over the channel axes, resampled at the coordinates: an INR without a network behind it.

Where the paper's INR is a multilayer perceptron of the coordinate, this one keeps the values themselves on a grid as
fine as the reference and reads them with a box filter as wide as one channel of the size asked for, as grid-based
neural fields do in space. That makes it as large as what it generates, start exactly at the reference, and train like
plain weights.

With relative positions a small network is the large one with neighbouring channels merged: averaged over output
channels, summed over input channels, which keeps what the network computes where neighbours agree. Detail that averages
out within a channel of a small size is free to serve the larger sizes alone.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import initialization as init

from neumeta_hf.coordinates import TensorCoordinates
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks.base import Hypernetwork, register_hypernetwork


class GridTensor(nn.Module):
    """One tensor's grid.

    Attributes:
        values: `[num_out, num_in, kernel_area]` of the reference.
        exponent: How much more one input channel contributes as their number shrinks: by `(full / num_in) ** exponent`.
            1 keeps the sum over equal inputs, 0 leaves weights as they are; it is learned, and being a power law it
            also says something of sizes that were never trained.

    Args:
        full_size: Coordinates of the tensor in the reference.
        exponent: First value of the exponent.
    """

    def __init__(self, full_size: TensorCoordinates, *, exponent: float):
        super().__init__()
        self.kernel_area = full_size.kernel_size[0] * full_size.kernel_size[1]
        self.first_exponent = exponent
        self.exponent = nn.Parameter(torch.tensor(exponent))
        self.values = nn.Parameter(torch.zeros(full_size.num_out, full_size.num_in, self.kernel_area))


@register_hypernetwork("grid")
class Grid(Hypernetwork):
    """Values on a grid over the channel axes, one grid per generated tensor.

    Args:
        full_size: Coordinates of the reference's generated tensors; the grids are as fine as they are.
        positions: "relative" reads at `c / C`: a small network merges neighbouring channels of the large one.
            "absolute" reads at `c`: a small network is the large one's first channels (Yu and Huang 2019,
            arXiv:1903.05134).

    Raises:
        HypernetworkError: `positions` is neither.
    """

    def __init__(
        self, full_size: Sequence[TensorCoordinates], *, positions: Literal["relative", "absolute"] = "relative"
    ):
        super().__init__()
        if positions not in ("relative", "absolute"):
            raise HypernetworkError(f"positions={positions!r}: choose one of relative, absolute.")
        self.positions = positions
        # Merged channels are as large as one of them, so their sum must be kept. The first channels are the large ones
        # where channels were ordered by importance, and the rest is missed less.
        exponent = 1.0 if positions == "relative" else 0.5
        self.tensors = nn.ModuleList(GridTensor(tensor, exponent=exponent) for tensor in full_size)

    def start_at(self, values: Sequence[Tensor]) -> bool:
        with torch.no_grad():
            for tensor, value in zip(self.tensors, values, strict=True):
                grid: Tensor = tensor.values  # pyright: ignore[reportAssignmentType]
                grid.copy_(value.reshape(grid.shape))
        return True

    def forward(self, coordinates: Sequence[TensorCoordinates]) -> list[Tensor]:
        return [self._generate(tensor) for tensor in coordinates]

    def _generate(self, tensor: TensorCoordinates) -> Tensor:
        held: GridTensor = self.tensors[tensor.layer]  # pyright: ignore[reportAssignmentType]
        full_out, full_in, _ = held.values.shape
        out = self._read(tensor.out_positions, tensor, full_out)
        in_ = self._read(tensor.in_positions, tensor, full_in)
        values = torch.einsum("or,rsk,is->oik", out, held.values, in_)
        return (values * (full_in / tensor.num_in) ** held.exponent).reshape(tensor.shape)

    def _read(self, positions: Tensor, tensor: TensorCoordinates, num_cells: int) -> Tensor:
        """How much of each grid cell each channel of an axis reads, `[num_channels, num_cells]`; rows sum to 1."""
        parameter = next(self.parameters())
        num_channels = len(positions)
        # A channel as an interval, in cells.
        channel = num_cells / num_channels if self.positions == "relative" else 1.0
        centres = (positions.to(parameter.device) * num_channels + 0.5 - tensor.offset) * channel
        low = (centres - channel / 2).clamp(0, num_cells - channel).unsqueeze(1)
        cells = torch.arange(num_cells, device=parameter.device)
        overlap = torch.minimum(low + channel, cells + 1) - torch.maximum(low, cells)
        return (overlap.clamp(min=0) / channel).to(parameter.dtype)

    def initialize(self, module: nn.Module) -> None:
        if isinstance(module, GridTensor):
            init.normal_(module.values, std=(2 / (module.values.shape[1] * module.kernel_area)) ** 0.5)
            init.constant_(module.exponent, module.first_exponent)
