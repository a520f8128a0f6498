"""A grid of learned values over the channel axes, resampled at the coordinates: an INR without a network behind it.

Where the paper's INR is a multilayer perceptron of the coordinate, this one keeps the values themselves on a grid as
fine as the reference and reads them with a box filter as wide as one channel of the size asked for, as grid-based
neural fields do in space. That makes it as large as what it generates, start exactly at the reference, and train like
plain weights.

With relative positions a small network is the large one with neighbouring channels merged: averaged over output
channels, summed over input channels, which keeps what the network computes where neighbours agree. Detail that averages
out within a channel of a small size is free to serve the larger sizes alone. Where a small size is not to be trained at
all, such detail can be left out: a grid coarser than the reference is the same function of its inputs at every size
that has at least a channel per cell.

A small network is a part or a summary of the large one, and what is best for the one is not for the other. Further
levels, each for networks of half the size, let them part: a level adds what small networks want changed, fading in with
the logarithm of the size, and as small networks have few channels it costs little.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from neumeta_hf.coordinates import TensorCoordinates
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks.base import Hypernetwork, register_hypernetwork

_COVERAGE = 7 / 8
"""Part of a small network's first channels that its level holds: two further levels then add less than a quarter."""


class GridTensor(nn.Module):
    """One tensor's grid.

    Attributes:
        full_size: Coordinates of the tensor in the reference.
        values: `[out cells, in cells, kernel_area]`.
        changes: What each further level adds, for a network of `2^-level` of the channels: `[out cells, in cells,
            kernel_area]`; with relative positions a cell per channel of that network, with absolute ones of its first
            channels. Vectors, which are small, have a cell per channel of the reference on every level; tensors that no
            size changes have none.
        exponent: How much more one input channel contributes as their number shrinks: by `(full / num_in) ** exponent`.
            1 keeps the sum over equal inputs, 0 leaves weights as they are; it is learned, and being a power law it
            also says something of sizes that were never trained.

    Args:
        full_size: Coordinates of the tensor in the reference.
        exponent: First value of the exponent.
        resolution: Cells per channel of the reference, on axes that sizes change.
        levels: Number of levels.
        coverage: Part of the channels of a level's network that the level holds.
    """

    def __init__(
        self, full_size: TensorCoordinates, *, exponent: float, resolution: float, levels: int, coverage: float
    ):
        super().__init__()
        self.full_size = full_size
        self.first_exponent = exponent
        self.exponent = nn.Parameter(torch.tensor(exponent))
        axes = ((full_size.num_out, full_size.out_varies), (full_size.num_in, full_size.in_varies))

        def make_cells(part: float) -> Tensor:
            num_cells = [max(1, round(count * part)) if varies else count for count, varies in axes]
            return torch.zeros(*num_cells, math.prod(full_size.kernel_size))

        self.values = nn.Parameter(make_cells(resolution))
        # What no size changes cannot tell sizes apart.
        levels = levels if any(varies and count > 1 for count, varies in axes) else 1
        parts = [1.0 if len(full_size.shape) == 1 else coverage * 2.0**-level for level in range(1, levels)]
        self.changes = nn.ParameterList([make_cells(part) for part in parts])

    def level_weights(self, tensor: TensorCoordinates) -> list[float]:
        """How much of each further level a tensor of some size gets, in [0, 1]: all of it from `2^-level` down."""
        full = self.full_size
        axes = ((full.num_out, tensor.num_out, full.out_varies), (full.num_in, tensor.num_in, full.in_varies))
        halvings = [math.log2(count / asked) for count, asked, varies in axes if varies and count > 1]
        mean = sum(halvings) / max(len(halvings), 1)
        return [min(max(mean - level, 0.0), 1.0) for level in range(len(self.changes))]


