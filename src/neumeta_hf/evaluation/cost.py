"""What a network costs: parameters and multiply-accumulates, always of the whole network."""

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from neumeta_hf.targets import TargetFamily


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, BatchNorm's affine ones included; buffers are none.

    Args:
        model: Any module.

    Returns:
        The number.
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example_inputs: Tensor, *, family: TargetFamily | None = None) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image.

    Args:
        model: Any module that takes images; a copy runs on the meta device, so that nothing is computed.
        example_inputs: `[batch, channels, height, width]`; the first image counts.
        family: Runs the model. None: the model is called with the images.

    Returns:
        The number: half of the floating-point operations that torch counts.
    """
    with torch.no_grad():
        abstract = copy.deepcopy(model).to("meta").eval()
        with FlopCounterMode(display=False) as counter:
            images = example_inputs[:1].to("meta")
            family.forward(abstract, images) if family else abstract(images)
    return counter.get_total_flops() // 2
