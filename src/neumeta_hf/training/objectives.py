"""What a training loop minimises: modules whose forward pass is the loss.

The loss is computed inside `forward`, all sizes of a step at once, so that there is one backward pass and a distributed
wrapper sees, and averages, the whole gradient.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from neumeta_hf.errors import RecipeError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.training.losses import detail_loss, distillation_loss, reconstruction_loss, regularization_loss
from neumeta_hf.training.recipe import LossesRecipe
from neumeta_hf.training.sampling import Draw, SizeSampler


class ReferenceObjective(nn.Module):
    """Cross-entropy of a plain classifier.

    Args:
        model: The classifier.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor, *, step: int) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            pixel_values: `[batch, channels, height, width]`.
            labels: `[batch]`.
            step: Number of the batch since the start; not used.

        Returns:
            `{"loss": scalar}`.
        """
        return {"loss": F.cross_entropy(self.model(pixel_values).logits.float(), labels)}


class NeuMetaObjective(nn.Module):
    """Loss of a family: the mean, over the sizes of a step, of task and weight losses.

    Args:
        model: The family; its hypernetwork is trained.
        reference: The prepared reference: reconstruction's target, and distillation's teacher.
        losses: Weights of the losses.
        sampler: Draws the sizes of a step.
        seed: Of the coordinate noise.
        rank: Number of this process: noise differs between processes.
        train_static: Whether the static parameters, which all sizes share, are trained along.

    Raises:
        RecipeError: No loss is left to minimise at sizes other than the reference's.
    """

    _teacher: PreTrainedModel
    _reference: dict[str, Tensor]

    def __init__(
        self,
        model: NeuMetaModel,
        reference: PreTrainedModel,
        *,
        losses: LossesRecipe,
        sampler: SizeSampler,
        seed: int,
        rank: int = 0,
        train_static: bool = False,
    ):
        super().__init__()
        if not (losses.task or losses.distillation or losses.regularization):
            raise RecipeError(
                "losses.task, losses.distillation and losses.regularization are all 0: below full size nothing is left "
                "to minimise. Give one of them a weight, or use fit to fit the reference alone."
            )
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

    def forward(self, pixel_values: Tensor, labels: Tensor, *, step: int) -> dict[str, Tensor]:
        """Loss of a batch at the sizes of a step.

        Args:
            pixel_values: `[batch, channels, height, width]`.
            labels: `[batch]`.
            step: Number of the batch since the start; seeds the sizes and the noise.

        Returns:
            "loss", the scalar to minimise, and for the log, detached: the parts, and "task/<width>" per size.
        """
        draws = self.sampler.draw(step)
        teacher_logits = None
        if self.losses.distillation:
            with torch.no_grad():
                teacher_logits = self._teacher(pixel_values).logits
        parts: dict[str, list[Tensor]] = {}
        for index, draw in enumerate(draws):
            noise_seed = ((self.seed * 1_000_003 + step) * 64 + index) * 4096 + self.rank
            for name, value in self._losses_at(draw, pixel_values, labels, teacher_logits, noise_seed).items():
                parts.setdefault(name, []).append(value)
        means = {name: torch.stack(values).sum() / len(draws) for name, values in parts.items() if "/" not in name}
        logged = {name: values[0].detach() for name, values in parts.items() if "/" in name}
        weights = vars(self.losses)
        loss = torch.stack([weights[name] * value for name, value in means.items()]).sum()
        return {"loss": loss, **{name: value.detach() for name, value in means.items()}, **logged}

    def _losses_at(
        self, draw: Draw, pixel_values: Tensor, labels: Tensor, teacher_logits: Tensor | None, noise_seed: int
    ) -> dict[str, Tensor]:
        model = self.model
        config = model.target_config_at(draw)
        generated = model.generate(config, noise=model.config.coordinate_noise, seed=noise_seed % 2**63)
        logits = model.run(config, generated, pixel_values=pixel_values).logits.float()
        parts = {}
        task = F.cross_entropy(logits, labels)
        if self.losses.task:
            parts["task"] = task
        if self.losses.distillation and teacher_logits is not None:
            parts["distillation"] = distillation_loss(logits, teacher_logits, temperature=self.losses.temperature)
        if self.losses.regularization:
            parts["regularization"] = regularization_loss(generated.values())
        if self.losses.reconstruction and all(
            generated[name].shape == tensor.shape for name, tensor in self._reference.items()
        ):
            parts["reconstruction"] = reconstruction_loss(generated, self._reference)
        if self.losses.detail and draw == self.sampler.widths[0]:
            parts["detail"] = detail_loss(generated, model.varying_axes)
        parts["task/random" if isinstance(draw, dict) else f"task/{draw:g}"] = task
        return parts


def fit_to_reference(
    model: NeuMetaModel,
    reference: PreTrainedModel,
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
        seed: Of the coordinate noise.
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
