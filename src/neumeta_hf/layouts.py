"""Between tensors as networks have them and their canonical form, which hypernetworks make."""

import torch
from torch import Tensor

from neumeta_hf.axes import Dim, Layout, Size


def to_canonical(tensor: Tensor, layout: Layout, size: Size) -> Tensor:
    """Bring a tensor into its canonical form.

    Args:
        tensor: As the network of that size has it.
        layout: Layout of the tensor.
        size: A size of the network.

    Returns:
        `[output channels, input channels, ...]`; the tensor itself where there is nothing to do.
    """
    if layout.is_plain:
        return tensor
    found = tensor.permute(layout.order)
    for place in layout.reordered:
        found = _turn(found, place, layout.dims[place], size, canonical=True)
    return found


def from_canonical(values: Tensor, layout: Layout, size: Size) -> Tensor:
    """Bring a canonical form into the form that the network of a size has; the inverse of `to_canonical`.

    Args:
        values: `[output channels, input channels, ...]`.
        layout: Layout of the tensor.
        size: A size of the network.

    Returns:
        The tensor; `values` themselves where there is nothing to do.
    """
    if layout.is_plain:
        return values
    for place in layout.reordered:
        values = _turn(values, place, layout.dims[place], size, canonical=False)
    return values.permute([layout.order.index(place) for place in range(len(layout.order))])


def _turn(tensor: Tensor, place: int, dim: Dim, size: Size, *, canonical: bool) -> Tensor:
    """Change between channels whose positions are neighbours and positions whose channels are."""
    counts = [segment.count if segment.axis is None else size[segment.axis] * segment.inner for segment in dim]
    found = []
    for segment, piece in zip(dim, tensor.split(counts, dim=place), strict=True):
        if segment.inner > 1:
            channels = piece.shape[place] // (segment.parts * segment.inner)
            inside = (channels, segment.inner) if canonical else (segment.inner, channels)
            piece = piece.unflatten(place, (segment.parts, *inside)).transpose(place + 1, place + 2)
            piece = piece.flatten(place, place + 2)
        found.append(piece)
    return found[0] if len(found) == 1 else torch.cat(found, dim=place)
