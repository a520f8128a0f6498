"""Batches on their way from data to a forward pass: names to tensors, of whatever kind."""

from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
"""Name to tensor: what networks take, and what tasks compare their outputs with."""

Inputs = Batch | Tensor
"""A batch, or a bare tensor, which stands for the first input of a forward pass."""

OTHER_LABELS = "other_labels"
"""In a batch of mixed images: the class of the image that was mixed into each, `[batch]`."""

OTHER_SHARES = "other_shares"
"""In a batch of mixed images: how much of each is the other image, `[batch]` in [0, 1]."""


@overload
def move_batch(
    batch: Tensor,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    memory_format: torch.memory_format | None = None,
) -> Tensor: ...
@overload
def move_batch(
    batch: Batch,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    memory_format: torch.memory_format | None = None,
) -> dict[str, Tensor]: ...
def move_batch(
    batch: Inputs,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    memory_format: torch.memory_format | None = None,
) -> Inputs:
    """Move a batch to a device, and its floating tensors to a precision and a layout.

    Integers and booleans, such as token ids, masks and classes, are never cast.

    Args:
        batch: The batch; not modified.
        device: Where to. None: every tensor stays where it is.
        dtype: Data type of floating tensors. None: every tensor keeps its own.
        memory_format: Memory format of floating tensors with four axes, such as images. None: every tensor keeps its
            own.

    Returns:
        A new mapping, or a tensor where one was given; no gradient flows back to what was given.
    """
    if not isinstance(batch, Tensor):
        return {name: move_batch(tensor, device, dtype, memory_format=memory_format) for name, tensor in batch.items()}
    is_floating = batch.is_floating_point()
    moved = batch.detach().to(device=device, dtype=dtype if is_floating else None)
    if memory_format is not None and is_floating and moved.ndim == 4:
        moved = moved.contiguous(memory_format=memory_format)
    return moved


def first_of(batch: Inputs) -> Inputs:
    """Take the first sample of a batch.

    Args:
        batch: One of at least one sample.

    Returns:
        A batch of one sample, a bare tensor where one was given.
    """
    return batch[:1] if isinstance(batch, Tensor) else {name: tensor[:1] for name, tensor in batch.items()}


def batch_size_of(batch: Batch) -> int:
    """Count the samples of a batch.

    Args:
        batch: One that holds a tensor.

    Returns:
        The length of its tensors.
    """
    return len(next(iter(batch.values())))


def call(network: nn.Module, inputs: Inputs) -> Any:
    """Call a network of no family.

    Args:
        network: Any module.
        inputs: The arguments of its forward pass by name, or its first one.

    Returns:
        What it returns.
    """
    return network(inputs) if isinstance(inputs, Tensor) else network(**inputs)


class _Forward(nn.Module):
    """A forward pass as a module, so that tensors can be put in the place of the network's own."""

    def __init__(self, network: nn.Module, forward: Callable[..., Any]):
        super().__init__()
        self.network = network
        self.run = forward

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.run(self.network, *inputs, **options)


def run_with(
    network: nn.Module, tensors: Batch, forward: Callable[..., Any], *inputs: Any, strict: bool = False, **options: Any
) -> Any:
    """Run a network with other tensors in the place of its own.

    Args:
        network: Any module; its own tensors stay as they are.
        tensors: By their names in the network.
        forward: Runs the network; gets it first.
        *inputs: What `forward` gets besides.
        strict: Whether these have to be all tensors of the network, and no others.
        **options: What `forward` gets by name.

    Returns:
        What `forward` returns.
    """
    named = {f"network.{name}": tensor for name, tensor in tensors.items()}
    return torch.func.functional_call(_Forward(network, forward), named, inputs, options, strict=strict)
