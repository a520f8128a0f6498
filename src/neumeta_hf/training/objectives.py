"""What a training loop minimises: modules whose forward pass is the loss.

The loss is computed inside `forward`, all sizes of a step at once. There is then one backward pass, and a distributed
wrapper sees and averages the whole gradient.
"""

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neumeta_hf.errors import RecipeError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.static_outputs import KnownOutputs, StaticOutputs
from neumeta_hf.targets import config_of, find_target
from neumeta_hf.tasks import Task, build_task
from neumeta_hf.training.losses import detail_loss, reconstruction_loss, regularization_loss
from neumeta_hf.training.recipe import LossesRecipe
from neumeta_hf.training.sampling import Draw, SizeSampler
from neumeta_hf.training.static_cache import Boundary
from neumeta_hf.widths import format_size


class ReferenceObjective(nn.Module):
    """Task loss of a plain network.

    Args:
        model: The network.
        task: What it does. None: its family's, with default options.
        seed: Seed of what the network draws at random.
        rank: Number of this process: draws differ between processes.
    """

    def __init__(self, model: nn.Module, task: Task | None = None, *, seed: int = 0, rank: int = 0):
        super().__init__()
        self.model = model
        self.family = find_target(config_of(model))
        self.task = task or build_task(self.family.task)
        self.seed = seed
        self.rank = rank

    def forward(self, *, step: int, **batch: Tensor) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            step: Number of the batch since the start; seeds what is random.
            **batch: What the network takes, and "labels" where the task has any.

        Returns:
            `{"loss": scalar}`.
        """
        seed = _seed_of(self.seed, step, 0, self.rank)
        outputs = self.family.forward(self.model, batch, seed=seed)
        return {"loss": self.task.loss(outputs, batch)}


def check_losses(losses: LossesRecipe, task: Task | None = None) -> None:
    """Refuse losses that leave nothing to train, or that there are not.

    Args:
        losses: Weights of the losses.
        task: What networks do. None: something that has a loss.

    Raises:
        RecipeError: All that are computed below full size are 0, or the task's own has a weight and there is none.
    """
    if task is not None and not task.has_loss and (losses.task or not losses.distillation):
        raise RecipeError(
            f"losses.task={losses.task}, losses.distillation={losses.distillation}: {task.name} has no loss of its own "
            "and learns from the reference alone. Set losses.task to 0, and give losses.distillation a weight."
        )
    if not (losses.task or losses.distillation or losses.regularization):
        raise RecipeError(
            "losses.task, losses.distillation and losses.regularization are all 0: below full size nothing is left "
            "to minimise. Give one of them a weight, or use fit to fit the reference alone."
        )


class NeuMetaObjective(nn.Module):
    """Loss of a family: the mean, over the sizes of a step, of task and weight losses.

    Args:
        model: The family; its hypernetwork is trained.
        reference: The prepared reference: reconstruction's target, and distillation's teacher.
        task: What its networks do. None: its target family's, with default options.
        losses: Weights of the losses.
        sampler: Draws the sizes of a step.
        seed: Seed of the coordinate noise, and of what the networks draw at random.
        rank: Number of this process: both differ between processes.
        train_static: Whether the static parameters, which all sizes share, are trained along.
        boundary: What batches bring of the static part's outputs; None: nothing, it runs.

    Raises:
        RecipeError: No loss is left to minimise at sizes other than the reference's.
    """

    _teacher: nn.Module
    _reference: dict[str, Tensor]

    def __init__(
        self,
        model: NeuMetaModel,
        reference: nn.Module,
        *,
        task: Task | None = None,
        losses: LossesRecipe,
        sampler: SizeSampler,
        seed: int,
        rank: int = 0,
        train_static: bool = False,
        boundary: Boundary | None = None,
    ):
        super().__init__()
        self.boundary = boundary
        self.task = task or build_task(model.target_family.task)
        check_losses(losses, self.task)
        self.model = model
        model.static.requires_grad_(train_static)
        self.losses = losses
        self.sampler = sampler
        self.seed = seed
        self.rank = rank
        teacher = copy.deepcopy(reference).requires_grad_(False).eval()
        # Out of reach of nn.Module: neither trained, nor averaged, nor saved with the state.
        self.__dict__["_teacher"] = teacher
        self.__dict__["_reference"] = {name: teacher.state_dict()[name] for name in model.generated_names}

    def forward(self, *, step: int, **batch: Tensor) -> dict[str, Tensor]:
        """Loss of a batch at the sizes of a step.

        Args:
            step: Number of the batch since the start; seeds the sizes and the noise.
            **batch: What the networks take, and "labels" where the task has any; with a boundary the outputs that it
                needs, too.

        Returns:
            "loss", the scalar to minimise, and for the log, detached: the parts (of a geometric mean the logarithm),
            and "task/<width>", the task's loss per size.
        """
        draws = self.sampler.draw(step)
        depths = self.sampler.draw_depths(step, len(draws))
        # All sizes and the teacher draw the same: what tells them apart is their weights.
        seed = _seed_of(self.seed, step, len(draws), self.rank)
        model = self.model
        static_outputs: StaticOutputs | KnownOutputs = StaticOutputs()
        if self.boundary is not None:
            static_outputs = self.boundary.known(batch, model.dtype)
        expected = None
        if self.losses.distillation:
            with torch.no_grad(), contextlib.ExitStack() as stack:
                if isinstance(static_outputs, KnownOutputs):
                    stack.enter_context(static_outputs.taken_by(self._teacher, model.static_modules))
                outputs = model.target_family.forward(self._teacher, batch, seed=seed)
                expected = self.task.predictions(outputs, batch)
        parts: dict[str, list[Tensor]] = {}
        for index, (draw, depth) in enumerate(zip(draws, depths, strict=True)):
            noise_seed = _seed_of(self.seed, step, index, self.rank)
            losses = self._losses_at(draw, depth, batch, expected, static_outputs, noise_seed=noise_seed, seed=seed)
            for name, value in losses.items():
                parts.setdefault(name, []).append(value)
        means = {name: torch.stack(values).sum() / len(draws) for name, values in parts.items() if "/" not in name}
        logged = {name: values[0].detach() for name, values in parts.items() if "/" in name}
        weights = vars(self.losses)
        loss = torch.stack([weights[name] * value for name, value in means.items()]).sum()
        return {"loss": loss, **{name: value.detach() for name, value in means.items()}, **logged}

    def _losses_at(
        self,
        draw: Draw,
        depth: float,
        batch: Mapping[str, Tensor],
        expected: Any,
        static_outputs: StaticOutputs | KnownOutputs,
        *,
        noise_seed: int,
        seed: int,
    ) -> dict[str, Tensor]:
        model = self.model
        size = model.size_at(draw, depth=depth)
        generated = model.generate(size, noise=model.config.coordinate_noise, seed=noise_seed)
        outputs = model.run(size, generated, batch, seed=seed, static_outputs=static_outputs)
        parts = {}
        task = self.task.loss(outputs, batch)
        if self.losses.task and self.losses.task_mean == "geometric":
            # log(0) would be -inf: a tiny number is added, without a gradient. A negative loss gives NaN on purpose.
            parts["task"] = (task + torch.finfo(task.dtype).tiny).log()
        elif self.losses.task:
            parts["task"] = task
        if expected is not None:
            found, temperature = self.task.predictions(outputs, batch), self.losses.temperature
            parts["distillation"] = self.task.distillation(found, expected, temperature=temperature)
        if self.losses.regularization:
            parts["regularization"] = regularization_loss(generated.values())
        if self.losses.reconstruction and size == model.space.full:
            parts["reconstruction"] = reconstruction_loss(generated, self._reference)
        if self.losses.detail and draw == self.sampler.widths[0] and model.space.is_whole(size):
            parts["detail"] = detail_loss(generated, model.varying_axes)
        parts["task/random" if isinstance(draw, dict) else f"task/{format_size(draw, depth)}"] = task
        return parts


def _seed_of(seed: int, step: int, index: int, rank: int) -> int:
    """One seed for each of a step's draws, on each process."""
    return (((seed * 1_000_003 + step) * 64 + index) * 4096 + rank) % 2**63


