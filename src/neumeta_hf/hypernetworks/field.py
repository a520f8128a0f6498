"""A neural field: values and features on grids over the channel axes, decoded along with the size.

The `grid` trains like plain weights, but knows a size only by which channels it reads and how its levels fade. A
multilayer perceptron (MLP) of the coordinate knows the size, and learns slowly. Here both are one: what the grid reads
is added to what a small MLP makes of it, of further features that lie beside it, and of the size. The size is how many
output and input channels the tensor has of the reference's, and how large the whole network is, as logarithms: so a
narrow stage may differ in narrow and in wide networks.

The last layer of the MLP starts at zero, so that the family starts exactly at the reference. Features on grids that a
small MLP decodes are what neural fields in space are made of (Müller et al. 2022, arXiv:2201.05989).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from neumeta_hf.coordinates import TensorCoordinates
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks.base import check_counts, register_hypernetwork
from neumeta_hf.hypernetworks.chunks import in_chunks
from neumeta_hf.hypernetworks.grid import Grid, GridTensor
from neumeta_hf.hypernetworks.reading import read_values

_NUM_SIZES = 3
"""Numbers that tell a size: of output channels, of input channels, and of the whole network."""


class LastLayer(nn.Linear):
    """The last layer of a decoder, which starts at zero."""


class Decoder(nn.Module):
    """The MLP from what grids hold of a channel pair to a change of its kernel.

    Args:
        num_inputs: Numbers that grids hold of a channel pair.
        hidden_size: Width of the hidden layers.
        num_hidden_layers: How many there are; the first also reads the size.
        kernel_area: Numbers written per channel pair.
    """

    def __init__(self, num_inputs: int, *, hidden_size: int, num_hidden_layers: int, kernel_area: int):
        super().__init__()
        self.first = nn.Linear(num_inputs, hidden_size, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(num_hidden_layers - 1))
        # Without a bias, which would move all weights of a tensor together.
        self.last = LastLayer(hidden_size, kernel_area, bias=False)

    def forward(self, *read: Tensor, of_size: Tensor, unit: Tensor) -> Tensor:
        """Decode some rows of a tensor.

        Args:
            *read: What grids hold of its channel pairs, `[num_rows, num_in, ...]` each.
            of_size: What the size adds to the first hidden layer, `[hidden_size]`.
            unit: What counts as 1 in what is read and written.

        Returns:
            `[num_rows, num_in, kernel_area]`.
        """
        hidden = F.silu(self.first(torch.cat(read, dim=-1) / unit) + of_size)
        for linear in self.hidden:
            hidden = F.silu(linear(hidden))
        return self.last(hidden) * unit


class FieldTensor(nn.Module):
    """What the field holds of one tensor beside its grid.

    Attributes:
        full_size: Coordinates of the tensor in the reference.
        features: Numbers for the decoder alone, on the cells of each further level of the grid: `[out cells, in cells,
            num_features]`.
        unit: Root mean square of the reference's tensor, which is 1 to the decoder.
        of_size: From a size to what it adds to the decoder's first hidden layer; with its bias, it also tells tensors
            with the same decoder apart.

    Args:
        grid: Grid of the tensor.
        num_features: How many each cell has.
        hidden_size: Hidden size of the decoder.
        scale: The constant that sizes are divided by in coordinates.
    """

    unit: Tensor

    def __init__(self, grid: GridTensor, *, scale: float, num_features: int, hidden_size: int):
        super().__init__()
        self.full_size = grid.full_size
        self.scale = scale
        cells = [change.shape[:2] for change in grid.changes] if num_features else []
        self.features = nn.ParameterList(torch.zeros(*counts, num_features) for counts in cells)
        self.register_buffer("unit", torch.ones(()))
        self.of_size = nn.Linear(_NUM_SIZES, hidden_size)

    def size(self, tensor: TensorCoordinates) -> Tensor:
        """Logarithms of a tensor's size and of its network's, which noise moves as it moves the coordinates.

        Args:
            tensor: Coordinates of the tensor.

        Returns:
            `[3]`, zeros at the reference.
        """
        full = self.full_size
        axes = ((tensor.out_size, full.num_out, full.out_varies), (tensor.in_size, full.num_in, full.in_varies))
        # Noise of more than a channel may take the only one.
        ratios = [
            math.log2(max(size * self.scale, 2.0**-4) / full_count) if varies else 0.0
            for size, full_count, varies in axes
        ]
        return torch.tensor([*ratios, tensor.network_size], device=self.unit.device, dtype=self.of_size.weight.dtype)


@register_hypernetwork("field")
class Field(Grid):
    """A grid of several levels, and an MLP that reads it along with the size.

    Args:
        full_size: Coordinates of the reference's generated tensors.
        positions: As of the `grid`: "absolute" reads the first channels, "relative" merges neighbouring ones.
        levels: As of the `grid`: the reference's values, and a further level for each halving of the size.
        num_features: Numbers that each cell of a further level holds for the MLP alone.
        hidden_size: Width of the MLP's hidden layers.
        num_hidden_layers: How many hidden layers it has.
        shared: Whether tensors of the same kind (area of the kernel, levels) have one MLP, each with a shift of its
            own; else each tensor has its own.
        chunk_size: Channel pairs decoded at a time, which bounds memory to about `12 * hidden_size * chunk_size` bytes
            beside what is read.
        recompute_above: In training, a tensor with more channel pairs than this is decoded again, chunk by chunk, in
            the backward pass instead of kept.

    Raises:
        HypernetworkError: As for the `grid`; an option is no positive whole number (`num_features`: none below 0), or
            `shared` no truth value.
    """

    def __init__(
        self,
        full_size: Sequence[TensorCoordinates],
        *,
        positions: Literal["relative", "absolute"] = "absolute",
        levels: int = 3,
        num_features: int = 4,
        hidden_size: int = 32,
        num_hidden_layers: int = 2,
        shared: bool = True,
        chunk_size: int = 16384,
        recompute_above: int = 65536,
    ):
        super().__init__(full_size, positions=positions, levels=levels)
        check_counts(
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            chunk_size=chunk_size,
            recompute_above=recompute_above,
        )
        if isinstance(num_features, bool) or not isinstance(num_features, int) or num_features < 0:
            raise HypernetworkError(f"num_features={num_features!r}: give a whole number from 0 up.")
        if not isinstance(shared, bool):
            raise HypernetworkError(f"shared={shared!r}: give true or false.")
        self.chunk_size = chunk_size
        self.recompute_above = recompute_above
        self.fields = nn.ModuleList()
        self.decoders = nn.ModuleDict()
        self.decoder_names: list[str] = []
        scale = len(full_size) / full_size[0].layer_size
        for number, held in enumerate(self.tensors):
            assert isinstance(held, GridTensor)
            self.fields.append(FieldTensor(held, scale=scale, num_features=num_features, hidden_size=hidden_size))
            kernel_area, num_levels = held.values.shape[2], len(held.changes)
            name = f"area{kernel_area}_levels{num_levels + 1}" if shared else f"tensor{number}"
            self.decoder_names.append(name)
            if name not in self.decoders:
                self.decoders[name] = Decoder(
                    kernel_area * (1 + num_levels) + num_features * num_levels,
                    hidden_size=hidden_size,
                    num_hidden_layers=num_hidden_layers,
                    kernel_area=kernel_area,
                )

    def start_at(self, values: Sequence[Tensor]) -> bool:
        fields: Any = self.fields
        for held, value in zip(fields, values, strict=True):
            held.unit.copy_(value.float().square().mean().sqrt().clamp(min=1e-6))
        return super().start_at(values)

    def hidden_matrices(self) -> list[nn.Parameter]:
        decoders: Any = self.decoders.values()
        return [linear.weight for decoder in decoders for linear in decoder.hidden]

    def _generate(self, tensor: TensorCoordinates) -> Tensor:
        values, changes = self.read(tensor)
        held: FieldTensor = self.fields[tensor.layer]  # pyright: ignore[reportAssignmentType]
        grid: GridTensor = self.tensors[tensor.layer]  # pyright: ignore[reportAssignmentType]
        features = [
            read_values(cells, cell_parts, tensor, held.full_size, positions=self.positions)
            for cells, cell_parts in zip(held.features, grid.cell_parts[1:], strict=False)
        ]
        decoder = self.decoders[self.decoder_names[tensor.layer]]
        change = in_chunks(
            functools.partial(decoder, of_size=held.of_size(held.size(tensor)), unit=held.unit),
            [values, *changes, *features],
            num_columns=tensor.num_in,
            chunk_size=self.chunk_size,
            recompute_above=self.recompute_above,
        )
        return self.put_together(tensor, values + change.to(values.dtype), changes)

    def initialize(self, module: nn.Module) -> None:
        super().initialize(module)
        if isinstance(module, LastLayer):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, FieldTensor):
            init.ones_(module.unit)
            for features in module.features:
                init.zeros_(features)
