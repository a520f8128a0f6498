"""BatchNorm statistics of a plain model, measured on images, or read between those of two other sizes."""

import itertools
from collections.abc import Collection, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neumeta_hf.errors import CheckpointError


def calibrate(model: nn.Module, batches: Iterable[Tensor], *, modules: Collection[str] | None = None) -> nn.Module:
    """Measure the running statistics of BatchNorm modules anew, as the plain average over the given batches.

    Use images as training saw them, augmentation included: on un-augmented ones the statistics, and with them the
    accuracy, are off even for a network whose weights never changed. A few thousand images are enough.

    Args:
        model: Any module with BatchNorm; changed in place, its training mode restored.
        batches: Normalised images, `[batch, channels, height, width]` each.
        modules: Names of the BatchNorm modules to measure; the others keep their statistics. None: all.

    Returns:
        The model.

    Raises:
        CheckpointError: There is no batch to measure on; the model is as it was.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise CheckpointError("calibration got no batch: pass at least one tensor of images as training saw them.")
    norms = [
        module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and (modules is None or name in modules)
    ]
    momenta = [norm.momentum for norm in norms]
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative average
        norm.train()
    parameter = next(model.parameters())
    try:
        with torch.no_grad():
            for images in itertools.chain([first], batches):
                model(images.to(parameter.device, parameter.dtype))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in was_training.items():
            module.training = training
    return model


def interpolate_statistics(
    smaller: Mapping[str, Tensor],
    larger: Mapping[str, Tensor],
    num_channels: Mapping[str, int],
    *,
    amount: float,
    are_nested: bool,
) -> dict[str, Tensor]:
    """Statistics of a network whose size lies between two others.

    Good where the two are near: between networks of half and of full width it was measured, and is not enough.

    Args:
        smaller: Name to statistic, `[channels]`, of a network that is nowhere wider.
        larger: The same of a network that is nowhere narrower.
        num_channels: Name to the length wanted; of statistics that are no integers.
        amount: How far the size is from the smaller to the larger, in [0, 1]; for the layers where all three have as
            many channels. Elsewhere their number says it: layers of one size lie at different places between the two,
            since each is rounded on its own.
        are_nested: Whether a channel is the same one in all three, as where small networks are the first channels of
            large ones; if not, channels at the same portion of the axis are.

    Returns:
        Name to statistic. Integers, the number of batches, are the larger network's.
    """
    found = {}
    for name, above in larger.items():
        below = smaller[name]
        if not above.is_floating_point():
            found[name] = above.clone()
            continue
        count = num_channels[name]
        weight = amount if len(below) == len(above) else (count - len(below)) / (len(above) - len(below))
        if are_nested:
            values = above[:count].clone()
            values[: len(below)] = below.lerp(values[: len(below)], weight)
        else:
            below, above = (
                F.interpolate(values.float()[None, None], size=count, mode="linear")[0, 0] for values in (below, above)
            )
            values = below.lerp(above, weight).to(smaller[name].dtype)
        found[name] = values
    return found
