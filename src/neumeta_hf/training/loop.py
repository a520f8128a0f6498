"""The one training loop: of a reference, and of a hypernetwork; through Accelerate, resumable to the bit."""

import contextlib
import dataclasses
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import SeedableRandomSampler
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from neumeta_hf.data import ImageSplit, collate
from neumeta_hf.errors import CheckpointError, DataError, RecipeError
from neumeta_hf.files import replace_folder
from neumeta_hf.training.layout import CpuConvolutions, to_channels_last
from neumeta_hf.training.optimization import build_optimizer, build_schedule
from neumeta_hf.training.recipe import LoopRecipe

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Progress:
    """Where a run is; saved with its state.

    Attributes:
        batch: Batches seen by each process.
        step: Optimiser steps taken.
        best_score: Best score on the validation split.
        batches_per_epoch: Batches of each process in an epoch, which depends on how many processes there are.
        seconds: What the steps took, interruptions and validation left out.
    """

    batch: int = 0
    step: int = 0
    best_score: float = float("-inf")
    batches_per_epoch: int = 0
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The fields, for Accelerate."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the fields."""
        vars(self).update(state)


class StoppedEarly(Exception):  # noqa: N818 - it reports, it is no fault
    """The loop stopped at `stop_after_steps`, its state saved."""


def check_batch_size(split: ImageSplit, recipe: LoopRecipe, *, num_processes: int, name: str) -> None:
    """Refuse batches that no step could be filled with.

    Args:
        split: Training images.
        recipe: The loop.
        num_processes: How many train.
        name: Of the loop, for the message.

    Raises:
        DataError: There are fewer images than one step takes.
    """
    if len(split) < recipe.batch_size * num_processes:
        raise DataError(
            f"{name}: {len(split)} training images do not fill one batch of {recipe.batch_size} on {num_processes} "
            "process(es): lower batch_size."
        )


