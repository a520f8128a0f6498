"""The one training loop: of a reference, and of a hypernetwork; through Accelerate, resumable to the bit."""

import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import SeedableRandomSampler
from accelerate.utils import gather_object
from torch import nn

from neumeta_hf.batches import move_batch
from neumeta_hf.data import Split, StreamLoader, StreamSplit
from neumeta_hf.data.workers import WithSharedEpoch, begin_pass, make_loader
from neumeta_hf.errors import CheckpointError, DataError, RecipeError
from neumeta_hf.files import write_folder_beside
from neumeta_hf.progress import Bar, progress_bar
from neumeta_hf.training.average import WeightAverage
from neumeta_hf.training.divergence import batches_between, check_start, explain, find_broken
from neumeta_hf.training.layout import suited_to
from neumeta_hf.training.optimization import build_optimizer, build_schedule
from neumeta_hf.training.processes import on_main
from neumeta_hf.training.randomness import RandomState
from neumeta_hf.training.recipe import LoopRecipe
from neumeta_hf.training.signals import StopSignals
from neumeta_hf.training.state import LoopState, Manifest, Progress, read_manifest
from neumeta_hf.training.static_cache import CachedSplit

logger = logging.getLogger(__name__)


class StoppedEarly(Exception):  # noqa: N818 - it reports, it is no fault
    """The loop stopped at `stop_after_steps` or at a signal, its state saved."""


_STEPS_BETWEEN_SIGNALS = 10
"""With several processes: how often they ask each other whether one of them was told to stop."""


def check_length(split: Split | StreamSplit, recipe: LoopRecipe, *, num_processes: int, name: str) -> None:
    """Refuse batches that no step could be filled with, and loops whose length nothing says.

    Args:
        split: The training split.
        recipe: The loop.
        num_processes: How many train.
        name: Name of the loop, for the message.

    Raises:
        DataError: There are fewer rows than one step takes.
        RecipeError: A stream has no number of steps, or something else has one.
    """
    if isinstance(split, StreamSplit):
        if recipe.max_steps is None or recipe.max_steps % recipe.epochs:
            raise RecipeError(
                f"{name}.max_steps={recipe.max_steps}: a stream has no end. Give a number of steps that is a multiple "
                f"of {name}.epochs={recipe.epochs}, the number of evaluations."
            )
        if recipe.num_workers:
            raise RecipeError(
                f"{name}.num_workers={recipe.num_workers}: a stream is read by the process itself. Set 0."
            )
        return
    if recipe.max_steps is not None:
        raise RecipeError(
            f"{name}.max_steps={recipe.max_steps}: that is the length of a stream (data.streaming). Leave it out, and "
            f"give {name}.epochs."
        )
    if len(split) < recipe.batch_size * num_processes:
        raise DataError(
            f"{name}: {len(split)} training rows do not fill one batch of {recipe.batch_size} on {num_processes} "
            "process(es): lower batch_size."
        )


