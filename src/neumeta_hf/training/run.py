"""One run, from a recipe to a checkpoint: reference, preparation, hypernetwork, selection."""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader

from neumeta_hf.batches import Batch, move_batch
from neumeta_hf.checkpoints import save_network
from neumeta_hf.data import Data, Split, StreamSplit, generated_data, load_data, make_preprocessor, write_texts
from neumeta_hf.data.config import GENERATED
from neumeta_hf.errors import CheckpointError, DataError, RecipeError
from neumeta_hf.evaluation import count_parameters, environment_facts, evaluate_network, make_evaluation_loader
from neumeta_hf.family_sizes import ignore_size_warnings
from neumeta_hf.files import write_beside, write_files_beside, write_folder_beside
from neumeta_hf.kinds import AMOUNT
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.modeling_tasks import family_class
from neumeta_hf.preparation import PreparationReport, prepare, rank_blocks
from neumeta_hf.progress import progress_bar
from neumeta_hf.reading import find_file, find_folder, read_json
from neumeta_hf.recomputing import recompute_layers
from neumeta_hf.targets import TargetFamily, config_of, find_target, load_config
from neumeta_hf.tasks import Task
from neumeta_hf.training.agreement import resolve_recipe
from neumeta_hf.training.checks import check_data, check_output, check_run, recipe_text
from neumeta_hf.training.loop import StoppedEarly, TrainingLoop
from neumeta_hf.training.objectives import NeuMetaObjective, ReferenceObjective, fit_to_reference
from neumeta_hf.training.processes import make_accelerator, on_main, share
from neumeta_hf.training.recipe import LoopRecipe, Recipe
from neumeta_hf.training.reference import load_checkpoint, match_labels, start_target, task_of
from neumeta_hf.training.run_folder import (
    BEST,
    FACTS,
    FAMILY,
    LAST,
    PRETRAIN_STATE,
    PRETRAINED,
    RECIPE,
    REFERENCE,
    STATE,
    locked,
    remove_state,
    tidy_up,
    what_is_left,
)
from neumeta_hf.training.sampling import make_sampler, training_depths, training_widths, validation_widths
from neumeta_hf.training.signals import StopSignals
from neumeta_hf.training.silence import check_silence
from neumeta_hf.training.static_cache import Boundary, CachedSplit, find_boundary
from neumeta_hf.training.statistics import calibration_batches, images_of, store_statistics
from neumeta_hf.training.step_cost import estimate_step
from neumeta_hf.widths import format_size

logger = logging.getLogger(__name__)


def train(recipe: Recipe, *, resume: bool = False, go_on: str = "train(recipe, resume=True)") -> Path | None:
    """Run a recipe.

    The output folder then holds the family that was best on the validation split; `NeuMetaModel.from_pretrained` takes
    the folder. Beside it lie `recipe.yaml`, `training.json`, `log.jsonl`, and an image processor or tokenizer where
    there is one. The folder `reference` has the prepared network, `last` the family after the last step, and `state`
    what a run resumes from. With `keep_state: false` the last two are removed in the end. A recipe whose `train` is
    None leaves the reference alone.

    What the recipe leaves open is taken from its checkpoint, else it has a default; `recipe.yaml` says all of it.

    While it runs in the main thread, Ctrl-C and SIGTERM end it after the step that is under way, its state written.

    Args:
        recipe: The run.
        resume: Go on with the run in the output folder; it ends bit-equal to one that was never interrupted.
        go_on: How to resume a run, for the message of a run that was stopped.

    Returns:
        The output folder, or None where the run stopped at `stop_after_steps`.

    Raises:
        RecipeError: The output folder holds another run, or one is going on in it. A tracker is missing, or the
            processes do not see each other. The data has other labels than the task needs, or recipe and checkpoint
            disagree on images. The generated weights ended without any effect.
        CheckpointError: There is nothing to resume, or the state is damaged.
        DataError: The data cannot be read as the recipe says.
        TargetError: The target's config or checkpoint does not fit, or it tells other classes apart than the data has.
        HubError: What a repo says beside its checkpoint cannot be read.
        HypernetworkError: The hypernetwork is unknown, or an option of it.
        SizeError: The family has no network of a width that the recipe names.
        PreparationError: Preparation would change the reference's function.
        OSError: The disk is full, or the output folder cannot be written to; what was there is as it was.
        KeyboardInterrupt: The run was stopped by Ctrl-C.
        SystemExit: The run was stopped by SIGTERM; its code is 143.
    """
    output = Path(recipe.output_dir)
    accelerator = make_accelerator(recipe, output)
    with StopSignals() as signals:
        try:
            return _train(recipe, output, accelerator, signals, resume=resume)
        except StoppedEarly as stop:
            if accelerator.is_main_process:
                logger.warning("%s; %s goes on from there.", stop, go_on)
        except (KeyboardInterrupt, SystemExit):
            if signals.received is not None and accelerator.is_main_process:
                left = what_is_left(output)
                advice = "nothing was written, start it again" if left is None else f"{go_on} goes on from {left}"
                logger.warning("stopped by %s; %s.", signals.name, advice)
            raise
        accelerator.end_training()
        signals.stop()
    return None