class TrainingLoop:
    """Trains the module that an objective wraps.

    Args:
        objective: A module whose `forward(**batch, step=...)` returns `{"loss": scalar, ...}`.
        split: Training images.
        recipe: The loop.
        accelerator: Prepares, synchronises and saves.
        seed: Of the order of the images.
        state_dir: Where the state to resume from is kept.
        validate: Returns the validation score of the objective's module as it is (larger is better) and values to log.
        keep: Called as `keep(is_best)` after each validation, with the averaged weights in place: saves the module.
        name: Of the loop, in the log and on the progress bar.
    """

    def __init__(
        self,
        objective: nn.Module,
        split: ImageSplit,
        recipe: LoopRecipe,
        *,
        accelerator: Accelerator,
        seed: int,
        state_dir: Path,
        validate: Callable[[], tuple[float, dict[str, float]]],
        keep: Callable[[bool], None],
        name: str,
    ):
        check_batch_size(split, recipe, num_processes=accelerator.num_processes, name=name)
        self.recipe = recipe
        self.accelerator = accelerator
        self.state_dir = state_dir
        self.validate = validate
        self.keep = keep
        self.name = name
        self.split = split
        self.plain_objective = objective
        accelerator.free_memory()  # of an earlier loop on this accelerator: its state must not be saved with this one's
        accelerator._custom_objects.clear()
        accelerator.gradient_accumulation_steps = recipe.gradient_accumulation_steps
        loader = DataLoader(
            split,
            batch_size=recipe.batch_size,
            sampler=SeedableRandomSampler(split, data_seed=seed),  # an order by epoch: no state to lose in a resume
            drop_last=True,
            collate_fn=collate,
            num_workers=recipe.num_workers,
        )
        optimizer = build_optimizer(objective, recipe.optimizer)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        prepared: Any = accelerator.prepare(objective, optimizer, loader)
        self.objective, self.optimizer, self.loader = prepared
        # One step of the optimiser every so many batches, and one for what is left at the end of an epoch.
        self.steps_per_epoch = -(-len(self.loader) // recipe.gradient_accumulation_steps)
        # Not prepared: Accelerate would step it once per process, and its length is that of the run, not of the data.
        self.schedule = build_schedule(
            self.optimizer.optimizer, recipe.schedule, total_steps=self.steps_per_epoch * recipe.epochs
        )
        self.progress = Progress(batches_per_epoch=len(self.loader))
        self.stop_at: int | None = None
        self.average = None
        if recipe.ema_decay is not None:
            self.average = EMAModel(self.parameters, decay=recipe.ema_decay, foreach=True)
        accelerator.register_for_checkpointing(self.progress, self.schedule, *([self.average] if self.average else []))

    def run(self, *, resume: bool = False) -> Progress:
        """Train to the end of the recipe.

        Args:
            resume: Go on from the saved state; the weights then end bit-equal to an uninterrupted run's.

        Returns:
            Where the run ended.

        Raises:
            StoppedEarly: The recipe's `stop_after_steps` was reached.
            CheckpointError: There is no state to resume from.
            RecipeError: The loss is not finite, and the saved state is an earlier one; or there are other processes
                than the saved state is of.
        """
        if resume:
            if not self.state_dir.is_dir():
                raise CheckpointError(f"no state to resume from at {self.state_dir}: run without --resume first.")
            self.accelerator.load_state(str(self.state_dir))
            if (before := self.progress.batches_per_epoch) != len(self.loader):
                raise RecipeError(
                    f"{self.name}: the state in {self.state_dir} is of {before} batches per process in an epoch, and "
                    f"{self.accelerator.num_processes} process(es) now have {len(self.loader)}: resume with as many "
                    "processes as the run was started with."
                )
            if self.average:
                self.average.to(self.accelerator.device)
        if self.recipe.stop_after_steps is not None:
            self.stop_at = self.progress.step + self.recipe.stop_after_steps
        first_epoch, skip = divmod(self.progress.batch, len(self.loader))
        total = self.recipe.epochs * len(self.loader)
        bar = tqdm(
            total=total, initial=self.progress.batch, desc=self.name, disable=not self.accelerator.is_local_main_process
        )
        with bar:
            for epoch in range(first_epoch, self.recipe.epochs):
                self._run_epoch(epoch, skip, bar)
                skip = 0
                is_last = epoch + 1 == self.recipe.epochs
                stops = self.progress.step == self.stop_at and not is_last
                if is_last or (epoch + 1) % self.recipe.evaluate_every == 0:
                    self._evaluate(epoch)
                if is_last or stops or (epoch + 1) % self.recipe.checkpoint_every == 0:
                    self.save_state()
                if stops:
                    raise self._stopped()
        return self.progress

    def _run_epoch(self, epoch: int, skip: int, bar: tqdm) -> None:
        accelerator, recipe = self.accelerator, self.recipe
        self.split.set_epoch(epoch)
        self.loader.set_epoch(epoch)
        loader: Any = accelerator.skip_first_batches(self.loader, skip) if skip else self.loader
        if skip:
            loader.set_epoch(epoch)
        self.objective.train()
        losses = {}
        started = time.monotonic() - self.progress.seconds
        for batch in loader:
            batch["pixel_values"] = to_channels_last(batch["pixel_values"])
            with accelerator.accumulate(self.objective):
                with CpuConvolutions():
                    losses = self.objective(**batch, step=self.progress.batch)
                accelerator.backward(losses["loss"])
                if accelerator.sync_gradients and recipe.clip is not None:
                    clip = accelerator.clip_grad_norm_ if recipe.clip_by == "norm" else accelerator.clip_grad_value_
                    clip(self.parameters, recipe.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.progress.batch += 1
            self.progress.seconds = time.monotonic() - started
            bar.update()
            if not accelerator.sync_gradients:
                continue
            self.schedule.step()
            self.progress.step += 1
            if self.average:
                self.average.step(self.parameters)
            if self.progress.step % 10 == 0 or self.progress.step == 1:
                self._log(losses, bar)
            # At the end of an epoch there is an evaluation to do first, whose result decides what is kept.
            if self.progress.step == self.stop_at and self.progress.batch % len(self.loader):
                self._check_finite(losses)
                self.save_state()
                raise self._stopped()
        self._check_finite(losses)

    def _stopped(self) -> StoppedEarly:
        return StoppedEarly(f"{self.name} stopped after {self.progress.step} steps; --resume goes on from here.")

    def _check_finite(self, losses: dict[str, Any]) -> dict[str, float]:
        values = {name: value.item() for name, value in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise RecipeError(
                f"{self.name}: the loss is {values['loss']} at step {self.progress.step}. Lower the learning rate "
                f"({self.recipe.optimizer.learning_rate}), add warm-up, or clip the gradient."
            )
        return values

    def _log(self, losses: dict[str, Any], bar: tqdm) -> None:
        values = self._check_finite(losses)
        bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()}, refresh=False)
        rate = self.optimizer.param_groups[0]["lr"]
        self.accelerator.log(
            {f"{self.name}/{name}": value for name, value in {**values, "learning_rate": rate}.items()},
            step=self.progress.step,
        )

    def _evaluate(self, epoch: int) -> None:
        with self.averaged_weights():
            score, values = self.validate()
            is_best = score > self.progress.best_score
            self.progress.best_score = max(score, self.progress.best_score)
            self.keep(is_best)
        self.accelerator.log(
            {f"{self.name}/validation/{name}": value for name, value in values.items()}, step=self.progress.step
        )
        summary = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        logger.info("%s epoch %d: %s%s", self.name, epoch + 1, summary, " (best)" if is_best else "")

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights in place, and the trained ones back, whatever happens."""
        if self.average is None:
            yield
            return
        trained = [parameter.detach().clone() for parameter in self.parameters]
        self.average.copy_to(self.parameters)
        try:
            yield
        finally:
            for parameter, value in zip(self.parameters, trained, strict=True):
                parameter.data.copy_(value)

    def save_state(self) -> None:
        """Write everything needed to resume, beside the old state, then put it in the old one's place."""
        beside = self.state_dir.with_name(self.state_dir.name + ".partial")
        if self.accelerator.is_main_process:
            shutil.rmtree(beside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(beside))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            replace_folder(beside, self.state_dir)
        self.accelerator.wait_for_everyone()
