"""From a size to the weights of a network: what a family asks its hypernetwork, and what comes of the answer."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neumeta_hf.axes import Size
from neumeta_hf.configuration_neumeta import check_sampling
from neumeta_hf.coordinates import TensorCoordinates, add_noise, make_coordinates
from neumeta_hf.family_sizes import FamilySizes, Width
from neumeta_hf.layouts import from_canonical

_MAX_KEPT = 64
"""Sizes whose network and coordinates are kept: sizes per group are too many."""


class FamilyGeneration(FamilySizes):
    """How a family generates: a part of `NeuMetaModel`."""

    generated_names: list[str]
    varying_axes: Mapping[str, tuple[bool, bool]]
    hypernetwork: Any
    device: Any
    dtype: Any
    _plans: dict[tuple, Mapping[str, TensorCoordinates]]

    def _generated_shapes(self, size: Size) -> dict[str, tuple[int, ...]]:
        """Canonical shapes of what is generated at a size."""
        names = self.space.names(size)
        return {name: self.space.canonical_shape(name, size) for name in self.generated_names if name in names}

    @property
    def num_generated_parameters(self) -> int:
        """How many weights the hypernetwork makes at full size; told from their shapes."""
        return sum(math.prod(shape) for shape in self._generated_shapes(self.space.full).values())

    @property
    def coordinate_scale(self) -> int:
        """The constant `N` that sizes are divided by."""
        if self.config.coordinate_scale is not None:
            return self.config.coordinate_scale
        return max(max(shape[:2]) for shape in self._generated_shapes(self.space.full).values())

    @property
    def widest_axis(self) -> int:
        """The largest number of channels, at full size, that a size may change: no vocabulary, and no classes."""
        return max(
            count
            for name, shape in self._generated_shapes(self.space.full).items()
            for count, varies in zip(shape[:2], self.varying_axes[name], strict=False)
            if varies
        )

    def coordinates_at(
        self, size: Size, *, device: torch.device | str | None = None
    ) -> Mapping[str, TensorCoordinates]:
        """Compute the coordinates of every generated tensor at a size, without noise; made once and kept.

        Args:
            size: A size of the space.
            device: Where positions lie. None: where the family is.

        Returns:
            Generated name, in the reference, to its coordinates; not to be changed. Those of blocks that the size
            leaves out are not among them.
        """
        config = self.config
        device = torch.device(self.device if device is None else device)
        if device.type == "meta":
            device = torch.device("cpu")
        key = (size, device, tuple(config.trained_widths), config.clamp_sizes, config.alignment, self.coordinate_scale)
        plan = self._plans.pop(key, None)
        if plan is None:
            smallest = largest = None
            if config.clamp_sizes and config.trained_widths:
                smallest, largest = (self._generated_shapes(extreme) for extreme in self._trained_extremes())
            shapes = self._generated_shapes(size)
            plan = make_coordinates(
                shapes,
                layers=self.generated_names,
                scale=self.coordinate_scale,
                alignment=config.alignment,  # pyright: ignore[reportArgumentType]
                smallest=smallest,
                largest=largest,
                varying=self.varying_axes,
                parts={name: self.space.parts(name, size) for name in shapes},
                reference_parts={name: self.space.parts(name, self.space.full) for name in shapes},
                device=device,
            )
        keep(self._plans, key, plan)
        return plan

    def generate(
        self, width: Width = 1.0, *, noise: float = 0.0, num_samples: int = 1, seed: int = 0
    ) -> dict[str, Tensor]:
        """Ask the hypernetwork for every generated tensor of a size.

        The one road from coordinates to weights: training and morphing both take it. Differentiable in the
        hypernetwork's parameters.

        Args:
            width: As for `size_at`.
            noise: Full width of the uniform coordinate noise, in channels; 0 is exact.
            num_samples: How many noisy generations are averaged; time grows with it, memory does not.
            seed: Seed of the noise: the same seed gives the same weights on every device.

        Returns:
            Name in the network of that size to tensor, of the shape that it has there and, under autocast too, of the
            family's dtype.

        Raises:
            SizeError: No network of the family has that size, or `noise`, `num_samples` or `seed` is out of range.
        """
        check_sampling(num_samples=num_samples, noise=noise, seed=seed)
        size = self.size_at(width)
        coordinates, names = self.coordinates_at(size), self.space.names(size)
        generator = torch.Generator().manual_seed(int(seed))
        total: list[Tensor] = []
        for _ in range(num_samples if noise else 1):
            moved = add_noise(coordinates, noise, scale=self.coordinate_scale, generator=generator)
            values = self.hypernetwork(list(moved.values()))
            total = [a + b for a, b in zip(total, values, strict=True)] if total else values
        if noise and num_samples > 1:
            total = [tensor / num_samples for tensor in total]
        # Autocast makes bf16 of matrix products, and so of what they generate. The weights of plain networks it leaves
        # alone until they are used, and BatchNorm on a GPU takes no others beside its statistics.
        dtype = self.dtype  # a walk through the modules
        total = [tensor.to(dtype) for tensor in total]
        # In the memory order of a loaded checkpoint: kernels round by it, and a morph computes the same once saved.
        return {
            names[name]: from_canonical(tensor, self.space.layout(name), size).contiguous()
            for name, tensor in zip(coordinates, total, strict=True)
        }


def keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """Keep a value as the newest, and no more of them than are used again."""
    kept[key] = value
    if len(kept) > _MAX_KEPT:
        del kept[next(iter(kept))]  # the oldest
