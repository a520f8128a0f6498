"""Pruning of a classifier by Torch-Pruning, which whole_network.py measures families by."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning
from torch import nn

from neumeta_hf import calibrate
from neumeta_hf.targets import find_target
from neumeta_hf.training import CpuConvolutions, to_channels_last

IMPORTANCES = {
    "random": torch_pruning.importance.RandomImportance(),
    "L1": torch_pruning.importance.GroupMagnitudeImportance(p=1),
    "L2": torch_pruning.importance.GroupMagnitudeImportance(p=2),
    "Taylor": torch_pruning.importance.GroupTaylorImportance(),
    "Hessian": torch_pruning.importance.GroupHessianImportance(),
}


def prune(
    network: nn.Module,
    importance: str,
    width: float,
    *,
    varying_axes: Mapping[str, list[bool]],
    split: Any,
    batches: list[torch.Tensor],
    seed: int,
) -> nn.Module:
    """Take channels away by importance, and measure the statistics of BatchNorm anew.

    Args:
        network: A classifier; left as it is.
        importance: One of `IMPORTANCES`.
        width: Ratio of the channels that are kept.
        varying_axes: Name of a weight to whether sizes change each of its axes; channels of others stay.
        split: Training images, the first 512 of which some importances are measured on.
        batches: Images that statistics are measured on.
        seed: Of the random importance.

    Returns:
        A smaller network.
    """
    torch.manual_seed(seed)
    model: Any = copy.deepcopy(network).requires_grad_(True).eval()
    pruner = torch_pruning.MetaPruner(
        model,
        find_target(model.config).example_batch(model.config)["pixel_values"],
        importance=IMPORTANCES[importance],
        pruning_ratio=1 - width,
        ignored_layers=[
            layer
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear) and not varying_axes.get(f"{name}.weight", [False])[0]
        ],
        forward_fn=lambda target, images: target(images).logits,
    )
    split.set_epoch(0)  # whatever was fine-tuned before: a later call prunes the same channels
    batch = split.__getitems__(list(range(512)))
    fill_gradients(model, batch["pixel_values"], batch["labels"], squared=importance == "Hessian")
    pruner.step()
    model.zero_grad()
    # Some networks have no BatchNorm, and no statistics to measure anew.
    has_statistics = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    return calibrate(model, batches) if has_statistics else model


def fill_gradients(model: Any, images: torch.Tensor, labels: torch.Tensor, *, squared: bool) -> None:
    """Put into `grad` what importances read there, of the loss on training images.

    Args:
        model: A classifier.
        images: `[batch, channels, height, width]`.
        labels: `[batch]`.
        squared: Not the gradient, for Taylor, but the mean of the squares of each image's, which stands for the
            diagonal of the Hessian. Torch-Pruning has a sum of its own for these, which keeps the last image's alone.
    """
    if not squared:
        F.cross_entropy(model(images).logits, labels).backward()
        return
    squares = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}
    for index in range(len(images)):
        model.zero_grad()
        F.cross_entropy(model(images[index : index + 1]).logits, labels[index : index + 1]).backward()
        for parameter, total in squares.items():
            total += parameter.grad**2
    for parameter, total in squares.items():
        parameter.grad = total / len(images)


def finetune(model: nn.Module, split: Any, *, batch_size: int, epochs: int, seed: int, bf16: bool) -> nn.Module:
    """Train a pruned classifier on, by SGD with one cycle to a learning rate of 0.1.

    Args:
        model: Left as it is.
        split: Training images.
        batch_size: Images a step.
        epochs: Passes over the split.
        seed: Of the order of images.
        bf16: Whether layers run in bfloat16.

    Returns:
        The trained copy, in eval mode.
    """
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * (len(split) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps, anneal_strategy="linear")
    for batch in _batches(split, batch_size=batch_size, epochs=epochs, seed=seed):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), CpuConvolutions():
            logits = model(to_channels_last(batch["pixel_values"])).logits
        F.cross_entropy(logits.float(), batch["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def _batches(split: Any, *, batch_size: int, epochs: int, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    for epoch in range(epochs):
        split.set_epoch(epoch)
        order = np.random.default_rng((seed, epoch)).permutation(len(split))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield split.__getitems__(order[start : start + batch_size].tolist())