def _train(recipe: Recipe, output: Path, accelerator: Accelerator, signals: StopSignals, *, resume: bool) -> Path:
    with contextlib.ExitStack() as stack:

        def before_saving() -> None:
            """Nothing to check: another process than the main one saves nothing."""

        def open_folder() -> Recipe:
            nonlocal before_saving
            before_saving = stack.enter_context(locked(output))
            continued = check_output(recipe, output, resume=resume)
            tidy_up(output)
            return continued

        recipe = on_main(accelerator, open_folder)
        task = task_of(recipe)
        made = find_folder(output, REFERENCE)
        checkpoint = None if made else load_checkpoint(recipe)
        if not resume:
            recipe = resolve_recipe(recipe, checkpoint)
        source = str(made) if made else recipe.target.checkpoint
        preprocessor = make_preprocessor(recipe.data, task, source, prefer_source=made is not None)
        texts = None
        if recipe.data.dataset == GENERATED and task.modality == "text":
            texts = on_main(accelerator, lambda: _texts(recipe, output, checkpoint, preprocessor, accelerator))
        data = load_data(generated_data(recipe.data, task, texts or output), task, preprocessor)
        target: Any = None if made else start_target(recipe, task, data, checkpoint, preprocessor)
        if task.has_classes:
            data = match_labels(data, load_config(str(made)) if made else config_of(target))
        if target is not None:
            check_data(recipe, task, data)
            check_run(recipe, task, data, config_of(target), num_processes=accelerator.num_processes)
        accelerator.wait_for_everyone()  # all have looked before one writes
        # Only now: data or a target that cannot be read must not leave half a run behind.
        if not resume:
            on_main(accelerator, lambda: _write(output / RECIPE, recipe_text(recipe)))
        if texts not in (None, output):
            on_main(accelerator, lambda: _copy(texts / GENERATED, output / GENERATED))
        accelerator.init_trackers("neumeta", config={} if resume else {"recipe": json.dumps(recipe.to_dict())})
        run = _Run(recipe, task, data, preprocessor, output, resume, accelerator, signals, before_saving)
        reference, report, seconds = run.make_reference(target)
        model = None
        if recipe.train is not None:
            model, seconds["train"] = run.train_family(recipe.train, reference, report)
            if model.statistic_names:
                store_statistics(recipe, model, images_of(data.train, recipe.statistics_images), accelerator)
        on_main(accelerator, lambda: run.write_result(reference, model, seconds))
        accelerator.end_training()  # after all have waited, since it takes the processes' connection down
        return output


