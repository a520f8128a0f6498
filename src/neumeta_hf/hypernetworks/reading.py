"""Reading cells over the two channel axes of a tensor at the coordinates of another size.

A channel is an interval about its position, and reads the mean of the cells that it covers: a box filter. Where an axis
has several parts, each is read as if it were an axis of its own: no channel reads across the border of its part.
"""

import operator
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from neumeta_hf.coordinates import TensorCoordinates, spread_over_channels
from neumeta_hf.errors import HypernetworkError

Positions = Literal["relative", "absolute"]

CellParts = Sequence[Sequence[int]]
"""How many cells each part of the output axis has, and of the input axis, in the order of the parts."""


def check_positions(positions: Any) -> None:
    """Refuse an option that says of no channels which belong together.

    Args:
        positions: As the option was given.

    Raises:
        HypernetworkError: It is neither "relative" nor "absolute".
    """
    if positions not in ("relative", "absolute"):
        raise HypernetworkError(f"positions={positions!r}: choose one of relative, absolute.")


def check_tensor(tensor: TensorCoordinates, full_sizes: Sequence[TensorCoordinates]) -> TensorCoordinates:
    """Refuse coordinates of a tensor that a hypernetwork was not built for.

    Args:
        tensor: What is asked for.
        full_sizes: Coordinates of all tensors of the reference, in order.

    Returns:
        The coordinates of that tensor in the reference.

    Raises:
        HypernetworkError: There is no such tensor, or one of its axes has another number of parts there.
    """
    if tensor.layer >= len(full_sizes):
        raise HypernetworkError(
            f"tensor number {tensor.layer} is unknown: this hypernetwork was built for {len(full_sizes)} tensors."
        )
    full_size = full_sizes[tensor.layer]
    for parts, full_parts in ((tensor.out_parts, full_size.out_parts), (tensor.in_parts, full_size.in_parts)):
        if len(parts) != len(full_parts):
            raise HypernetworkError(
                f"tensor number {tensor.layer} has an axis with parts of {list(parts)} channels, but the hypernetwork "
                f"was built for {list(full_parts)}: give make_coordinates the parts of every size."
            )
    return full_size


def read_values(
    cells: Tensor,
    cell_parts: CellParts,
    tensor: TensorCoordinates,
    full_size: TensorCoordinates,
    *,
    positions: Positions,
) -> Tensor:
    """Values on cells at the positions of a tensor.

    With absolute positions there is a cell per channel, or per one of the first channels.

    Args:
        cells: `[out cells, in cells, kernel_area]`.
        cell_parts: Parts of the cells.
        tensor: Coordinates of what is generated.
        full_size: Coordinates of the same tensor in the reference.
        positions: Which channels of two sizes belong together.

    Returns:
        `[num_out, num_in, kernel_area]`; zeros for channels beyond the first ones that there are cells for.
    """
    if positions == "absolute" and not tensor.is_noisy and _fits(tensor, full_size):
        # What follows comes to the same, through products with unit matrices: most of a training step's time.
        return _first_channels(cells, (tensor.out_parts, tensor.in_parts), cell_parts)
    filters = (
        None
        if not varies and parts == tuple(counts)
        else box_filter(centres, parts, counts, full_parts if positions == "absolute" else None)
        for centres, parts, counts, full_parts, varies in zip(
            centres_of(tensor, full_size, cells.device),
            (tensor.out_parts, tensor.in_parts),
            cell_parts,
            (full_size.out_parts, full_size.in_parts),
            (tensor.out_varies, tensor.in_varies),
            strict=True,
        )
    )
    return filter_axes(cells, *filters)


def filter_axes(cells: Tensor, out: Tensor | None, in_: Tensor | None) -> Tensor:
    """Read both axes of cells.

    Args:
        cells: `[out cells, in cells, kernel_area]`.
        out: Box filter of the output axis, as from `box_filter`. None: a channel is a cell; its filter would be as
            large as the square of their number, which for a vocabulary fits no memory.
        in_: Box filter of the input axis.

    Returns:
        `[num_out, num_in, kernel_area]`.
    """
    if out is not None and in_ is not None:
        return torch.einsum("or,rsk,is->oik", out.to(cells.dtype), cells, in_.to(cells.dtype))
    if out is not None:
        return torch.einsum("or,rik->oik", out.to(cells.dtype), cells)
    if in_ is not None:
        return torch.einsum("osk,is->oik", cells, in_.to(cells.dtype))
    return cells


def centres_of(tensor: TensorCoordinates, full_size: TensorCoordinates, device: torch.device) -> tuple[Tensor, Tensor]:
    """Compute where the channels of both axes have their centres, within their parts and in channels.

    Args:
        tensor: Coordinates of what is generated.
        full_size: Coordinates of the same tensor in the reference.
        device: Device of the result.

    Returns:
        `[num_out]` and `[num_in]`.
    """

    def of_axis(positions: Tensor, parts: Sequence[int], full_parts: Sequence[int]) -> Tensor:
        if len(parts) == 1:
            return positions.to(device) * len(positions) + 0.5 - tensor.offset
        if tensor.is_noisy:
            return _centres_of_positions(positions, parts, full_parts).to(device) + 0.5 - tensor.offset
        return centres_of_parts(parts, device)  # what positions come to, without their rounding

    return (
        of_axis(tensor.out_positions, tensor.out_parts, full_size.out_parts),
        of_axis(tensor.in_positions, tensor.in_parts, full_size.in_parts),
    )


def centres_of_parts(parts: Sequence[int], device: torch.device) -> Tensor:
    """Compute where the centre of each channel lies in its part, in channels.

    Args:
        parts: How many channels each part of the axis has.
        device: Device of the result.

    Returns:
        `[num_channels]`.
    """
    centres = torch.arange(sum(parts), device=device) + 0.5
    if len(parts) == 1:
        return centres
    counts = _count(parts)
    (first,) = spread_over_channels([counts.cumsum(0) - counts], parts)
    return centres - first.to(device)


def box_filter(
    centres: Tensor,
    parts: Sequence[int],
    cell_parts: Sequence[int],
    full_parts: Sequence[int] | None = None,
) -> Tensor:
    """Compute how much of each cell lies in each channel.

    A channel is an interval about its centre, moved inside of its part, of which it reads the mean.

    Args:
        centres: Centres of the channels, within their parts and in channels, `[num_channels]`.
        parts: How many channels each part has.
        cell_parts: How many cells each part has.
        full_parts: How many channels a part has room for, where each is a cell wide and the first of them have one.
            None: the cells of a part are all of it, however many channels share them.

    Returns:
        `[num_channels, num_cells]`. Rows sum to 1, but for channels without a cell.
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


def _centres_of_positions(positions: Tensor, parts: Sequence[int], full_parts: Sequence[int]) -> Tensor:
    """Where in its part each position of an axis lies, in channels, `[num_channels]`."""
    counts, full_counts = _count(parts), _count(full_parts)
    of_parts = (full_counts.cumsum(0) - full_counts, counts / full_counts)
    first, scale = spread_over_channels(of_parts, parts).to(positions.device)
    return (positions * sum(full_parts) - first) * scale
