"""The implicit neural representation (INR) of "Neural Metamorphosis" (Yang and Wang, ECCV 2024).

Sinusoidal positional encoding, then one residual ReLU MLP per generated tensor. The encoding of a coordinate is the
concatenation of its six numbers' encodings, so the first linear layer is a sum of six terms. Four of them are constant
over a tensor, and two vary along one axis. The layer is computed per axis and the sums are broadcast. The widest matrix
product then has `C_out + C_in` rows instead of `C_out * C_in`.

Read literally, the paper's INR falls silent here: all weights of a tensor move together long before they move apart, a
ReLU that reads them shuts, and no gradient comes back. By default the values of a tensor are therefore centred, with a
mean that learns slowly, and written in the reference's unit; sizes are plain numbers; octaves end at a channel's width.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from neumeta_hf.coordinates import TensorCoordinates, centre_crop
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks.base import Hypernetwork, check_counts, register_hypernetwork
from neumeta_hf.hypernetworks.chunks import in_chunks

MEAN_RATE = 1 / 30
"""How much slower than its other values the mean of a tensor learns; in the reference it is a few percent of them."""


def positional_encoding(values: Tensor, num_frequencies: int) -> Tensor:
    """Encode each value as `(v, sin(2^f pi v), cos(2^f pi v) for f < num_frequencies)`.

    Args:
        values: Any shape `[...]`.
        num_frequencies: How many octaves.

    Returns:
        `[..., 2 * num_frequencies + 1]`.
    """
    octaves = 2.0 ** torch.arange(num_frequencies, device=values.device) * math.pi
    angles = values.unsqueeze(-1) * octaves
    return torch.cat((values.unsqueeze(-1), angles.sin(), angles.cos()), dim=-1)


class OutputLayer(nn.Linear):
    """The last layer of a `ResidualMLP`.

    Args:
        in_features: Width of the hidden layers.
        out_features: Numbers written per channel pair.
        scale: Standard deviation that these numbers start with.
    """

    def __init__(self, in_features: int, out_features: int, *, scale: float):
        super().__init__(in_features, out_features)
        self.scale = scale


class ResidualMLP(nn.Module):
    """One tensor's MLP: `h <- h + scale * relu(linear(h))` between an input and an output layer.

    Args:
        num_frequencies: Octaves of the positional encoding.
        encode_sizes: Whether the four numbers that a tensor's weights share are encoded like positions, or plain.
        hidden_size: Width of the hidden layers.
        num_hidden_layers: Hidden layers, the first of which reads the encoding; the others are residual.
        kernel_area: Numbers written per channel pair.
        residual_scale: First value of each residual's learned scale.
        output_scale: Standard deviation that the output starts with.
        centered: Whether the mean of the values is a parameter of its own.
    """

    def __init__(
        self,
        *,
        num_frequencies: int,
        encode_sizes: bool,
        hidden_size: int,
        num_hidden_layers: int,
        kernel_area: int,
        residual_scale: float,
        output_scale: float,
        centered: bool,
    ):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.centered = centered
        self.encode_sizes = encode_sizes
        self.residual_scale = residual_scale
        encoded = 2 * num_frequencies + 1
        shared = encoded if encode_sizes else 1
        # In the order of a coordinate: layer, output, input, and the three sizes.
        self.widths = (shared, encoded, encoded, shared, shared, shared)
        self.first = nn.Linear(sum(self.widths), hidden_size)
        self.residuals = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(num_hidden_layers - 1))
        # An empty parameter would never get a gradient.
        scales = nn.Parameter(torch.full((num_hidden_layers - 1,), residual_scale)) if num_hidden_layers > 1 else None
        self.scales: nn.Parameter | None = scales
        self.last = OutputLayer(hidden_size, kernel_area, scale=output_scale)

    def axis_terms(self, coordinates: TensorCoordinates) -> tuple[Tensor, Tensor]:
        """Compute the first layer before its ReLU, split by axis; the broadcast sum of the terms is the layer.

        Args:
            coordinates: Coordinates of the tensor.

        Returns:
            `[num_out, hidden]` and `[num_in, hidden]`; the second also holds the constant terms and the bias.
        """
        device = self.first.weight.device
        constants = torch.tensor(
            [coordinates.layer_position, coordinates.layer_size, coordinates.out_size, coordinates.in_size],
            device=device,
        )
        layer, out, in_, layer_size, out_size, in_size = self.first.weight.split(self.widths, dim=1)
        constant_weight = torch.cat((layer, layer_size, out_size, in_size), dim=1)
        encoded = self._encode(constants) if self.encode_sizes else constants.to(self.first.weight.dtype)
        constant_term = F.linear(encoded.reshape(-1), constant_weight, self.first.bias)
        out_term = F.linear(self._encode(coordinates.out_positions), out)
        return out_term, F.linear(self._encode(coordinates.in_positions), in_) + constant_term

    def kernels(self, out_term: Tensor, in_term: Tensor, kept: Tensor) -> Tensor:
        """Compute the rest of the MLP for every pair of the given channels.

        Args:
            out_term: `[num_out, hidden]`.
            in_term: `[num_in, hidden]`.
            kept: Which entries of the kernel to write, `[kernel_area]`.

        Returns:
            `[num_out * num_in, kernel_area]`.
        """
        hidden = F.relu(out_term.unsqueeze(1) + in_term, inplace=True).flatten(0, 1)
        for linear, scale in zip(self.residuals, () if self.scales is None else self.scales, strict=True):
            hidden = torch.addcmul(hidden, F.relu(linear(hidden), inplace=True), scale.to(hidden.dtype))
        return F.linear(hidden, self.last.weight[kept], None if self.centered else self.last.bias[kept])

    def centre(self, values: Tensor, kept: Tensor) -> Tensor:
        """Give values the mean that is a parameter, one for each entry of the kernel.

        Args:
            values: Values of all channel pairs of a tensor, `[num_out * num_in, kernel_area]`.
            kept: As for `kernels`.

        Returns:
            Of the same shape; the values themselves where they are not centred.
        """
        if not self.centered:
            return values
        return values - values.mean(0, keepdim=True) + MEAN_RATE * self.last.bias[kept]

    def _encode(self, values: Tensor) -> Tensor:
        # Angles reach 2^15 pi: in bfloat16 they would be noise, so only the finished encoding takes the layer's dtype.
        encoded = positional_encoding(values.to(self.first.weight.device, torch.float32), self.num_frequencies)
        return encoded.to(self.first.weight.dtype)


class OutputUnit(nn.Module):
    """What the numbers of one tensor's MLP are multiplied by: the reference's scale, and a power of its channels.

    The scale is the root mean square of the reference's tensor. Every MLP then writes numbers near 1, and all move
    alike under an optimiser whose steps are of one size. Fewer input channels get larger weights, by a learned power.

    Args:
        num_in: Input channels of the reference's tensor.
        in_varies: Whether a size may change them.
    """

    scale: Tensor

    def __init__(self, num_in: int, *, in_varies: bool):
        super().__init__()
        self.num_in = num_in
        self.register_buffer("scale", torch.ones(()))
        # Where no size changes the channels, a parameter would never get a gradient.
        self.power: nn.Parameter | None = nn.Parameter(torch.ones(())) if in_varies else None

    def forward(self, values: Tensor, num_in: int) -> Tensor:
        """Put values into the reference's unit.

        Args:
            values: As the MLP writes them.
            num_in: Input channels of the tensor that they are of.

        Returns:
            Of the same shape.
        """
        if self.power is None:
            return values * self.scale
        return values * (self.scale * (self.num_in / num_in) ** self.power)


@register_hypernetwork("inr")
class INR(Hypernetwork):
    """The paper's hypernetwork: a `ResidualMLP` per generated tensor.

    Its defaults learn. The paper's literal ones are `num_frequencies=16, encode_sizes=True, centered=False,
    output="channels"`.

    Args:
        full_size: Coordinates of the reference's generated tensors.
        hidden_size: Width of the hidden layers; the paper uses 256, at most 512.
        num_hidden_layers: Hidden layers; the paper uses 4 or 5, at most 8.
        num_frequencies: Octaves of the positional encoding; the paper uses 16. None: for each tensor as many as its
            longer axis can tell apart under coordinate noise of a channel, `log2` of its channels. Finer octaves are
            noise in training, and something else without it.
        encode_sizes: Whether the tensor's number and the sizes are encoded like positions, as in the paper. Plain, a
            small change of the size is a small change of the weights.
        centered: Whether the mean of a tensor's values is a parameter of its own, which learns slowly; in the paper all
            weights of a tensor may move together at once.
        output: "reference" writes weights in units of the root mean square of the reference's tensor, times a learned
            power of full over actual input channels; "channels" divides by the input channels, as the paper does.
        residual_scale: First value of each residual's learned scale; the paper uses 0.1.
        chunk_size: Channel pairs generated at a time, which bounds memory to about `12 * hidden_size * chunk_size`
            bytes.
        recompute_above: In training, a tensor with more channel pairs than this is recomputed chunk by chunk in the
            backward pass instead of kept.

    Raises:
        HypernetworkError: An option is no positive whole number, `residual_scale` no number, `encode_sizes` or
            `centered` no truth value, or `output` unknown.
    """

    def __init__(
        self,
        full_size: Sequence[TensorCoordinates],
        *,
        hidden_size: int = 256,
        num_hidden_layers: int = 4,
        num_frequencies: int | None = None,
        encode_sizes: bool = False,
        centered: bool = True,
        output: str = "reference",
        residual_scale: float = 0.1,
        chunk_size: int = 4096,
        recompute_above: int = 65536,
    ):
        super().__init__()
        check_counts(
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_frequencies=1 if num_frequencies is None else num_frequencies,
            chunk_size=chunk_size,
            recompute_above=recompute_above,
        )
        if isinstance(residual_scale, bool) or not isinstance(residual_scale, int | float):
            raise HypernetworkError(f"residual_scale={residual_scale!r}: give a number; the paper uses 0.1.")
        for name, value, papers in (("encode_sizes", encode_sizes, "true"), ("centered", centered, "false")):
            if not isinstance(value, bool):
                raise HypernetworkError(f"{name}={value!r}: give true or false; the paper's is {papers}.")
        if output not in ("reference", "channels"):
            raise HypernetworkError(f"output={output!r}: choose reference or channels (the paper's).")
        self.chunk_size = chunk_size
        self.recompute_above = recompute_above
        self.kernel_size = tuple(
            max(sizes) for sizes in zip(*(tensor.kernel_size for tensor in full_size), strict=True)
        )
        self.mlps = nn.ModuleList(
            ResidualMLP(
                num_frequencies=num_frequencies or _num_octaves(tensor),
                encode_sizes=encode_sizes,
                hidden_size=hidden_size,
                num_hidden_layers=num_hidden_layers,
                kernel_area=math.prod(self.kernel_size),
                residual_scale=residual_scale,
                output_scale=_output_scale(tensor) if output == "channels" else 0.1,
                centered=centered,
            )
            for tensor in full_size
        )
        self.units: nn.ModuleList | None = None
        if output == "reference":
            self.units = nn.ModuleList(
                OutputUnit(tensor.num_in, in_varies=tensor.in_varies and len(tensor.shape) > 1) for tensor in full_size
            )

    def forward(self, coordinates: Sequence[TensorCoordinates]) -> list[Tensor]:
        return [self._generate(tensor) for tensor in coordinates]

    def start_at(self, values: Sequence[Tensor]) -> bool:
        """Take over the unit of each of the reference's tensors; its values must be learned."""
        if self.units is not None:
            for unit, tensor in zip(self.units, values, strict=True):
                scale: Any = unit.scale
                scale.copy_(tensor.float().square().mean().sqrt().clamp(min=1e-6))
        return False

    def hidden_matrices(self) -> list[nn.Parameter]:
        mlps: Any = self.mlps
        return [linear.weight for mlp in mlps for linear in mlp.residuals]

    def _generate(self, tensor: TensorCoordinates) -> Tensor:
        if tensor.layer >= len(self.mlps):
            raise HypernetworkError(
                f"tensor number {tensor.layer} has no MLP: this INR was built for {len(self.mlps)} tensors."
            )
        mlp: ResidualMLP = self.mlps[tensor.layer]  # pyright: ignore[reportAssignmentType]
        out_term, in_term = mlp.axis_terms(tensor)
        kept = torch.tensor(centre_crop(tensor.kernel_size, self.kernel_size), device=out_term.device)
        values = in_chunks(
            functools.partial(mlp.kernels, in_term=in_term, kept=kept),
            [out_term],
            num_columns=tensor.num_in,
            chunk_size=self.chunk_size,
            recompute_above=self.recompute_above,
        )
        values = mlp.centre(values.to(mlp.first.weight.dtype), kept).reshape(tensor.shape)
        # By the true number of input channels, whatever the noise or the trained range did to coordinates.
        if self.units is None:
            return values / tensor.num_in
        unit: OutputUnit = self.units[tensor.layer]  # pyright: ignore[reportAssignmentType]
        return unit(values, tensor.num_in)

    def initialize(self, module: nn.Module) -> None:
        if isinstance(module, OutputLayer):
            # Hidden activations start with a mean square of about 1/10 (a ReLU of a sum of sines and cosines).
            init.normal_(module.weight, std=module.scale * (10 / module.in_features) ** 0.5)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, ResidualMLP) and module.scales is not None:
            init.constant_(module.scales, module.residual_scale)
        elif isinstance(module, OutputUnit):
            init.ones_(module.scale)
            if module.power is not None:
                init.ones_(module.power)


def _num_octaves(tensor: TensorCoordinates) -> int:
    return max(1, math.ceil(math.log2(max(tensor.num_out, tensor.num_in))))


def _output_scale(tensor: TensorCoordinates) -> float:
    """Output scale at which signals keep their size from layer to layer at the start.

    The INR is smooth, so neighbouring channels start alike and their sum is coherent: divided by `C_in` it keeps the
    size of one channel, and only the kernel's entries are independent (He et al. 2015 with the kernel as the fan-in).
    """
    return 0.1 if len(tensor.shape) == 1 else (2 / math.prod(tensor.kernel_size)) ** 0.5
