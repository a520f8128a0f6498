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

Where an axis consists of several parts, each part is read as if it were an axis of its own: no channel reads across the
border of its part, and a small network is made of a portion of every part.
"""

import math
import operator
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from neumeta_hf.coordinates import TensorCoordinates, spread_over_channels
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks.base import Hypernetwork, register_hypernetwork

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
        cell_parts: Of each level, `values` being the first: how many cells each part of the output axis has, and of the
            input axis. They lie in the order of the parts.
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
            arXiv:1903.05134), those of every part where an axis has several.
        resolution: Cells per channel of the reference, on axes that sizes change. 1 holds the reference exactly. Less,
            for relative positions alone, is a smaller hypernetwork and a smoother manifold: with 0.25, sizes of 1, 0.5
            and 0.25 compute the same.
        levels: How many sizes, each half of the one before, may differ in more than what they leave out or merge. 1 is
            slicing or merging; 3 suits widths from 1.0 to 0.25. Tensors both of whose axes vary then hold about a fifth
            more (with relative positions less than a third), and those with one such axis three fifths more (three
            quarters). With 2 levels it is a sixth (a quarter) and two fifths (half).

    Raises:
        HypernetworkError: `positions` is neither, `resolution` is no number in (0, 1] or does not fit `positions`, or
            `levels` is no whole number from 1 up.
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
        if isinstance(resolution, bool) or not isinstance(resolution, int | float) or not 0 < resolution <= 1:
            raise HypernetworkError(f"resolution={resolution!r}: a grid has more than 0, up to 1 cells per channel.")
        if positions == "absolute" and resolution != 1:
            raise HypernetworkError(
                f"resolution={resolution} with absolute positions: they read a cell per channel. Leave resolution at "
                "1, or choose relative positions."
            )
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
            raise HypernetworkError(f"levels={levels!r}: it is a whole number, of at least one level.")
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
                full_size, cell_parts = held.full_size, held.cell_parts[0]
                exact &= cell_parts == [full_size.out_parts, full_size.in_parts]
                value = value.reshape(full_size.num_out, full_size.num_in, -1)
                # A cell starts as the mean of the channels that it stands for.
                out, in_ = (
                    _box_filter(_centres(cells, value.device), cells, channels).to(value.dtype)
                    for cells, channels in zip(cell_parts, (full_size.out_parts, full_size.in_parts), strict=True)
                )
                held.values.copy_(torch.einsum("or,rsk,is->oik", out, value, in_))
        return exact

    def forward(self, coordinates: Sequence[TensorCoordinates]) -> list[Tensor]:
        return [self._generate(tensor) for tensor in coordinates]

    def _generate(self, tensor: TensorCoordinates) -> Tensor:
        held: GridTensor = self.tensors[tensor.layer]  # pyright: ignore[reportAssignmentType]
        full_size = held.full_size
        for parts, full_parts in ((tensor.out_parts, full_size.out_parts), (tensor.in_parts, full_size.in_parts)):
            if len(parts) != len(full_parts):
                raise HypernetworkError(
                    f"tensor number {tensor.layer} has an axis with parts of {list(parts)} channels, but the grid was "
                    f"built for {list(full_parts)}: give make_coordinates the parts of every size."
                )
        first, *further = held.cell_parts
        values = self._read(held.values, first, tensor)
        for change, cell_parts, weight in zip(held.changes, further, held.level_weights(tensor), strict=True):
            values = torch.add(values, self._read(change, cell_parts, tensor), alpha=weight)
        gain = (full_size.num_in / tensor.num_in) ** held.exponent
        return (values * gain).reshape(tensor.shape)

    def _read(self, cells: Tensor, cell_parts: Sequence[Sequence[int]], tensor: TensorCoordinates) -> Tensor:
        """A grid at the positions of a tensor, `[num_out, num_in, kernel_area]`."""
        held: GridTensor = self.tensors[tensor.layer]  # pyright: ignore[reportAssignmentType]
        full_size = held.full_size
        if self.positions == "absolute" and not tensor.is_noisy and _fits(tensor, full_size):
            # What follows comes to the same, through products with unit matrices: most of a training step's time.
            return _first_channels(cells, (tensor.out_parts, tensor.in_parts), cell_parts)
        out_cells, in_cells = cell_parts
        out = self._read_axis(tensor, tensor.out_positions, tensor.out_parts, full_size.out_parts, out_cells)
        in_ = self._read_axis(tensor, tensor.in_positions, tensor.in_parts, full_size.in_parts, in_cells)
        return torch.einsum("or,rsk,is->oik", out.to(cells.dtype), cells, in_.to(cells.dtype))

    def _read_axis(
        self,
        tensor: TensorCoordinates,
        positions: Tensor,
        parts: Sequence[int],
        full_parts: Sequence[int],
        cell_parts: Sequence[int],
    ) -> Tensor:
        """How much of each grid cell each channel of an axis reads, `[num_channels, num_cells]`.

        Rows sum to 1, but for channels that a level of first channels does not hold: these read nothing.
        """
        if len(parts) == 1:
            centres = positions.to(self._device) * len(positions) + 0.5 - tensor.offset
        elif tensor.is_noisy:
            centres = _centres_of_positions(positions, parts, full_parts).to(self._device) + 0.5 - tensor.offset
        else:
            centres = _centres(parts, self._device)  # what positions come to, without their rounding
        return _box_filter(centres, parts, cell_parts, full_parts if self.positions == "absolute" else None)

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def initialize(self, module: nn.Module) -> None:
        if isinstance(module, GridTensor):
            init.normal_(module.values, std=(2 / (module.full_size.num_in * module.values.shape[2])) ** 0.5)
            init.constant_(module.exponent, module.first_exponent)
            for change in module.changes:
                init.zeros_(change)


def _fits(tensor: TensorCoordinates, full_size: TensorCoordinates) -> bool:
    """Whether no part of an axis is longer than it is in the reference."""
    counts = (*tensor.out_parts, *tensor.in_parts)
    return all(map(operator.le, counts, (*full_size.out_parts, *full_size.in_parts)))


def _first_channels(cells: Tensor, parts: Sequence[Sequence[int]], cell_parts: Sequence[Sequence[int]]) -> Tensor:
    """The first cells of each part of both axes as its channels, with zeros for the channels beyond them.

    Args:
        cells: `[out cells, in cells, kernel_area]`.
        parts: How many channels each part of the output axis has, and of the input axis.
        cell_parts: How many cells they have.

    Returns:
        `[num_out, num_in, kernel_area]`.
    """
    axes = []
    for axis, (counts, num_cells) in enumerate(zip(parts, cell_parts, strict=True)):
        if len(set(counts)) == len(set(num_cells)) == 1:
            # Equal parts, such as the groups of a normalisation or a single one, are sliced together.
            axes.append((len(counts), counts[0], num_cells[0]))
        else:
            cells = _gather_first_channels(cells, axis, counts, num_cells)
            axes.append((1, sum(counts), sum(counts)))
    (out_parts, num_out, out_cells), (in_parts, num_in, in_cells) = axes
    if out_parts == in_parts == 1:  # almost always: no view but the slice, in a loop that is bound by its calls
        taken = cells[:num_out, :num_in]
        padding = (0, 0, 0, num_in - taken.shape[1], 0, num_out - taken.shape[0])
        return F.pad(taken, padding) if any(padding) else taken
    taken = cells.reshape(out_parts, out_cells, in_parts, in_cells, -1)[:, :num_out, :, :num_in]
    padding = (0, 0, 0, num_in - taken.shape[3], 0, 0, 0, num_out - taken.shape[1])
    if any(padding):  # without zeros to add it would copy
        taken = F.pad(taken, padding)
    return taken.reshape(out_parts * num_out, in_parts * num_in, -1)


def _gather_first_channels(cells: Tensor, axis: int, parts: Sequence[int], cell_parts: Sequence[int]) -> Tensor:
    """As `_first_channels`, of one axis with parts of any length."""
    if parts == cell_parts:
        return cells
    counts, num_cells = _count(parts), _count(cell_parts)
    of_parts = (counts.cumsum(0) - counts, num_cells, num_cells.cumsum(0) - num_cells)
    first, held, start = spread_over_channels(of_parts, parts)
    channels = torch.arange(sum(parts), device="cpu") - first
    index = torch.where(channels < held, start + channels, cells.shape[axis])
    if any(map(operator.gt, parts, cell_parts)):
        cells = torch.cat((cells, torch.zeros_like(cells.narrow(axis, 0, 1))), dim=axis)
    return cells.index_select(axis, index.to(cells.device))


def _count(parts: Sequence[int]) -> Tensor:
    return torch.tensor(parts, device="cpu")


def _centres(parts: Sequence[int], device: torch.device) -> Tensor:
    """Where the centre of each channel lies in its part, in channels, `[num_channels]`."""
    centres = torch.arange(sum(parts), device=device) + 0.5
    if len(parts) == 1:
        return centres
    counts = _count(parts)
    (first,) = spread_over_channels([counts.cumsum(0) - counts], parts)
    return centres - first.to(device)


def _centres_of_positions(positions: Tensor, parts: Sequence[int], full_parts: Sequence[int]) -> Tensor:
    """Where in its part each position of an axis lies, in channels, `[num_channels]`."""
    counts, full_counts = _count(parts), _count(full_parts)
    of_parts = (full_counts.cumsum(0) - full_counts, counts / full_counts)
    first, scale = spread_over_channels(of_parts, parts).to(positions.device)
    return (positions * sum(full_parts) - first) * scale


def _box_filter(
    centres: Tensor, parts: Sequence[int], cell_parts: Sequence[int], full_parts: Sequence[int] | None = None
) -> Tensor:
    """How much of each cell lies in each channel, `[num_channels, num_cells]`.

    A channel is an interval about its centre, moved inside of its part, of which it reads the mean.

    Args:
        centres: Of the channels, within their parts and in channels, `[num_channels]`.
        parts: How many channels each part has.
        cell_parts: How many cells each part has.
        full_parts: How many channels a part has room for, where each is a cell wide and the first of them have one.
            None: the cells of a part are all of it, however many channels share them.
    """
    num_cells = sum(cell_parts)
    if len(parts) == 1:
        width, end = (num_cells / parts[0], num_cells) if full_parts is None else (1.0, full_parts[0])
        low = (centres * width - width / 2).clamp(0, end - width).unsqueeze(1)
        high = low + width
    else:
        counts, cells = _count(parts), _count(cell_parts)
        ends, widths = (
            (cells, cells / counts)
            if full_parts is None
            else (_count(full_parts), torch.ones(len(parts), device="cpu"))
        )
        of_parts = (widths, ends - widths, cells.cumsum(0) - cells, cells.cumsum(0))
        width, latest, start, end = spread_over_channels(of_parts, parts).to(centres.device).unsqueeze(-1)
        low = start + (centres.unsqueeze(1) * width - width / 2).clamp(min=0).minimum(latest)
        high = (low + width).minimum(end)  # neither channels without a cell nor rounding read from the next part
    cell = torch.arange(num_cells, device=centres.device)
    overlap = torch.minimum(high, cell + 1) - torch.maximum(low, cell)
    return overlap.clamp(min=0) / width
