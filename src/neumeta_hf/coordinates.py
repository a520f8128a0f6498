"""Where every weight of a network lies: from `{name: shape}` to coordinates.

The coordinate of one weight in one network is, after "Neural Metamorphosis" (Yang and Wang, ECCV 2024),

    (l / L, c_out / C_out, c_in / C_in, L / N, C_out / N, C_in / N)

with `l` the number of the tensor and `L` how many tensors are generated. `c_out` and `c_in` are the channels that the
weight joins, `C_out` and `C_in` how many there are, and `N` is a constant. One coordinate stands for the whole kernel
of a channel pair. All weights of a tensor share four of the six numbers, and the other two vary along one axis each. A
tensor's coordinates are therefore kept as two vectors and four scalars: memory grows with `C_out + C_in`, not with
their product.

An axis may consist of several *parts* one behind the other, each of which a size shortens by itself: the inputs of a
layer that reads concatenated features, or channels that are normalised in groups. Every part then keeps the stretch of
[0, 1] that it takes up in the reference, whatever its share of a smaller network: channel `c` of part `p` lies at

    (S_p + c * N_p / n_p) / N

with `n_p` channels in the part, `N_p` in that part of the reference, `S_p` in the parts before it and `N` in all. With
a single part that is `c / C`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from neumeta_hf.errors import HypernetworkError

COORD_DIM = 6

Alignment = Literal["corner", "center"]


@dataclasses.dataclass(frozen=True)
class TensorCoordinates:
    """The coordinates of one generated tensor.

    Attributes:
        layer: Which of the generated tensors this is, from 0: it routes to the hypernetwork's part and is never noisy.
        shape: Shape of the tensor to make.
        layer_position: `l / L`.
        out_positions: `c_out / C_out` of each output channel, or of its part and where that lies, `[num_out]`.
        in_positions: `c_in / C_in` of each input channel, likewise, `[num_in]`; one zero for vectors.
        layer_size: `L / N`.
        out_size: `C_out / N`.
        in_size: `C_in / N`.
        out_parts: How many output channels each part of the axis has; they sum up to `num_out`.
        in_parts: How many input channels each part of the axis has; they sum up to `num_in`.
        out_shares: Which share of the reference's output channels each part has there; they sum up to 1.
        in_shares: Which share of the reference's input channels each part has there; they sum up to 1.
        offset: Where in its channel a position lies: 0 at its beginning, 0.5 in its centre.
        out_varies: Whether a size may change the number of output channels.
        in_varies: Whether a size may change the number of input channels.
        is_noisy: Whether the positions were moved away from their channels.
        network_size: How large the whole network is: the mean of `log2(C / C_full)` over all axes of generated tensors
            that sizes change. The counts are held in the trained range. 0 at the reference, -1 at half of its width.
    """

    layer: int
    shape: tuple[int, ...]
    layer_position: float
    out_positions: Tensor
    in_positions: Tensor
    layer_size: float
    out_size: float
    in_size: float
    out_parts: tuple[int, ...]
    in_parts: tuple[int, ...]
    out_shares: tuple[float, ...]
    in_shares: tuple[float, ...]
    offset: float = 0.0
    out_varies: bool = True
    in_varies: bool = True
    is_noisy: bool = False
    network_size: float = 0.0

    @property
    def num_out(self) -> int:
        return self.shape[0]

    @property
    def num_in(self) -> int:
        return self.shape[1] if len(self.shape) > 1 else 1

    @property
    def kernel_size(self) -> tuple[int, int]:
        height, width = (1, 1, *self.shape[2:])[-2:]
        return height, width

    @property
    def num_weights(self) -> int:
        return math.prod(self.shape)

    def rows(self) -> Tensor:
        """Write one row per channel pair, `[num_out * num_in, 6]`, in the order in which the tensor stores them.

        Only for looking at: generation never builds it.
        """
        out, in_ = torch.meshgrid(self.out_positions, self.in_positions, indexing="ij")
        constants = (self.layer_position, self.layer_size, self.out_size, self.in_size)
        layer, layer_size, out_size, in_size = (torch.full_like(out, value) for value in constants)
        return torch.stack((layer, out, in_, layer_size, out_size, in_size), dim=-1).reshape(-1, COORD_DIM)


def make_coordinates(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    scale: int,
    layers: Sequence[str] | None = None,
    alignment: Alignment = "corner",
    smallest: Mapping[str, tuple[int, ...]] | None = None,
    largest: Mapping[str, tuple[int, ...]] | None = None,
    varying: Mapping[str, tuple[bool, bool]] | None = None,
    parts: Mapping[str, tuple[Sequence[int], Sequence[int]]] | None = None,
    reference_parts: Mapping[str, tuple[Sequence[int], Sequence[int]]] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, TensorCoordinates]:
    """Coordinates of every tensor in `shapes`, numbered in the order given.

    Args:
        shapes: Name to shape of each generated tensor: vectors, matrices, or kernels of one or two dimensions.
        scale: The constant `N` that sizes are divided by.
        layers: Names of all tensors of the reference that are generated, whose order numbers them. None: `shapes` has
            all of them.
        alignment: Where in its channel a position lies: "corner" is the paper's `c / C`; "center" is `(c + 0.5) / C`,
            for which coordinate noise of one channel covers [0, 1] exactly once at every size.
        smallest: Shapes at the smallest trained size. A size coordinate below it is raised to it, since the
            hypernetwork has never seen a smaller one; positions and divisors keep the true size. None: as is.
        largest: Shapes at the largest trained size, likewise.
        varying: Whether sizes change a tensor's output and input channels. None: both, for all.
        parts: How many channels each part of a tensor's output axis has, and of its input axis (`[1]` for vectors).
            Axes of tensors that are not named have one part; other names than those of `shapes` are passed over.
        reference_parts: The same of the reference, which says where in [0, 1] each part lies. The reference's own
            coordinates take the same mapping twice.
        device: Where the positions are kept.

    Returns:
        Name to coordinates, in the order of `shapes`.

    Raises:
        HypernetworkError: A tensor is neither vector, matrix nor kernel of one or two dimensions, or has an empty axis;
            its parts do not sum up to an axis, one is empty, or the reference has another number of them.
    """
    offset = 0.5 if alignment == "center" else 0.0
    log_ratios: list[float] = []
    make_positions = functools.cache(_make_positions)  # a network has many axes, but few different ones
    coordinates = {}
    number_of = {name: number for number, name in enumerate(shapes if layers is None else layers)}
    for name, shape in shapes.items():
        layer = number_of[name]
        if not 1 <= len(shape) <= 4 or 0 in shape:
            raise HypernetworkError(
                f"{name} has shape {tuple(shape)}: only vectors, matrices and kernels of one or two dimensions, with "
                "no empty axis, can be generated. Leave it out of `generated`, then it stays static."
            )
        num_out, num_in = shape[0], shape[1] if len(shape) > 1 else 1
        out_size, in_size = num_out, num_in
        if smallest is not None:
            out_size, in_size = max(out_size, smallest[name][0]), max(in_size, (*smallest[name], 1)[1])
        if largest is not None:
            out_size, in_size = min(out_size, largest[name][0]), min(in_size, (*largest[name], 1)[1])
        out_parts, in_parts = map(tuple, (parts or {}).get(name, ([num_out], [num_in])))
        full_out_parts, full_in_parts = (reference_parts or {}).get(name, ([num_out], [num_in]))
        out_shares = _check_parts(out_parts, full_out_parts, num_out, f"output axis of {name}")
        in_shares = _check_parts(in_parts, full_in_parts, num_in, f"input axis of {name}")
        axes = ((out_size, full_out_parts), (in_size, full_in_parts))
        varies = (True, True) if varying is None else varying[name]
        log_ratios += [
            math.log2(size / sum(full)) for (size, full), of_axis in zip(axes, varies, strict=True) if of_axis
        ]
        coordinates[name] = TensorCoordinates(
            layer=layer,
            shape=tuple(shape),
            layer_position=layer / len(number_of),
            out_positions=make_positions(out_parts, out_shares, offset, device),
            in_positions=make_positions(in_parts, in_shares, offset, device),
            layer_size=len(number_of) / scale,
            out_size=out_size / scale,
            in_size=in_size / scale,
            out_parts=out_parts,
            in_parts=in_parts,
            out_shares=out_shares,
            in_shares=in_shares,
            offset=offset,
            out_varies=varying is None or varying[name][0],
            in_varies=varying is None or varying[name][1],
        )
    network_size = sum(log_ratios) / max(len(log_ratios), 1)
    return {name: dataclasses.replace(tensor, network_size=network_size) for name, tensor in coordinates.items()}


def _check_parts(parts: Sequence[int], full_parts: Sequence[int], num_channels: int, axis: str) -> tuple[float, ...]:
    """Check the parts of an axis, and compute each part's share of the reference's channels."""
    mend = "Mend the rules of its target family."
    if any(count < 1 for count in (*parts, *full_parts)):
        raise HypernetworkError(
            f"the {axis} has parts of {list(parts)} channels, and of {list(full_parts)} in the reference: each part "
            f"has at least one channel. {mend}"
        )
    if sum(parts) != num_channels:
        raise HypernetworkError(
            f"the {axis} has parts of {list(parts)} channels, {sum(parts)} in all, but the tensor has {num_channels}: "
            f"parts sum up to their axis. {mend}"
        )
    if len(parts) != len(full_parts):
        raise HypernetworkError(
            f"the {axis} has parts of {list(parts)} channels, but in the reference of {list(full_parts)}: a size "
            f"changes how long parts are, never how many there are ({len(parts)} and {len(full_parts)}). {mend}"
        )
    return tuple(count / sum(full_parts) for count in full_parts)


def _make_positions(parts: Sequence[int], shares: Sequence[float], offset: float, device: torch.device | str) -> Tensor:
    """Positions of the channels of an axis, `[num_channels]`."""
    channels = torch.arange(sum(parts), device=device, dtype=torch.float32)
    if len(parts) == 1:
        return (channels + offset) / len(channels)
    counts, widths = (torch.tensor(numbers, dtype=torch.float64, device="cpu") for numbers in (parts, shares))
    of_parts = (counts.cumsum(0) - counts, counts, widths.cumsum(0) - widths, widths)
    first, count, start, width = spread_over_channels(of_parts, parts).float().to(device)
    return start + (channels - first + offset) / count * width


def spread_over_channels(of_parts: Sequence[Tensor], parts: Sequence[int]) -> Tensor:
    """Give every channel of an axis the numbers of its part.

    Args:
        of_parts: Several tensors of a number per part, `[num_parts]`, on the CPU.
        parts: How many channels each part has.

    Returns:
        A row for each of `of_parts`, `[len(of_parts), num_channels]`, on the CPU.
    """
    return torch.stack(tuple(of_parts)).repeat_interleave(torch.tensor(parts, device="cpu"), dim=1)


def add_noise(
    coordinates: Mapping[str, TensorCoordinates], noise: float, *, scale: int, generator: torch.Generator
) -> dict[str, TensorCoordinates]:
    """Move each coordinate by uniform noise: cross-model smoothness (Yang and Wang, ECCV 2024).

    Every channel of every axis moves on its own by `U(-noise/2, noise/2)` channels of its part of the axis, and so does
    each size. One draw serves all weights of a channel; the paper draws per weight. That keeps the first layer of a
    hypernetwork a sum of per-axis terms. The layer number is never moved, so noise cannot send a weight to another
    tensor's part of the hypernetwork. Shapes are never touched. Axes that no size changes (an image's colours, the
    classes, a vector's missing axis) have no neighbouring size to be smooth towards: they stay where they are.

    Args:
        coordinates: As from `make_coordinates`; not modified.
        noise: Full width of the noise, in channels.
        scale: The constant `N` that sizes were divided by.
        generator: A CPU generator, so that one seed gives one network on every device.

    Returns:
        New coordinates.

    Raises:
        HypernetworkError: `noise` is negative or no number.
    """
    if not (noise >= 0 and math.isfinite(noise)):
        raise HypernetworkError(f"noise={noise}: give coordinate noise as a width in channels, from 0 (no noise) up.")
    if noise == 0:
        return dict(coordinates)

    def moved(
        positions: Tensor, size: float, varies: bool, parts: Sequence[int], shares: Sequence[float]
    ) -> tuple[Tensor, float]:
        if not varies:
            return positions, size
        draws = (torch.rand(len(positions) + 1, generator=generator) - 0.5) * noise
        # Channels per unit of position: a part of few channels has wide ones.
        densities = torch.tensor(parts, device="cpu") / torch.tensor(shares, device="cpu")
        (density,) = spread_over_channels([densities], parts)
        return positions + (draws[:-1] / density).to(positions.device), size + draws[-1].item() / scale

    noisy = {}
    for name, tensor in coordinates.items():
        out_positions, out_size = moved(
            tensor.out_positions, tensor.out_size, tensor.out_varies, tensor.out_parts, tensor.out_shares
        )
        in_positions, in_size = moved(
            tensor.in_positions, tensor.in_size, tensor.in_varies, tensor.in_parts, tensor.in_shares
        )
        noisy[name] = dataclasses.replace(
            tensor,
            out_positions=out_positions,
            out_size=out_size,
            in_positions=in_positions,
            in_size=in_size,
            is_noisy=True,
        )
    return noisy


def centre_crop(kernel_size: Sequence[int], largest: Sequence[int]) -> list[int]:
    """Find the entries of a flattened `largest` kernel that make up its 2-D centre of `kernel_size`.

    Args:
        kernel_size: Height and width wanted.
        largest: Height and width that the hypernetwork writes.

    Returns:
        Indices into the flattened kernel, row by row: 3x3 of 5x5 gives 6, 7, 8, 11, 12, 13, 16, 17, 18.

    Raises:
        HypernetworkError: The wanted kernel is larger than what is written.
    """
    (height, width), (max_height, max_width) = kernel_size, largest
    if height > max_height or width > max_width:
        raise HypernetworkError(
            f"a {height}x{width} kernel cannot be cropped from {max_height}x{max_width}: the hypernetwork must be "
            "built with the largest kernel among the generated tensors."
        )
    top, left = (max_height - height) // 2, (max_width - width) // 2
    return [row * max_width + column for row in range(top, top + height) for column in range(left, left + width)]