# ---------------------------------------------------------------------------------------------------- the reference


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the parts of a run share."""

    recipe: Recipe
    task: Task
    data: Data
    preprocessor: Any
    output: Path
    resume: bool
    accelerator: Accelerator
    signals: StopSignals
    before_saving: Callable[[], None]

    @property
    def family(self) -> TargetFamily:
        return find_target(self.recipe.target.family)

    def validation_loader(self, loop: LoopRecipe) -> DataLoader:
        """Loads the validation split with as many processes as the loop has, and keeps them."""
        return make_evaluation_loader(
            self.data.validation, num_workers=loop.num_workers, device=self.accelerator.device
        )

    def evaluate(self, network: nn.Module, loader: DataLoader) -> dict[str, float]:
        """Compute the scores on the validation split, without the sample count."""
        scores = evaluate_network(
            network,
            self.data.validation,
            task=self.task,
            family=self.family,
            device=self.accelerator.device,
            loader=loader,
        )
        return {name: value for name, value in scores.items() if name != "num_samples"}

    def _made(self, name: str) -> Path:
        """What the run has made before, perhaps on another machine and before it was resumed."""
        find = find_file if "." in name else find_folder
        if (path := find(self.output, name)) is None:
            raise CheckpointError(f"{self.output} holds no {name}: start the run anew, in another folder.")
        return path

    def score(self, scores: Mapping[str, float]) -> float:
        """What selection looks at, larger being better."""
        first = self.task.scores[0]
        return scores[first.name] if first.larger_is_better else -scores[first.name]

    # ------------------------------------------------------------------------------------------------ the reference

    def make_reference(self, target: nn.Module | None) -> tuple[nn.Module, PreparationReport, dict[str, float]]:
        """The prepared reference and the seconds of its steps; a target that is None stands for one made before."""
        recipe, accelerator = self.recipe, self.accelerator
        folder = self.output / REFERENCE
        if target is not None:
            trained: Any = target
            seconds = {}
            if recipe.pretrain is not None:
                trained, seconds["pretrain"] = self._pretrain(recipe.pretrain, target)
            on_main(accelerator, lambda: self._write_reference(trained, seconds))
        reference = self.family.load(str(self._made(REFERENCE))).to(accelerator.device).eval()
        report = PreparationReport.from_dict(read_json(self._made(f"{REFERENCE}/preparation.json")))
        logger.info("reference: total variation %.1f before preparation, %.1f after", report.tv_before, report.tv_after)
        return reference, report, _read_seconds(find_file(folder, "seconds.json"))

    def _write_reference(self, trained: Any, seconds: Mapping[str, float]) -> None:
        recipe = self.recipe
        prepared, report = prepare(
            trained.cpu().float().eval(),
            normalization=recipe.preparation.normalization,
            order=recipe.preparation.order,
            seed=recipe.seed,
            batch=self._sample("cpu") if recipe.preparation.order == "activations" else None,
        )
        self.before_saving()
        with write_folder_beside(self.output / REFERENCE) as beside:
            save_network(prepared, beside)
            self._save_preprocessor(beside)
            (beside / "preparation.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
            (beside / "seconds.json").write_text(json.dumps(seconds) + "\n", encoding="utf-8")

    def _pretrain(self, loop: LoopRecipe, target: nn.Module) -> tuple[nn.Module, float]:
        accelerator = self.accelerator
        best, state = self.output / PRETRAINED, self.output / PRETRAIN_STATE
        loader = self.validation_loader(loop)
        if loop.gradient_checkpointing and not recompute_layers(target):
            raise RecipeError("pretrain.gradient_checkpointing: the target's layers cannot run again. Set it to false.")
        objective = ReferenceObjective(target.train(), self.task, seed=self.recipe.seed, rank=accelerator.process_index)

        def validate() -> tuple[float, dict[str, float]]:
            values = on_main(accelerator, lambda: self.evaluate(target, loader))
            return self.score(values), values

        def keep(is_best: bool) -> None:
            if is_best:
                on_main(accelerator, lambda: self._save(target, best))
            target.train()

        training = TrainingLoop(
            objective,
            self.data.train,
            loop,
            accelerator=accelerator,
            seed=self.recipe.seed,
            state_dir=state,
            validate=validate,
            keep=keep,
            name="pretrain",
            signals=self.signals,
            before_saving=self.before_saving,
        )
        progress = training.run(resume=self.resume and os.path.lexists(state))
        return self.family.load(str(self._made(PRETRAINED))), progress.seconds

    def _save_preprocessor(self, folder: Path) -> None:
        if self.preprocessor is not None:
            self.preprocessor.save_pretrained(folder)

    # ------------------------------------------------------------------------------------------------ the family

    def train_family(
        self, loop: LoopRecipe, reference: nn.Module, report: PreparationReport
    ) -> tuple[NeuMetaModel, float]:
        """The best family on the validation split, and the seconds of its steps."""
        recipe, accelerator, data = self.recipe, self.accelerator, self.data
        set_seed(recipe.seed)
        cls = family_class(self.task.name)
        model = cls.from_reference(
            reference,
            normalization=recipe.preparation.normalization,
            trained_widths=training_widths(recipe),
            trained_depths=training_depths(recipe),
            block_ranking=self._rank_blocks(reference),
            preparation=report.to_dict(),
            **dataclasses.asdict(recipe.family),
        )
        state = self.output / STATE
        resume = self.resume and os.path.lexists(state)
        if recipe.fit.steps and not resume:
            bar = progress_bar(range(recipe.fit.steps), description="fit", shown=accelerator.is_local_main_process)
            error = fit_to_reference(
                model,
                reference,
                steps=recipe.fit.steps,
                learning_rate=recipe.fit.learning_rate,
                seed=recipe.seed,
                progress=bar,  # pyright: ignore[reportArgumentType]
            )
            logger.info("fit: relative error of the generated weights %.4f", error)
            accelerator.log({"fit/relative_error": error}, step=0)
        if loop.gradient_checkpointing:
            model.recompute_layers()
        sampler = make_sampler(recipe, model)
        logger.info("%s", estimate_step(model, sampler, loop, distills=recipe.losses.distillation > 0))
        split, boundary = self._with_static_outputs(model, reference)
        objective = NeuMetaObjective(
            model,
            reference,
            task=self.task,
            losses=recipe.losses,
            sampler=sampler,
            seed=recipe.seed,
            rank=accelerator.process_index,
            train_static=recipe.train_static,
            boundary=boundary,
        )
        depths = training_depths(recipe)
        chosen = [(width, depth) for depth in sorted({depths[0], depths[-1]}) for width in validation_widths(recipe)]
        loader = self.validation_loader(loop)
        batches = None
        if model.statistic_names:
            num_images = min(recipe.statistics_images, 1024)
            batches = calibration_batches(images_of(data.train, num_images), num_images)
        first = self.task.scores[0].name

        def measure(width: float, depth: float) -> float:
            with ignore_size_warnings():
                morph = model.morph(width, depth=depth, num_samples=recipe.num_samples, calibration=batches)
            return self.evaluate(morph, loader)[first]

        def validate() -> tuple[float, dict[str, float]]:
            scores = share(accelerator, chosen, lambda mine: [measure(*size) for size in mine])
            values = {f"{first}@{format_size(*size)}": score for size, score in zip(chosen, scores, strict=True)}
            mean = {first: sum(values.values()) / len(values)}
            return self.score(mean), {**mean, **values}

        def keep(is_best: bool) -> None:
            for folder in (BEST, LAST) if is_best else (LAST,):
                on_main(accelerator, lambda folder=folder: self._save(model, self.output / folder))

        training = TrainingLoop(
            objective,
            split,
            loop,
            accelerator=accelerator,
            seed=recipe.seed,
            state_dir=state,
            validate=validate,
            keep=keep,
            name="train",
            signals=self.signals,
            before_saving=self.before_saving,
        )
        progress = training.run(resume=resume)
        best: Any = cls.from_pretrained(self._made(BEST))
        best.to(accelerator.device)
        widths = training_widths(recipe)
        batch = move_batch(data.train.sample(8), accelerator.device)
        check_silence(best, reference, batch, (min(widths), max(widths)))
        return best, progress.seconds

    def _rank_blocks(self, reference: nn.Module) -> dict[str, list[int]] | None:
        """The order in which sizes leave blocks out, where the recipe has any do so."""
        if min(training_depths(self.recipe)) == 1:
            return None
        family, config = find_target(config_of(reference)), config_of(reference)
        ranking = rank_blocks(reference, family.space(config), self._sample(self.accelerator.device))
        logger.info("blocks by how much the output changes without them: %s", ranking)
        return ranking

    def _sample(self, device: Any) -> Batch:
        """A few hundred training samples, as the target takes them."""
        return move_batch(self.family.inputs_of(self.data.train.sample(256)), device)

    def _with_static_outputs(
        self, model: NeuMetaModel, reference: nn.Module
    ) -> tuple[Split | StreamSplit, Boundary | None]:
        """The training split, with what the static part puts out where the recipe asks for it."""
        cache, split = self.recipe.static_cache, self.data.train
        if not cache.augmentations:
            return split, None
        images = images_of(split, 2)
        batch = move_batch(images.__getitems__([0, 1]), self.accelerator.device)
        boundary = None if self.recipe.train_static else find_boundary(model, reference, batch)
        if boundary is None:
            raise RecipeError(
                "static_cache.augmentations: no static part before the generated one is the same at every step. "
                "Generate a block (family.generated) and leave train_static out, or set augmentations to 0."
            )

        def run(batch: Batch) -> Any:
            with self.accelerator.autocast():
                return model.target_family.forward(reference, move_batch(batch, self.accelerator.device))

        cached = CachedSplit(
            images,
            boundary,
            run=run,
            reference=reference,
            num_augmentations=cache.augmentations,
            max_gigabytes=cache.max_gigabytes,
        )
        return cached, boundary

    # ------------------------------------------------------------------------------------------------ the result

    def _save(self, model: Any, folder: Path) -> None:
        self.before_saving()
        with write_folder_beside(folder) as beside:
            if isinstance(model, NeuMetaModel):
                model.save_pretrained(beside)  # its config has a checksum
            else:
                save_network(model, beside)
            self._save_preprocessor(beside)

    def write_result(self, reference: nn.Module, model: NeuMetaModel | None, seconds: Mapping[str, float]) -> None:
        """Save the family, if there is one, and the facts of the run."""
        num_parameters = {"reference": count_parameters(reference)}
        if model is not None:
            self._save_family(model)
            num_parameters["hypernetwork"] = count_parameters(model.hypernetwork)
            num_parameters["generated"] = model.num_generated_parameters
        facts = {
            "environment": environment_facts(self.accelerator.device),
            "seconds": {loop: round(value, 3) for loop, value in seconds.items()},
            "seed": self.recipe.seed,
            "mixed_precision": self.accelerator.mixed_precision,
            "num_parameters": num_parameters,
        }
        _write(self.output / FACTS, json.dumps(facts, indent=1) + "\n")
        if not self.recipe.keep_state:
            self.before_saving()
            remove_state(self.output)

    def _save_family(self, model: NeuMetaModel) -> None:
        # The output folder may hold the family already, from before this was resumed: of a half-replaced one, the
        # checksum in its config is not that of its weights, and resuming once more mends it.
        self.before_saving()
        with self.signals.deferred(), write_files_beside(self.output, FAMILY) as beside:
            model.save_pretrained(beside)
            self._save_preprocessor(beside)


def _read_seconds(path: Path | None) -> dict[str, float]:
    """What the steps before the reference took; a run that took its network as it is has written none."""
    seconds = {} if path is None else read_json(path)
    if not all(AMOUNT.holds(value) for value in seconds.values()):
        raise CheckpointError(f"{path} does not hold seconds: each must be {AMOUNT.rule}. Start the run anew.")
    return seconds


def _texts(recipe: Recipe, output: Path, checkpoint: Any, tokenizer: Any, accelerator: Accelerator) -> Path:
    """Where the folder of the text lies that the target writes; in the run's own folder once there is a run."""
    if find_folder(output, GENERATED) is not None:
        return output
    if checkpoint is None:
        raise DataError(
            "data.dataset=generated: a trained language model writes the text. Name it with target.checkpoint, or name "
            "a data set of texts."
        )
    return write_texts(checkpoint, tokenizer, recipe.data, device=accelerator.device)


def _copy(folder: Path, place: Path) -> None:
    with write_folder_beside(place) as beside:
        shutil.copytree(folder, beside, dirs_exist_ok=True)


def _write(path: Path, text: str) -> None:
    with write_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")