class TrainingLoop:
    """Trains the module that an objective wraps.

    Args:
        objective: A module whose `forward(**batch, step=...)` returns `{"loss": scalar, ...}`.
        split: The training split.
        recipe: The loop.
        accelerator: Prepares, synchronises and saves.
        seed: Seed of the order of the rows.
        state_dir: Where the state to resume from is kept.
        validate: Returns the validation score of the objective's module as it is (larger is better) and values to log.
        keep: Called as `keep(is_best)` after each validation, with the averaged weights in place: saves the module.
        name: Name of the loop, in the log and on the progress bar.
        signals: Says when to stop early.
        before_saving: Called before the state is written; raises where that must not be.
    """

    def __init__(
        self,
        objective: nn.Module,
        split: Split | StreamSplit,
        recipe: LoopRecipe,
        *,
        accelerator: Accelerator,
        seed: int,
        state_dir: Path,
        validate: Callable[[], tuple[float, dict[str, float]]],
        keep: Callable[[bool], None],
        name: str,
        signals: StopSignals | None = None,
        before_saving: Callable[[], None] | None = None,
    ):
        check_length(split, recipe, num_processes=accelerator.num_processes, name=name)
        self.recipe = recipe
        self.accelerator = accelerator
        self.state_dir = state_dir
        self.validate = validate
        self.keep = keep
        self.name = name
        self.signals = signals or StopSignals()
        self.before_saving = before_saving or (lambda: None)
        self.split = split
        self.plain_objective = objective
        accelerator.free_memory()  # of an earlier loop on this accelerator, and its count of accumulated batches
        accelerator.gradient_accumulation_steps = recipe.gradient_accumulation_steps
        self.loader, self.epochs = self._make_loader(seed)
        optimizer = build_optimizer(objective, recipe.optimizer)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        prepared: Any = accelerator.prepare(objective, optimizer)
        self.objective, self.optimizer = prepared
        # One step of the optimiser every so many batches, and one for what is left at the end of an epoch.
        self.steps_per_epoch = -(-len(self.loader) // recipe.gradient_accumulation_steps)
        # Not prepared: Accelerate would step it once per process, and its length is that of the run, not of the data.
        self.schedule = build_schedule(
            self.optimizer.optimizer, recipe.schedule, total_steps=self.steps_per_epoch * recipe.epochs
        )
        self.progress = Progress(batches_per_epoch=len(self.loader))
        self.stop_at: int | None = None
        self.checked_batch = self.checked_step = 0  # up to where losses are known to be finite
        self.random: RandomState | None = None  # of the state that was loaded
        self.average = None
        if recipe.ema_decay is not None:
            self.average = WeightAverage(self.parameters, decay=recipe.ema_decay)
        self.state = LoopState(
            module=objective, optimizer=self.optimizer.optimizer, schedule=self.schedule, average=self.average
        )

    def _make_loader(self, seed: int) -> tuple[Any, Any]:
        """What gives batches, and what is told of each epoch."""
        recipe, accelerator, split = self.recipe, self.accelerator, self.split
        if isinstance(split, StreamSplit):  # each process reads its own documents, so that nothing is to be prepared
            steps_per_epoch = (recipe.max_steps or 0) // recipe.epochs
            loader = split.loader(
                batch_size=recipe.batch_size,
                num_batches=steps_per_epoch * recipe.gradient_accumulation_steps,
                rank=accelerator.process_index,
                num_processes=accelerator.num_processes,
            )
            return loader, loader
        # What a cached split computes between epochs is known only to workers that start after it.
        kept = recipe.num_workers > 0 and not isinstance(split, CachedSplit)
        epochs = WithSharedEpoch(split) if kept else split
        loader = make_loader(
            epochs,
            num_workers=recipe.num_workers,
            device=accelerator.device,
            keep_workers=kept,
            batch_size=recipe.batch_size,
            sampler=SeedableRandomSampler(split, data_seed=seed),  # an order by epoch: no state to lose in a resume
            drop_last=True,
        )
        return accelerator.prepare(loader), epochs

    def run(self, *, resume: bool = False) -> Progress:
        """Train to the end of the recipe.

        Args:
            resume: Go on from the saved state; the weights then end bit-equal to an uninterrupted run's.

        Returns:
            Where the run ended.

        Raises:
            StoppedEarly: The recipe's `stop_after_steps` was reached, or a signal came.
            CheckpointError: There is no state to resume from, or it is damaged; or weights are not finite before the
                first step.
            DataError: A loss is not finite because images or labels are not.
            RecipeError: A loss or a weight is not finite, and the saved state is an earlier one; or there are other
                processes than the saved state is of.
            KeyboardInterrupt: A second signal came, or one after the last step.
            SystemExit: As KeyboardInterrupt, where the signal was SIGTERM.
        """
        if resume:
            self._load_state()
        check_start(self.plain_objective, self.name)
        self.checked_batch, self.checked_step = self.progress.batch, self.progress.step
        if self.recipe.stop_after_steps is not None:
            self.stop_at = self.progress.step + self.recipe.stop_after_steps
        first_epoch, skip = divmod(self.progress.batch, len(self.loader))
        if not skip and not self.progress.evaluated:
            first_epoch, skip = first_epoch - 1, len(self.loader)
        total = self.recipe.epochs * len(self.loader)
        bar = progress_bar(
            total=total,
            initial=self.progress.batch,
            description=self.name,
            unit=" batches",
            shown=self.accelerator.is_local_main_process,
        )
        with self.signals.deferred(), bar:
            for epoch in range(first_epoch, self.recipe.epochs):
                if skip < len(self.loader):
                    self._run_epoch(epoch, skip, bar)
                skip = 0
                self._end_epoch(epoch)
        self.signals.stop()
        return self.progress

    def _run_epoch(self, epoch: int, skip: int, bar: Bar) -> None:
        accelerator, recipe = self.accelerator, self.recipe
        self.epochs.set_epoch(epoch)
        self.loader.set_epoch(epoch)
        loader: Any = self.loader
        if isinstance(loader, StreamLoader):
            loader = loader.rest(skip)
        elif skip:
            loader = accelerator.skip_first_batches(loader, skip)
            loader.set_epoch(epoch)
        self.objective.train()
        losses, batch = {}, {}
        started = time.monotonic() - self.progress.seconds
        if skip and self.random is not None:
            self.random.restore(accelerator.device)  # this pass was begun before it was stopped
        else:
            begin_pass()
        for batch in loader:
            # The layout is that of fast convolutions.
            batch = move_batch(batch, accelerator.device, memory_format=torch.channels_last)
            with accelerator.accumulate(self.objective):
                with suited_to(accelerator.device):
                    losses = self.objective(**batch, step=self.progress.batch)
                if self.progress.batch == 0:  # while the weights are what training starts from
                    self._check_finite(losses, batch, before_step=True)
                accelerator.backward(losses["loss"])
                if accelerator.sync_gradients and recipe.clip is not None:
                    clip = accelerator.clip_grad_norm_ if recipe.clip_by == "norm" else accelerator.clip_grad_value_
                    clip(self.parameters, recipe.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.progress.batch += 1
            self.progress.evaluated = False
            self.progress.seconds = time.monotonic() - started
            bar.update()
            if not accelerator.sync_gradients:
                continue
            self.schedule.step()
            self.progress.step += 1
            if self.average:
                self.average.step(self.parameters)
            if self.progress.step % recipe.logging_steps == 0 or self.progress.step == 1:
                self._log(losses, batch, bar)
            # At the end of an epoch there is an evaluation to do first, whose result decides what is kept.
            stops = self.progress.step == self.stop_at and self.progress.batch % len(self.loader)
            if self._is_told_to_stop() or stops:
                self._check_finite(losses, batch, weights=True)
                self._stop()
        self._check_finite(losses, batch, weights=True)

    def _end_epoch(self, epoch: int) -> None:
        """What follows the last step of an epoch, but for what is left of it after a stop."""
        is_last = epoch + 1 == self.recipe.epochs
        stops = self.progress.step == self.stop_at and not is_last
        if is_last or (epoch + 1) % self.recipe.evaluate_every == 0:
            self._evaluate(epoch)
        self.progress.evaluated = True
        if stops or (self._is_told_to_stop() and not is_last):
            self._stop()
        if is_last or (epoch + 1) % self.recipe.checkpoint_every == 0:
            self.save_state()

    def _is_told_to_stop(self) -> bool:
        """Whether a signal came, on any process; all of them have to ask."""
        accelerator = self.accelerator
        if accelerator.num_processes > 1:
            if self.progress.step % _STEPS_BETWEEN_SIGNALS and self.progress.batch % len(self.loader):
                return False
            received = torch.tensor([self.signals.received or 0], device=accelerator.device)
            self.signals.received = int(accelerator.gather(received).max()) or None  # pyright: ignore
        return self.signals.received is not None

    def _stop(self) -> None:
        self.save_state()
        raise StoppedEarly(f"{self.name} stopped after {self.progress.step} steps")

    def _check_finite(
        self, losses: dict[str, Any], batch: dict[str, Any], *, weights: bool = False, before_step: bool = False
    ) -> dict[str, float]:
        """The losses of the last batch as numbers; an error that tells the cause where they, or weights, are none."""
        values = {name: value.item() for name, value in losses.items()}
        if all(map(math.isfinite, values.values())) and not (weights and find_broken(self.plain_objective)):
            self.checked_batch, self.checked_step = self.progress.batch + before_step, self.progress.step
            return values
        epoch, first = divmod(self.checked_batch, len(self.loader))
        number = self.progress.batch + before_step

        def in_full_precision() -> Any:
            objective = self.accelerator.unwrap_model(self.objective, keep_fp32_wrapper=False)
            with torch.no_grad():
                return objective(**batch, step=number - 1)

        raise explain(
            values,
            name=self.name,
            module=self.plain_objective,
            split=self.split,
            batches=[]
            if isinstance(self.loader, StreamLoader)
            else batches_between(self.loader, epoch, first, first + number - self.checked_batch),
            step=self.progress.step + before_step,
            is_first=before_step,
            checked_step=self.checked_step,
            learning_rate=self.recipe.optimizer.learning_rate,
            precision=self.accelerator.mixed_precision,
            in_full_precision=in_full_precision,
        )

    def _log(self, losses: dict[str, Any], batch: dict[str, Any], bar: Bar) -> None:
        values = self._check_finite(losses, batch)
        bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()}, refresh=False)
        rate = self.optimizer.param_groups[0]["lr"]
        self.accelerator.log(
            {f"{self.name}/{name}": value for name, value in {**values, "learning_rate": rate}.items()},
            step=self.progress.step,
        )

    def _evaluate(self, epoch: int) -> None:
        """Measure, keep and log; a signal stops it, and it is done again when the run goes on."""
        accelerator, best_score = self.accelerator, self.progress.best_score
        random = RandomState.of_now(accelerator.device)
        # Several processes have to be at one place to stop: there a signal waits for the end of the evaluation.
        stops, is_told, is_best, values = accelerator.num_processes == 1, False, False, {}
        with self.averaged_weights():
            try:
                with self.signals.undeferred() if stops else contextlib.nullcontext():
                    score, values = self.validate()
                    is_best = score > (-math.inf if best_score is None else best_score)
                    if is_best:
                        self.progress.best_score = min(score, sys.float_info.max)  # JSON knows no infinity
                    self.keep(is_best)
            except (KeyboardInterrupt, SystemExit):
                if not stops or self.signals.received is None:
                    raise
                is_told = True
        if is_told:  # only here, where the trained weights are in place again
            random.restore(accelerator.device)
            self.progress.best_score = best_score
            self._stop()
        accelerator.log(
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
        states = gather_object([RandomState.of_now(self.accelerator.device)])
        streams = None
        if isinstance(self.loader, StreamLoader):
            streams = gather_object([self.loader.state_dict()])

        def write() -> None:
            self.before_saving()
            with write_folder_beside(self.state_dir) as beside:
                self.state.save(beside, self.progress, states, streams)

        on_main(self.accelerator, write)

    def _load_state(self) -> None:
        accelerator = self.accelerator
        try:
            manifest = read_manifest(self.state_dir)
            self._check_progress(manifest)
            rank, device = accelerator.process_index, accelerator.device
            self.random = self.state.load(self.state_dir, manifest, rank=rank, device=device)
            self._load_stream(manifest, rank)
        except CheckpointError as error:
            if not os.path.lexists(self.state_dir):
                raise
            raise CheckpointError(
                f"{error} Remove {self.state_dir}, and resume=True starts {self.name} anew.",
                command=f"{error.command} Remove {self.state_dir}, and --resume starts {self.name} anew.",
            ) from error
        self.random.restore(device)
        self.progress = manifest.progress
        # How many batches of a step Accelerate has seen: it starts anew with each epoch.
        accelerator.step = self.progress.batch % len(self.loader)

    def _load_stream(self, manifest: Manifest, rank: int) -> None:
        is_stream, streams = isinstance(self.loader, StreamLoader), manifest.streams
        if is_stream != (streams is not None) or (streams is not None and len(streams) != len(manifest.random)):
            raise CheckpointError(f"{self.state_dir} is {'not ' if is_stream else ''}of a stream, unlike the recipe.")
        if streams is not None:
            self.loader.load_state_dict(streams[rank])

    def _check_progress(self, manifest: Manifest) -> None:
        progress, num_processes = manifest.progress, self.accelerator.num_processes
        before = (progress.batches_per_epoch, len(manifest.random))
        if before != (now := (len(self.loader), num_processes)):
            raise RecipeError(
                f"{self.name}: the state in {self.state_dir} was made with {before[1]} process(es) of {before[0]} "
                f"batches per epoch, but now {num_processes} process(es) have {now[0]} batches: resume with as many "
                "processes as the run was started with."
            )
        epochs, batches = divmod(progress.batch, len(self.loader))
        steps, rest = divmod(batches, self.recipe.gradient_accumulation_steps)
        is_possible = epochs + bool(batches) <= self.recipe.epochs and (progress.batch or progress.evaluated)
        if not is_possible or rest or progress.step != epochs * self.steps_per_epoch + steps:
            raise CheckpointError(
                f"{self.state_dir} is of {progress.step} steps after {progress.batch} batches, which do not fit the "
                "recipe."
            )
