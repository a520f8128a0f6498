"""BatchNorm statistics of a plain model, measured on images."""

import itertools
from collections.abc import Collection, Iterable

import torch
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