@register_hypernetwork("grid")
class Grid(Hypernetwork):
    """Values on a grid over the channel axes, one grid per generated tensor.

    Args:
        full_size: Coordinates of the reference's generated tensors.
        positions: "relative" reads at `c / C`: a small network merges neighbouring channels of the large one.
            "absolute" reads at `c`: a small network is the large one's first channels (Yu and Huang 2019,
            arXiv:1903.05134).
        resolution: Cells per channel of the reference, on axes that sizes change. 1 holds the reference exactly. Less,
            for relative positions alone, is a smaller hypernetwork and a smoother manifold: with 0.25, sizes of 1, 0.5
            and 0.25 compute the same.
        levels: How many sizes, each half of the one before, may differ in more than what they leave out or merge. 1 is
            slicing or merging; 3 suits widths from 1.0 to 0.25 and holds less than a quarter more (with relative
            positions less than a third).

    Raises:
        HypernetworkError: `positions` is neither, `resolution` is outside of (0, 1] or does not fit `positions`, or
            `levels` is below 1.
    """

    def __init__(
        self,
        full_size: Sequence[TensorCoordinates],
        *,
        positions: Literal["relative", "absolute"] = "relative",
        resolution: float = 1.0,
        levels: int = 1,
    ):
        super().__init__()
        if positions not in ("relative", "absolute"):
            raise HypernetworkError(f"positions={positions!r}: choose one of relative, absolute.")
        if not 0 < resolution <= 1:
            raise HypernetworkError(f"resolution={resolution!r}: a grid has more than 0, up to 1 cells per channel.")
        if positions == "absolute" and resolution != 1:
            raise HypernetworkError(
                f"resolution={resolution} with absolute positions: they read a cell per channel. Leave resolution at "
                "1, or choose relative positions."
            )
        if levels < 1:
            raise HypernetworkError(f"levels={levels}: there is at least one level.")
        self.positions = positions
        # Merged channels are as large as one of them, so their sum must be kept. The first channels are the large ones
        # where channels were ordered by importance, and the rest is missed less.
        exponent = 1.0 if positions == "relative" else 0.5
        self.tensors = nn.ModuleList(
            GridTensor(
                tensor,
                exponent=exponent,
                resolution=resolution,
                levels=levels,
                coverage=1.0 if positions == "relative" else _COVERAGE,
            )
            for tensor in full_size
        )

    def start_at(self, values: Sequence[Tensor]) -> bool:
        exact = True
        with torch.no_grad():
            for held, value in zip(self.tensors, values, strict=True):
                assert isinstance(held, GridTensor)
                num_out, num_in = held.full_size.num_out, held.full_size.num_in
                out_cells, in_cells, kernel_area = held.values.shape
                exact &= (out_cells, in_cells) == (num_out, num_in)
                # A cell starts as the mean of the channels that it stands for.
                out, in_ = _overlap(out_cells, num_out, value), _overlap(in_cells, num_in, value)
                held.values.copy_(torch.einsum("or,rsk,is->oik", out, value.reshape(num_out, num_in, kernel_area), in_))
        return exact

    def forward(self, coordinates: Sequence[TensorCoordinates]) -> list[Tensor]:
        return [self._generate(tensor) for tensor in coordinates]

    def _generate(self, tensor: TensorCoordinates) -> Tensor:
        held: GridTensor = self.tensors[tensor.layer]  # pyright: ignore[reportAssignmentType]
        values = self._read(held.values, tensor)
        for change, weight in zip(held.changes, held.level_weights(tensor), strict=True):
            values = values + weight * self._read(change, tensor)
        gain = (held.full_size.num_in / tensor.num_in) ** held.exponent
        return (values * gain).reshape(tensor.shape)

    def _read(self, cells: Tensor, tensor: TensorCoordinates) -> Tensor:
        """A grid at the positions of a tensor, `[num_out, num_in, kernel_area]`."""
        held: GridTensor = self.tensors[tensor.layer]  # pyright: ignore[reportAssignmentType]
        full_size = held.full_size
        is_part = tensor.num_out <= full_size.num_out and tensor.num_in <= full_size.num_in
        if self.positions == "absolute" and is_part and not tensor.is_noisy:
            # What follows comes to the same, through products with unit matrices: most of a training step's time.
            taken = cells[: tensor.num_out, : tensor.num_in]
            return F.pad(taken, (0, 0, 0, tensor.num_in - taken.shape[1], 0, tensor.num_out - taken.shape[0]))
        out = self._read_axis(tensor.out_positions, tensor.offset, full_size.num_out, cells.shape[0])
        in_ = self._read_axis(tensor.in_positions, tensor.offset, full_size.num_in, cells.shape[1])
        return torch.einsum("or,rsk,is->oik", out.to(cells.dtype), cells, in_.to(cells.dtype))

    def _read_axis(self, positions: Tensor, offset: float, full_size: int, num_cells: int) -> Tensor:
        """How much of each grid cell each channel of an axis reads, `[num_channels, num_cells]`.

        Rows sum to 1, but for channels that a level of first channels does not hold: these read nothing.
        """
        num_channels = len(positions)
        if self.positions == "relative":
            end, channel = num_cells, num_cells / num_channels
        else:
            end, channel = full_size, 1.0
        centres = (positions.to(self._device) * num_channels + 0.5 - offset) * channel
        return _box_filter(centres, channel, num_cells, end)

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def initialize(self, module: nn.Module) -> None:
        if isinstance(module, GridTensor):
            init.normal_(module.values, std=(2 / (module.full_size.num_in * module.values.shape[2])) ** 0.5)
            init.constant_(module.exponent, module.first_exponent)
            for change in module.changes:
                init.zeros_(change)


def _box_filter(centres: Tensor, width: float, num_cells: int, end: float) -> Tensor:
    """How much of each cell lies in intervals of one `width` (in cells) about `centres`, moved inside of [0, `end`]."""
    low = (centres - width / 2).clamp(0, end - width).unsqueeze(1)
    cells = torch.arange(num_cells, device=centres.device)
    overlap = torch.minimum(low + width, cells + 1) - torch.maximum(low, cells)
    return overlap.clamp(min=0) / width


def _overlap(num_cells: int, num_channels: int, like: Tensor) -> Tensor:
    """What part of each of `num_cells` cells each of `num_channels` channels fills, `[num_cells, num_channels]`."""
    width = num_channels / num_cells
    centres = (torch.arange(num_cells, device=like.device) + 0.5) * width
    return _box_filter(centres, width, num_channels, num_channels).to(like.dtype)
