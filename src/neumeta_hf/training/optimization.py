"""From a recipe to an optimiser and a learning-rate schedule."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from neumeta_hf.training.recipe import OptimizerRecipe, ScheduleRecipe


def build_optimizer(parameters: Iterable[nn.Parameter], recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe.

    Args:
        parameters: What it moves; those that need no gradient are left out.
        recipe: Name and settings.

    Returns:
        The optimiser.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if recipe.name == "sgd":
        return torch.optim.SGD(
            trained,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            weight_decay=recipe.weight_decay,
        )
    # Fused: a hypernetwork has millions of parameters for a small target, and the plain form walks them in ten passes.
    return torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def state_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """What an optimiser keeps for each parameter that it has moved, all of it tensors.

    Args:
        optimizer: As from `build_optimizer`.

    Returns:
        "step" is one number; the others are of the parameter's shape.
    """
    if isinstance(optimizer, torch.optim.SGD):
        return ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    return ("step", "exp_avg", "exp_avg_sq")


def learning_rate_factor(progress: float, recipe: ScheduleRecipe) -> float:
    """Learning rate relative to its peak.

    Args:
        progress: How much of the run is done, in [0, 1].
        recipe: Name and settings of the schedule.

    Returns:
        A factor in [0, 1].
    """
    if recipe.warmup > 0 and progress < recipe.warmup:
        return progress / recipe.warmup
    after_warmup = (progress - recipe.warmup) / max(1.0 - recipe.warmup, 1e-12)
    if recipe.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(after_warmup, 1.0)))
    if recipe.name == "one_cycle":
        return max(0.0, 1.0 - after_warmup)
    if recipe.name == "multi_step":
        return recipe.gamma ** sum(progress >= milestone for milestone in recipe.milestones)
    return 1.0


def build_schedule(optimizer: torch.optim.Optimizer, recipe: ScheduleRecipe, *, total_steps: int) -> LambdaLR:
    """The schedule of a recipe; stepped once per optimiser step, on every process.

    Args:
        optimizer: What it drives.
        recipe: Name and settings.
        total_steps: Optimiser steps of the whole run.

    Returns:
        The schedule.
    """
    # Half a step in, so that neither the first nor the last step has a rate of exactly 0.
    return LambdaLR(optimizer, lambda step: learning_rate_factor((step + 0.5) / total_steps, recipe))
