"""The implicit neural representation (INR) of "Neural Metamorphosis" (Yang and Wang, ECCV 2024).

Sinusoidal positional encoding, then one residual ReLU MLP per generated tensor; the output is divided by `C_in`. What
differs from a literal reading is speed alone: the encoding of a coordinate is the concatenation of its six numbers'
encodings, so the first linear layer is a sum of six terms, of which four are constant over a tensor and two vary along
one axis. The layer is computed per axis and the sums are broadcast, which turns `C_out * C_in` rows of the widest
matrix product into `C_out + C_in`.
"""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init

from neumeta_hf.coordinates import COORD_DIM, TensorCoordinates, centre_crop
from neumeta_hf.errors import HypernetworkError
from neumeta_hf.hypernetworks.base import Hypernetwork, register_hypernetwork


def positional_encoding(values: Tensor, num_frequencies: int) -> Tensor:
    """`(v, sin(2^f pi v), cos(2^f pi v) for f < num_frequencies)` of each value.

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
        hidden_size: Width of the hidden layers.
        num_hidden_layers: Hidden layers, the first of which reads the encoding; the others are residual.
        kernel_area: Numbers written per channel pair.
        residual_scale: First value of each residual's learned scale.
        output_scale: Standard deviation that the output starts with.
    """

    def __init__(
        self,
        *,
        num_frequencies: int,
        hidden_size: int,
        num_hidden_layers: int,
        kernel_area: int,
        residual_scale: float,
        output_scale: float,
    ):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.residual_scale = residual_scale
        self.first = nn.Linear(COORD_DIM * (2 * num_frequencies + 1), hidden_size)
        self.residuals = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(num_hidden_layers - 1))
        # An empty parameter would never get a gradient.
        scales = nn.Parameter(torch.full((num_hidden_layers - 1,), residual_scale)) if num_hidden_layers > 1 else None
        self.scales: nn.Parameter | None = scales
        self.last = OutputLayer(hidden_size, kernel_area, scale=output_scale)

    def axis_terms(self, coordinates: TensorCoordinates) -> tuple[Tensor, Tensor]:
        """The first layer before its ReLU, split by axis; their broadcast sum is the layer.

        Args:
            coordinates: Of the tensor.

        Returns:
            `[num_out, hidden]` and `[num_in, hidden]`; the second also holds the constant terms and the bias.
        """
        device = self.first.weight.device
        constants = torch.tensor(
            [coordinates.layer_position, coordinates.layer_size, coordinates.out_size, coordinates.in_size],
            device=device,
        )
        layer, out, in_, layer_size, out_size, in_size = self.first.weight.chunk(COORD_DIM, dim=1)
        constant_weight = torch.cat((layer, layer_size, out_size, in_size), dim=1)
        constant_term = F.linear(self._encode(constants).reshape(-1), constant_weight, self.first.bias)
        out_term = F.linear(self._encode(coordinates.out_positions), out)
        return out_term, F.linear(self._encode(coordinates.in_positions), in_) + constant_term

    def kernels(self, out_term: Tensor, in_term: Tensor, kept: Tensor) -> Tensor:
        """The rest of the MLP for every pair of the given channels.

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
        return F.linear(hidden, self.last.weight[kept], self.last.bias[kept])

    def _encode(self, values: Tensor) -> Tensor:
        # Angles reach 2^15 pi: in bfloat16 they would be noise, so only the finished encoding takes the layer's dtype.
        encoded = positional_encoding(values.to(self.first.weight.device, torch.float32), self.num_frequencies)
        return encoded.to(self.first.weight.dtype)


@register_hypernetwork("inr")
class INR(Hypernetwork):
    """The paper's hypernetwork: a `ResidualMLP` per generated tensor.

    Args:
        full_size: Coordinates of the reference's generated tensors.
        hidden_size: Width of the hidden layers; the paper uses 256, at most 512.
        num_hidden_layers: Hidden layers; the paper uses 4 or 5, at most 8.
        num_frequencies: Octaves of the positional encoding; the paper uses 16.
        residual_scale: First value of each residual's learned scale; the paper uses 0.1.
        chunk_size: Channel pairs generated at a time, which bounds memory to about `12 * hidden_size * chunk_size`
            bytes.
        recompute_above: In training, a tensor with more channel pairs than this is recomputed chunk by chunk in the
            backward pass instead of kept.

    Raises:
        HypernetworkError: An option is no positive whole number, or `residual_scale` no number.
    """

    def __init__(
        self,
        full_size: Sequence[TensorCoordinates],
        *,
        hidden_size: int = 256,
        num_hidden_layers: int = 4,
        num_frequencies: int = 16,
        residual_scale: float = 0.1,
        chunk_size: int = 4096,
        recompute_above: int = 65536,
    ):
        super().__init__()
        for name, value in (
            ("hidden_size", hidden_size),
            ("num_hidden_layers", num_hidden_layers),
            ("num_frequencies", num_frequencies),
            ("chunk_size", chunk_size),
            ("recompute_above", recompute_above),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise HypernetworkError(f"{name}={value!r}: the INR needs a whole number of at least 1.")
        if isinstance(residual_scale, bool) or not isinstance(residual_scale, int | float):
            raise HypernetworkError(f"residual_scale={residual_scale!r}: it is a number; the paper uses 0.1.")
        self.chunk_size = chunk_size
        self.recompute_above = recompute_above
        self.kernel_size = tuple(
            max(sizes) for sizes in zip(*(tensor.kernel_size for tensor in full_size), strict=True)
        )
        self.mlps = nn.ModuleList(
            ResidualMLP(
                num_frequencies=num_frequencies,
                hidden_size=hidden_size,
                num_hidden_layers=num_hidden_layers,
                kernel_area=math.prod(self.kernel_size),
                residual_scale=residual_scale,
                output_scale=_output_scale(tensor),
            )
            for tensor in full_size
        )

    def forward(self, coordinates: Sequence[TensorCoordinates]) -> list[Tensor]:
        return [self._generate(tensor) for tensor in coordinates]

    def _generate(self, tensor: TensorCoordinates) -> Tensor:
        if tensor.layer >= len(self.mlps):
            raise HypernetworkError(
                f"tensor number {tensor.layer} has no MLP: this INR was built for {len(self.mlps)} tensors."
            )
        mlp: ResidualMLP = self.mlps[tensor.layer]  # pyright: ignore[reportAssignmentType]
        out_term, in_term = mlp.axis_terms(tensor)
        kept = torch.tensor(centre_crop(tensor.kernel_size, self.kernel_size), device=out_term.device)
        rows = max(1, self.chunk_size // tensor.num_in)
        kernels = mlp.kernels
        if torch.is_grad_enabled() and tensor.num_out * tensor.num_in > self.recompute_above:
            kernels = functools.partial(checkpoint, mlp.kernels, use_reentrant=False)
        values = torch.cat([kernels(chunk, in_term, kept) for chunk in out_term.split(rows)])
        # The divisor is the true number of input channels, whatever the noise or the trained range did to coordinates.
        return (values.to(mlp.first.weight.dtype) / tensor.num_in).reshape(tensor.shape)

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


def _output_scale(tensor: TensorCoordinates) -> float:
    """Output scale at which signals keep their size from layer to layer at the start.

    The INR is smooth, so neighbouring channels start alike and their sum is coherent: divided by `C_in` it keeps the
    size of one channel, and only the kernel's entries are independent (He et al. 2015 with the kernel as the fan-in).
    """
    return 0.1 if len(tensor.shape) == 1 else (2 / math.prod(tensor.kernel_size)) ** 0.5
