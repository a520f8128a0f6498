"""What a network costs: parameters and multiply-accumulates, always of the whole network."""

import copy

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from neumeta_hf.batches import Inputs, call, first_of, move_batch
from neumeta_hf.targets import TargetFamily


def count_parameters(model: nn.Module) -> int:
    """Count the parameters, BatchNorm's affine ones among them; buffers are not counted.

    Args:
        model: Any module.

    Returns:
        The number.
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example_inputs: Inputs, *, family: TargetFamily | None = None) -> int:
    """Multiply-accumulates of convolutions and matrix products for one sample.

    Args:
        model: Any module; a copy runs on the meta device, so that nothing is computed.
        example_inputs: What the model takes, by name, or a tensor, its first input; the first sample counts.
        family: Runs the model. None: the model is called with the inputs.

    Returns:
        The number: half of the floating-point operations that torch counts.
    """
    return _count(model, example_inputs, family)[0]


def count_macs_by_layer(
    model: nn.Module, example_inputs: Inputs, *, family: TargetFamily | None = None
) -> dict[str, int]:
    """Multiply-accumulates of each layer for one sample.

    Args:
        model: As for `count_macs`.
        example_inputs: As for `count_macs`.
        family: As for `count_macs`.

    Returns:
        Name of a weight to the multiply-accumulates of the module that has it; of modules that have others inside, and
        of operations without a weight, none.
    """
    return _count(model, example_inputs, family)[1]


def _count(model: nn.Module, example_inputs: Inputs, family: TargetFamily | None) -> tuple[int, dict[str, int]]:
    """Multiply-accumulates in all, and by layer."""
    found: dict[str, int] = {}
    with torch.no_grad():
        abstract = copy.deepcopy(model).to("meta").eval()
        # Fake tensors let transformers know that no number is there to look at, as it does where masks leave none out.
        with FlopCounterMode(display=False) as counter, FakeTensorMode(allow_non_fake_inputs=True):
            for name, module in abstract.named_modules():
                if hasattr(module, "weight") and not any(module.children()):
                    _count_layer(module, f"{name}.weight", counter, found)
            inputs = move_batch(first_of(example_inputs), "meta")
            family.forward(abstract, inputs) if family else call(abstract, inputs)
    return counter.get_total_flops() // 2, {name: flops // 2 for name, flops in found.items() if flops}


def _count_layer(module: nn.Module, name: str, counter: FlopCounterMode, found: dict[str, int]) -> None:
    # The same hook sees what was counted before the layer and after it; one that runs again counts again.
    def add(sign: int):
        def hook(*_: object) -> None:
            found[name] = found.get(name, 0) + sign * counter.get_total_flops()

        return hook

    module.register_forward_pre_hook(add(-1))
    module.register_forward_hook(add(1))
