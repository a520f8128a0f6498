"""Networks without weights, tensors that are one under several names, and networks of given tensors."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init


def build_empty(build: Callable[[], nn.Module], *, device: torch.device | str = "cpu") -> nn.Module:
    """Build a network whose parameters hold no memory.

    Buffers that its `state_dict` leaves out, such as rotary frequencies and position numbers, can be had from nowhere
    else: these are real.

    Args:
        build: Makes the network; called twice where it has such buffers.
        device: Device of these.

    Returns:
        The network; its parameters and all other buffers lie on the meta device.
    """
    with torch.device("meta"):
        network = build()
    kept = network.state_dict()
    missing = [name for name, _ in network.named_buffers() if name not in kept]
    if missing:
        from accelerate import init_empty_weights  # slow to import, and few networks need it

        with init.no_init_weights(), init_empty_weights(include_buffers=False):
            buffers = dict(build().named_buffers())
        for name in missing:
            _set(network, name, buffers[name].to(device))
    return network


def tied_names(network: nn.Module) -> dict[str, str]:
    """Find which tensors of a network share another one's memory.

    Args:
        network: Any; models of transformers also say it where tying has been put off until they are loaded.

    Returns:
        Name to the name of the same tensor that comes first.
    """
    first: dict[int, str] = {}
    found = {
        name: first.setdefault(id(parameter), name)
        for name, parameter in network.named_parameters(remove_duplicate=False)
    }
    rank = {name: place for place, name in enumerate(found)}
    stated: Mapping[str, str] = getattr(network, "all_tied_weights_keys", None) or {}
    for pair in stated.items():
        if all(name in found for name in pair):
            one, other = sorted((found[name] for name in pair), key=rank.__getitem__)
            found = {name: one if same == other else same for name, same in found.items()}
    return {name: same for name, same in found.items() if name != same}


def own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Map names to the tensors of a network, each tensor once."""
    tied = tied_names(network)
    return {name: tensor for name, tensor in network.state_dict().items() if name not in tied}


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give an empty network its tensors.

    Args:
        network: As from `build_empty`; changed.
        tensors: Name to tensor, as `own_tensors` names them, all on one device; the network takes them as its own.

    Returns:
        The network, with buffers of its own on the device of the tensors.
    """
    tied = tied_names(network)
    network.load_state_dict({**tensors, **{name: tensors[same] for name, same in tied.items()}}, assign=True)
    for name, same in tied.items():
        _set(network, name, network.get_parameter(same))
    device = next(iter(tensors.values())).device
    for name, buffer in network.named_buffers():
        if name not in tensors:
            _set(network, name, buffer.to(device))
    return network


def _set(network: nn.Module, name: str, tensor: Any) -> None:
    module, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(module), attribute, tensor)
