"""Gradient checkpointing of networks whose tensors come from elsewhere.

What transformers does would run a layer once more in the backward pass with the tensors that it has by then: a network
of a family has none of its own. Here a layer is run again with those that it had.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_layers(network: nn.Module) -> bool:
    """Let the layers of a network keep their inputs alone for the backward pass, and run again in it.

    Args:
        network: Any; layers that transformers can checkpoint are meant, where they lie in each other the inner ones.

    Returns:
        Whether it has such layers.
    """
    if not getattr(network, "supports_gradient_checkpointing", False):
        return False
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    outer = {layer for layer in layers for inner in layer.modules() if inner is not layer and inner in set(layers)}
    checkpointed: set[Any] = set(layers) - outer
    for layer in checkpointed:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = functools.partial(_recompute, layer)
    return bool(layers)


def _recompute(layer: nn.Module, call: Callable[..., Any], *inputs: Any) -> Any:
    tensors = {f"layer.{name}": tensor for name, tensor in (*layer.named_parameters(), *layer.named_buffers())}

    def run(*inputs: Any) -> Any:
        return torch.func.functional_call(_Call(layer, call), tensors, inputs)

    return checkpoint(run, *inputs, use_reentrant=False)


class _Call(nn.Module):
    def __init__(self, layer: nn.Module, call: Callable[..., Any]):
        super().__init__()
        self.layer = layer
        self.call = call

    def forward(self, *inputs: Any) -> Any:
        return self.call(*inputs)