def fit_to_reference(
    model: NeuMetaModel,
    reference: nn.Module,
    *,
    steps: int,
    learning_rate: float,
    seed: int = 0,
    progress: Sequence | None = None,
) -> float:
    """Fit the hypernetwork to the reference's weights at full size, without data.

    The fit sees the coordinate noise of training: frequencies finer than a channel would fit the bare coordinates as
    well, and training would start from weights that the first noise destroys.

    Args:
        model: The family; its hypernetwork is changed.
        reference: The prepared reference.
        steps: Steps of AdamW with a one-cycle schedule.
        learning_rate: Peak learning rate.
        seed: Seed of the coordinate noise.
        progress: What to iterate over instead of `range(steps)`, such as a progress bar around it.

    Returns:
        Relative error afterwards, without noise: norm of the difference over norm of the reference's generated weights.
    """
    wanted = {name: reference.state_dict()[name] for name in model.generated_names}
    parameters = list(model.hypernetwork.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 1))
    for step in progress if progress is not None else range(steps):
        generated = model.generate(noise=model.config.coordinate_noise, seed=seed * 1_000_003 + step)
        # Relative to each tensor's own size: otherwise the large tensors hide the small ones.
        loss = torch.stack(
            [
                (generated[name] - tensor).square().mean() / (tensor.square().mean() + 1e-6)
                for name, tensor in wanted.items()
            ]
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        generated = model.generate()
        error = sum((generated[name] - tensor).square().sum() for name, tensor in wanted.items())
        total = sum(tensor.square().sum() for tensor in wanted.values())
    return float(error / total) ** 0.5
