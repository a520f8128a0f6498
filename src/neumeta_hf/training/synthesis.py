"""Images made so that networks see the activation statistics of their training data, and no training image.

After DeepInversion (Yin et al. 2020, arXiv:1912.08795, section 3.1), which does it for one network; here the same
images serve the networks of many sizes, so that a checkpoint that carries them can measure the statistics of any other.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neumeta_hf.training.layout import to_channels_last

LIMIT = 3.9
"""Largest absolute value of a synthetic pixel, in standard deviations: what a checkpoint can store."""


def synthesize_images(
    networks: Sequence[nn.Module],
    image_shape: tuple[int, int, int],
    *,
    num_images: int,
    steps: int,
    learning_rate: float = 0.1,
    seed: int = 0,
    progress: Iterable[int] | None = None,
) -> Tensor:
    """Find images on which every BatchNorm of every network sees the mean and variance that it holds.

    Args:
        networks: With measured running statistics; their weights and modes do not change.
        image_shape: Channels, height and width.
        num_images: How many; they are one batch throughout, so that its statistics are those of all images.
        steps: Steps of Adam with a cosine schedule, each on one of the networks in turn.
        learning_rate: Peak, of the pixels before they are squashed into [-3.9, 3.9].
        seed: Seed of the noise that the images start from, and of the order of the networks.
        progress: What to iterate over instead of `range(steps)`, such as a progress bar around it.

    Returns:
        Normalised images, `[num_images, channels, height, width]`, on the networks' device.
    """
    device = next(networks[0].parameters()).device
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = image_shape
    # Smooth blobs under fine noise: nearer to photographs than noise alone.
    coarse = torch.randn(num_images, channels, -(-height // 4), -(-width // 4), generator=generator)
    start = F.interpolate(coarse, (height, width), mode="bilinear") + 0.3 * torch.randn(
        num_images, channels, height, width, generator=generator
    )
    pixels = to_channels_last((0.3 * start).to(device)).requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    order = np.random.default_rng(seed)
    turns = itertools.chain.from_iterable(order.permutation(len(networks)) for _ in itertools.count())
    for _ in progress if progress is not None else range(steps):
        loss = statistics_distance(networks[next(turns)], LIMIT * pixels.tanh())
        (pixels.grad,) = torch.autograd.grad(loss, [pixels])
        optimizer.step()
        schedule.step()
    return (LIMIT * pixels.detach().tanh()).contiguous()


def statistics_distance(network: nn.Module, images: Tensor) -> Tensor:
    """Compute how far the statistics of a batch are from those that a network's BatchNorm modules hold.

    Args:
        network: In evaluation mode.
        images: One batch.

    Returns:
        A scalar: the mean over modules and channels of the squared distance of means, in standard deviations, plus the
        squared distance of the logarithms of the variances.
    """
    distances: list[Tensor] = []

    def compare(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        axes = [0, *range(2, inputs[0].ndim)]
        variance, mean = torch.var_mean(inputs[0].float(), axes)
        expected = norm.running_var + norm.eps
        means = (mean - norm.running_mean).square() / expected
        distances.append((means + ((variance + norm.eps) / expected).log().square()).mean())

    hooks = [
        module.register_forward_pre_hook(compare) for module in network.modules() if isinstance(module, _BatchNorm)
    ]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(distances).mean()
