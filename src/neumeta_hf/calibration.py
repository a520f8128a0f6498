"""BatchNorm statistics of a plain model, measured on images, or read between those of two other sizes."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neumeta_hf.errors import CheckpointError, NeuMetaError, one_line
from neumeta_hf.image_batches import ImageBatches


def calibrate(model: nn.Module, batches: Iterable[Any], *, modules: Collection[str] | None = None) -> nn.Module:
    """Measure the running statistics of BatchNorm modules anew, as the plain average over the given batches.

    Use images as training saw them, augmentation included: on un-augmented ones the statistics, and with them the
    accuracy, are off even for a network whose weights never changed. A few thousand images are enough.

    Args:
        model: Any module with BatchNorm; changed in place, its training mode restored.
        batches: Normalised images, `[batch, channels, height, width]` each, as loaders give them: tensors, mappings
            with "pixel_values", or pairs of images and labels. Gone through once.
        modules: Names of the BatchNorm modules to measure; the others keep their statistics. None: all.

    Returns:
        The model.

    Raises:
        CheckpointError: There is no BatchNorm or no batch to measure; a batch is not of normalised images, or the
            network does not take it; a variance would be of a single value. Whatever is raised, the model is as it was.
    """
    images = batches if isinstance(batches, ImageBatches) else ImageBatches(batches)
    norms = _find_norms(model, modules)
    like: Any = next(itertools.chain(model.parameters(), (norm.running_mean for norm in norms.values())))
    before = {norm: [statistic.clone() for statistic in _statistics(norm)] for norm in norms.values()}
    momenta = {norm: norm.momentum for norm in norms.values()}
    was_training = {module: module.training for module in model.modules()}
    hooks = [norm.register_forward_pre_hook(_SingleValues(name)) for name, norm in norms.items()]
    try:
        model.eval()
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a cumulative average
            norm.train()
        with torch.no_grad():
            for batch in images:
                _run(model, batch.to(like.device, like.dtype), images)
        _check_measured(norms, images)
    except BaseException:
        for norm, statistics in before.items():
            for statistic, value in zip(_statistics(norm), statistics, strict=True):
                statistic.copy_(value)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, training in was_training.items():
            module.training = training
    return model


class _SingleValues:
    """A hook that refuses what has one value per channel: its variance is not defined."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features = inputs[0]
        if features.numel() <= features.shape[1]:
            raise CheckpointError(
                f"{self.name} gets a single value per channel, of shape {list(features.shape)}, which has no variance: "
                "give batches of two images or more."
            )


def _find_norms(model: nn.Module, modules: Collection[str] | None) -> dict[str, _BatchNorm]:
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    if unknown := sorted(set(modules or ()) - set(norms)):
        raise CheckpointError(
            f"modules names {', '.join(unknown)}, which is no BatchNorm with running statistics: leave it out."
        )
    if not norms:
        raise CheckpointError(f"a {type(model).__name__} has no BatchNorm with running statistics to calibrate.")
    return norms if modules is None else {name: norms[name] for name in norms if name in modules}


def _statistics(norm: _BatchNorm) -> list[Tensor]:
    statistics = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    return [statistic for statistic in statistics if statistic is not None]


def _run(model: nn.Module, batch: Tensor, images: ImageBatches) -> None:
    try:
        model(batch)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, NeuMetaError | torch.OutOfMemoryError):
            raise
        made_for = "" if images.image_shape is None else f" (it is made for images of {list(images.image_shape)})"
        raise CheckpointError(
            f"the network does not take calibration batch {images.num_batches}, of shape {list(batch.shape)}"
            f"{made_for}: {one_line(error)}"
        ) from error


def _check_measured(norms: Mapping[str, _BatchNorm], images: ImageBatches) -> None:
    if images.num_batches == 0:
        raise CheckpointError("calibration got no batch: pass at least one tensor of images as training saw them.")
    for name, norm in norms.items():
        if not all(statistic.isfinite().all() for statistic in _statistics(norm)):
            raise CheckpointError(
                f"the statistics that {name} measures are NaN or infinite: the network's own numbers are beyond its "
                "precision. Calibrate it in float32, or train it again with a lower learning rate."
            )


def interpolate_statistics(
    smaller: Mapping[str, Tensor],
    larger: Mapping[str, Tensor],
    num_channels: Mapping[str, int],
    *,
    amount: float,
    are_nested: bool,
) -> dict[str, Tensor]:
    """Statistics of a network whose size lies between two others.

    It is good where the two are near. Between half and full width it was measured, and is not enough.

    Args:
        smaller: Name to statistic, `[channels]`, of a network that is nowhere wider.
        larger: The same of a network that is nowhere narrower.
        num_channels: Name to the length wanted; of statistics that are no integers.
        amount: Interpolation weight in [0, 1], for layers whose number of channels is equal in all three. Other layers
            use their own numbers of channels, since each is rounded on its own.
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
