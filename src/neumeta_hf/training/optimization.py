"""From a recipe to an optimiser and a learning-rate schedule."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from neumeta_hf.errors import RecipeError
from neumeta_hf.hypernetworks import Hypernetwork
from neumeta_hf.training.recipe import OptimizerRecipe, ScheduleRecipe


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for matrices between hidden layers, AdamW for all else, as one optimiser with one state.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes every step an orthogonal matrix: all
    directions of a layer learn at the same rate, also those in which the gradient is small.

    Args:
        matrices: What Muon moves, two-dimensional.
        others: What AdamW moves.
        muon_learning_rate: Peak learning rate of Muon.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Decoupled, of both.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        muon_learning_rate: float,
        learning_rate: float,
        weight_decay: float,
    ):
        muon = torch.optim.Muon(matrices, lr=muon_learning_rate, weight_decay=weight_decay)
        adamw = torch.optim.AdamW(others, lr=learning_rate, weight_decay=weight_decay, fused=True)
        self._parts: list[torch.optim.Optimizer] = [muon, adamw]
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move all parameters once."""
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of both."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Let the parts work on this optimiser's own groups and state, so that there is one of each."""
        for part, groups in zip(self._parts, (self.param_groups[:1], self.param_groups[1:]), strict=True):
            part.param_groups, part.state = groups, self.state


def build_optimizer(module: nn.Module, recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """Build the optimiser of a recipe.

    Args:
        module: What it trains; parameters that need no gradient are left out.
        recipe: Name and settings.

    Returns:
        The optimiser.

    Raises:
        RecipeError: "muon", and the module has no hypernetwork with matrices between hidden layers.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if recipe.name == "sgd":
        return torch.optim.SGD(
            trained,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            weight_decay=recipe.weight_decay,
        )
    if recipe.name == "muon":
        hypernetworks = [part for part in module.modules() if isinstance(part, Hypernetwork)]
        matrices = {id(matrix): matrix for part in hypernetworks for matrix in part.hidden_matrices()}
        if not matrices:
            raise RecipeError(
                "optimizer.name=muon updates matrices between hidden layers, but this hypernetwork has no such "
                "matrix: take adamw or sgd, or the hypernetwork inr or field."
            )
        return MuonWithAdamW(
            [parameter for parameter in trained if id(parameter) in matrices],
            [parameter for parameter in trained if id(parameter) not in matrices],
            muon_learning_rate=recipe.muon_learning_rate,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
    # Fused: a hypernetwork has millions of parameters for a small target, and the plain form walks them in ten passes.
    return torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def state_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Name what an optimiser keeps for each parameter that it has moved, all of it tensors.

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
    """Build the schedule of a recipe; stepped once per optimiser step, on every process.

    Args:
        optimizer: What it drives.
        recipe: Name and settings.
        total_steps: Optimiser steps of the whole run.

    Returns:
        The schedule.
    """
    # Half a step in, so that neither the first nor the last step has a rate of exactly 0.
    return LambdaLR(optimizer, lambda step: learning_rate_factor((step + 0.5) / total_steps, recipe))
