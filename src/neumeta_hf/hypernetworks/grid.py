"""A grid of learned values over the channel axes, resampled at the coordinates: an INR without a network behind it.

The paper's INR is a multilayer perceptron of the coordinate. This one keeps the values themselves, on a grid as fine as
the reference. It reads them with a box filter as wide as one channel of the size asked for, as grid-based neural fields
do in space. That makes it as large as what it generates, start exactly at the reference, and train like plain weights.

With relative positions a small network is the large one with neighbouring channels merged: averaged over output
channels, summed over input channels, which keeps what the network computes where neighbours agree. Detail that averages
out within a channel of a small size is free to serve the larger sizes alone. Where a small size is not to be trained at
all, such detail can be left out: a grid coarser than the reference is the same function of its inputs at every size
that has at least a channel per cell.

A small network is a part or a summary of the large one, and what is best for the one is not for the other. Further
levels, each for networks of half the size, let them differ. A level adds what small networks want changed, and fades in
with the logarithm of the size. As small networks have few channels it costs little.

Where an axis consists of several parts, each part is read as if it were an axis of its own: no channel reads across the
border of its part, and a small network is made of a portion of every part.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import initialization as init

from neumeta_hf.coordinates import TensorCoordinates
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks.base import Hypernetwork, check_counts, register_hypernetwork
from neumeta_hf.hypernetworks.reading import (
    box_filter,
    centres_of_parts,
    check_positions,
    check_tensor,
    filter_axes,
    read_values,
)

_COVERAGE = 13 / 16
"""Part of a small network's first channels that its level holds: two further levels then add about a fifth to a tensor
both of whose axes vary, and three fifths to one that has a single such axis."""


class GridTensor(nn.Module):
    """One tensor's grid.

    Attributes:
        full_size: Coordinates of the tensor in the reference.
        values: `[out cells, in cells, kernel_area]`.
        changes: What each further level adds, for a network of `2^-level` of the channels: `[out cells, in cells,
            kernel_area]`; with relative positions a cell per channel of that network, with absolute ones of its first
            channels. Vectors, which are small, have a cell per channel of the reference on every level; tensors that no
            size changes have none.
        cell_parts: For each level, of which `values` is the first, how many cells each part of the output axis and of
            the input axis has. They lie in the order of the parts.
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
        axes = ((full_size.out_parts, full_size.out_varies), (full_size.in_parts, full_size.in_varies))
        # What no size changes cannot tell sizes apart.
        levels = levels if any(varies and sum(parts) > 1 for parts, varies in axes) else 1
        fractions = [1.0 if len(full_size.shape) == 1 else coverage * 2.0**-level for level in range(1, levels)]
        self.cell_parts: list[list[tuple[int, ...]]] = [
            [tuple(max(1, round(count * fraction)) if varies else count for count in parts) for parts, varies in axes]
            for fraction in (resolution, *fractions)
        ]
        values, *changes = (
            torch.zeros(sum(out_cells), sum(in_cells), math.prod(full_size.kernel_size))
            for out_cells, in_cells in self.cell_parts
        )
        self.values = nn.Parameter(values)
        self.changes = nn.ParameterList(changes)

    def level_weights(self, tensor: TensorCoordinates) -> list[float]:
        """Compute the weight in [0, 1] of each further level at a size: 1 from `2^-level` of the channels down."""
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
            arXiv:1903.05134), those of every part where an axis has several.
        resolution: Cells per channel of the reference, on axes that sizes change. 1 holds the reference exactly. Less,
            for relative positions alone, is a smaller hypernetwork and a smoother manifold: with 0.25, sizes of 1, 0.5
            and 0.25 compute the same.
        levels: Number of resolution levels. At 1 a small size is a slice of the full one, or a merge of it. Each
            further level adds a correction for sizes below `2^-level`; 3 suits widths from 1.0 to 0.25. With 3 levels
            tensors both of whose axes vary hold about a fifth more, and those with one such axis three fifths more.
            With relative positions it is up to a third and three quarters. What 2 levels cost stands in
            docs/guide_hypernetworks.md.

    Raises:
        HypernetworkError: `positions` is neither, `resolution` is not a number in (0, 1] or does not fit `positions`,
            or `levels` is not a whole number from 1 up.
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
        check_positions(positions)
        if isinstance(resolution, bool) or not isinstance(resolution, int | float) or not 0 < resolution <= 1:
            raise HypernetworkError(
                f"resolution={resolution!r}: give the cells per channel, a number above 0 and up to 1."
            )
        if positions == "absolute" and resolution != 1:
            raise HypernetworkError(
                f"resolution={resolution} with absolute positions: these need one cell per channel. Leave resolution "
                "at 1, or choose relative positions."
            )
        check_counts(levels=levels)
        self.positions = positions
        self.full_size = list(full_size)
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
                full_size, cell_parts = held.full_size, held.cell_parts[0]
                exact &= cell_parts == [full_size.out_parts, full_size.in_parts]
                value = value.reshape(full_size.num_out, full_size.num_in, -1)
                # A cell starts as the mean of the channels that it stands for.
                filters = (
                    None if cells == channels else box_filter(centres_of_parts(cells, value.device), cells, channels)
                    for cells, channels in zip(cell_parts, (full_size.out_parts, full_size.in_parts), strict=True)
                )
                held.values.copy_(filter_axes(value, *filters))
        return exact

    def forward(self, coordinates: Sequence[TensorCoordinates]) -> list[Tensor]:
        return [self._generate(tensor) for tensor in coordinates]

    def _generate(self, tensor: TensorCoordinates) -> Tensor:
        return self.put_together(tensor, *self.read(tensor))

    def read(self, tensor: TensorCoordinates) -> tuple[Tensor, list[Tensor]]:
        """Read the levels of a tensor at its coordinates.

        Args:
            tensor: Its coordinates.

        Returns:
            Values, and the whole change of each further level, `[num_out, num_in, kernel_area]` each.

        Raises:
            HypernetworkError: There is no such tensor, or one of its axes has another number of parts.
        """
        full_size = check_tensor(tensor, self.full_size)
        held: GridTensor = self.tensors[tensor.layer]  # pyright: ignore[reportAssignmentType]
        values, *changes = (
            read_values(cells, cell_parts, tensor, full_size, positions=self.positions)
            for cells, cell_parts in zip((held.values, *held.changes), held.cell_parts, strict=True)
        )
        return values, changes

    def put_together(self, tensor: TensorCoordinates, values: Tensor, changes: Sequence[Tensor]) -> Tensor:
        """Add to values as much of each change as the size gets.

        Args:
            tensor: Coordinates of the tensor.
            values: As read.
            changes: Changes of each further level, likewise.

        Returns:
            The tensor.
        """
        held: GridTensor = self.tensors[tensor.layer]  # pyright: ignore[reportAssignmentType]
        for change, weight in zip(changes, held.level_weights(tensor), strict=True):
            values = torch.add(values, change, alpha=weight)
        gain = (held.full_size.num_in / tensor.num_in) ** held.exponent
        return (values * gain).reshape(tensor.shape)

    def initialize(self, module: nn.Module) -> None:
        if isinstance(module, GridTensor):
            init.normal_(module.values, std=(2 / (module.full_size.num_in * module.values.shape[2])) ** 0.5)
            init.constant_(module.exponent, module.first_exponent)
            for change in module.changes:
                init.zeros_(change)
