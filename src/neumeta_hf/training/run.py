"""One run, from a recipe to a checkpoint: reference, preparation, hypernetwork, selection."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import Tensor, nn
from tqdm import tqdm
from transformers.image_processing_utils import BaseImageProcessor

from neumeta_hf.data import ImageData, ImageSplit, load_image_data
from neumeta_hf.errors import RecipeError
from neumeta_hf.evaluation import count_parameters, environment_facts, evaluate_network
from neumeta_hf.files import write_beside, write_folder_beside
from neumeta_hf.modeling_neumeta import NeuMetaModel, family_class, ignore_size_warnings
from neumeta_hf.preparation import PreparationReport, prepare
from neumeta_hf.targets import TargetFamily, config_of, find_target
from neumeta_hf.tasks import Task
from neumeta_hf.training.checks import check_output, check_run
from neumeta_hf.training.loop import StoppedEarly, TrainingLoop
from neumeta_hf.training.objectives import NeuMetaObjective, ReferenceObjective, fit_to_reference
from neumeta_hf.training.processes import make_accelerator
from neumeta_hf.training.recipe import LoopRecipe, Recipe
from neumeta_hf.training.reference import start_target, task_of
from neumeta_hf.training.sampling import make_sampler, training_widths, validation_widths
from neumeta_hf.training.static_cache import Boundary, CachedSplit, find_boundary
from neumeta_hf.training.statistics import calibration_batches, calibration_images, statistics_widths

logger = logging.getLogger(__name__)


def train(recipe: Recipe, *, resume: bool = False) -> Path | None:
    """Run a recipe.

    The output folder then holds the family (the best on the validation split; `NeuMetaModel.from_pretrained` takes the
    folder), the image processor where the task has one, `recipe.yaml`, `training.json`, `log.jsonl`, and the folders
    `reference` (the prepared network, a plain model), `last` (the family after the last step) and `state` (to resume
    from). Of a recipe whose `train` is None there is the reference alone.

    Args:
        recipe: The run.
        resume: Go on with the run in the output folder; it ends bit-equal to one that was never interrupted.

    Returns:
        The output folder, or None where the run stopped at `stop_after_steps`.

    Raises:
        RecipeError: The output folder holds another run, a tracker is missing, the processes do not see each other, or
            the data has other labels than the task needs.
        CheckpointError: There is nothing to resume.
        DataError: The data cannot be read as the recipe says.
        TargetError: The target's config or checkpoint does not fit.
        HypernetworkError: The hypernetwork is unknown, or an option of it.
        SizeError: The family has no network of a width that the recipe names.
        PreparationError: Preparation would change the reference's function.
    """
    output = Path(recipe.output_dir)
    accelerator = make_accelerator(recipe, output)
    check_output(recipe, output, resume=resume)
    task = task_of(recipe)
    _image_processor(recipe, task)  # whether there can be one
    data = load_image_data(recipe.data)
    target = None if (output / "reference").is_dir() else start_target(recipe, task, data)
    if target is not None:
        check_run(recipe, task, data, config_of(target), num_processes=accelerator.num_processes)
    accelerator.wait_for_everyone()  # all have looked before one writes
    # Only now: data or a target that cannot be read must not leave half a run behind.
    if accelerator.is_main_process and not resume:
        output.mkdir(parents=True, exist_ok=True)
        (output / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False), encoding="utf-8")
    accelerator.init_trackers("neumeta", config={} if resume else {"recipe": json.dumps(recipe.to_dict())})
    try:
        run = _Run(recipe, task, data, output, resume=resume, accelerator=accelerator)
        reference, report, seconds = run.make_reference(target)
        model = None
        if recipe.train is not None:
            model, seconds["train"] = run.train_family(recipe.train, reference, report)
    except StoppedEarly as stop:
        logger.warning("%s", stop)
        accelerator.end_training()
        return None
    if accelerator.is_main_process:
        run.write_result(reference, model, seconds)
    accelerator.wait_for_everyone()  # before the end, which takes the processes' connection down
    accelerator.end_training()
    return output


# ---------------------------------------------------------------------------------------------------- the reference


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the parts of a run share."""

    recipe: Recipe
    task: Task
    data: ImageData
    output: Path
    resume: bool
    accelerator: Accelerator

    @property
    def family(self) -> TargetFamily:
        return find_target(self.recipe.target.family)

    def evaluate(self, network: nn.Module, loop: LoopRecipe) -> dict[str, float]:
        """Scores on the validation split, loaded as the loop loads; all that are no number of images."""
        scores = evaluate_network(
            network,
            self.data.validation,
            task=self.task,
            family=self.family,
            device=self.accelerator.device,
            num_workers=loop.num_workers,
        )
        return {name: value for name, value in scores.items() if name != "num_samples"}

    def score(self, scores: Mapping[str, float]) -> float:
        """What selection looks at, larger being better."""
        first = self.task.scores[0]
        return scores[first.name] if first.larger_is_better else -scores[first.name]

    # ------------------------------------------------------------------------------------------------ the reference

    def make_reference(self, target: nn.Module | None) -> tuple[nn.Module, PreparationReport, dict[str, float]]:
        """The prepared reference and the seconds of its steps; a target that is None stands for one made before."""
        recipe, accelerator = self.recipe, self.accelerator
        folder = self.output / "reference"
        if target is not None:
            trained: Any = target
            seconds = {}
            if recipe.pretrain is not None:
                trained, seconds["pretrain"] = self._pretrain(recipe.pretrain, target)
            if accelerator.is_main_process:
                prepared, report = prepare(
                    trained.cpu().float().eval(),
                    normalization=recipe.preparation.normalization,
                    order=recipe.preparation.order,
                    seed=recipe.seed,
                )
                with write_folder_beside(folder) as beside:
                    prepared.save_pretrained(beside)
                    self._save_image_processor(beside)
                    (beside / "preparation.json").write_text(
                        json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8"
                    )
                    (beside / "seconds.json").write_text(json.dumps(seconds) + "\n", encoding="utf-8")
            accelerator.wait_for_everyone()
        reference = self.family.load(str(folder)).to(accelerator.device).eval()
        report = PreparationReport.from_dict(json.loads((folder / "preparation.json").read_text(encoding="utf-8")))
        logger.info("reference: total variation %.1f before preparation, %.1f after", report.tv_before, report.tv_after)
        written = folder / "seconds.json"
        return reference, report, json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}

    def _pretrain(self, loop: LoopRecipe, target: nn.Module) -> tuple[nn.Module, float]:
        accelerator = self.accelerator
        best, state = self.output / "pretrained", self.output / "state-pretrain"
        objective = ReferenceObjective(target.train(), self.task, seed=self.recipe.seed, rank=accelerator.process_index)

        def validate() -> tuple[float, dict[str, float]]:
            mine = self.evaluate(target, loop) if accelerator.is_main_process else {}
            values = next(entry for entry in gather_object([mine]) if entry)
            return self.score(values), values

        def keep(is_best: bool) -> None:
            if is_best and accelerator.is_main_process:
                _save_beside(target, best)
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
        )
        progress = training.run(resume=self.resume and state.is_dir())
        accelerator.wait_for_everyone()
        return self.family.load(str(best)), progress.seconds

    def _save_image_processor(self, folder: Path) -> None:
        processor = _image_processor(self.recipe, self.task)
        if processor is not None:
            processor.save_pretrained(folder)

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
            preparation=report.to_dict(),
            **dataclasses.asdict(recipe.family),
        )
        state = self.output / "state"
        resume = self.resume and state.is_dir()
        if recipe.fit.steps and not resume:
            bar = tqdm(range(recipe.fit.steps), desc="fit", disable=not accelerator.is_local_main_process)
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
        sampler = make_sampler(recipe, model)
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
        chosen = validation_widths(recipe)
        batches = None
        if model.statistic_names:
            batches = calibration_batches(data.train, min(recipe.statistics_images, 1024))
        first = self.task.scores[0].name

        def validate() -> tuple[float, dict[str, float]]:
            mine = {}
            for width in chosen[accelerator.process_index :: accelerator.num_processes]:
                with ignore_size_warnings():
                    morph = model.morph(width, num_samples=recipe.num_samples, calibration=batches)
                mine[f"{first}@{width:g}"] = self.evaluate(morph, loop)[first]
            values = {name: score for part in gather_object([mine]) for name, score in part.items()}
            mean = {first: sum(values.values()) / len(values)}
            return self.score(mean), {**mean, **values}

        def keep(is_best: bool) -> None:
            if accelerator.is_main_process:
                for folder in ("best", "last") if is_best else ("last",):
                    _save_beside(model, self.output / folder)

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
        )
        progress = training.run(resume=resume)
        accelerator.wait_for_everyone()
        best: Any = cls.from_pretrained(self.output / "best")
        return best.to(accelerator.device), progress.seconds

    def _with_static_outputs(self, model: NeuMetaModel, reference: nn.Module) -> tuple[ImageSplit, Boundary | None]:
        """The training split, with what the static part puts out where the recipe asks for it."""
        cache, split = self.recipe.static_cache, self.data.train
        if not cache.augmentations:
            return split, None
        images = split.__getitems__([0, 1])["pixel_values"].to(self.accelerator.device)
        boundary = None if self.recipe.train_static else find_boundary(model, reference, images)
        if boundary is None:
            raise RecipeError(
                "static_cache.augmentations: no static part before the generated one is the same at every step. "
                "Generate a block (family.generated) and leave train_static out, or set augmentations to 0."
            )

        def run(images: Tensor) -> Any:
            with self.accelerator.autocast():
                return model.target_family.forward(reference, images.to(self.accelerator.device))

        cached = CachedSplit(
            split,
            boundary,
            run=run,
            reference=reference,
            num_augmentations=cache.augmentations,
            max_gigabytes=cache.max_gigabytes,
        )
        return cached, boundary

    # ------------------------------------------------------------------------------------------------ the result

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
        with write_beside(self.output / "training.json") as beside:
            beside.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    def _save_family(self, model: NeuMetaModel) -> None:
        recipe = self.recipe
        if model.statistic_names:
            widths = statistics_widths(recipe, model)
            batches = calibration_batches(self.data.train, recipe.statistics_images)
            model.calibrate(batches, tqdm(widths, desc="statistics"))
            if recipe.calibration.images:
                model.store_calibration_images(calibration_images(recipe, model, batches))
        # Beside, and then file by file: the output folder may hold the family already, from before this was resumed.
        beside = self.output / "family.partial"
        shutil.rmtree(beside, ignore_errors=True)
        model.save_pretrained(beside)
        self._save_image_processor(beside)
        for file in sorted(beside.iterdir()):
            file.replace(self.output / file.name)
        beside.rmdir()


def _image_processor(recipe: Recipe, task: Task) -> BaseImageProcessor | None:
    data = recipe.data
    return task.make_image_processor(
        num_channels=data.num_channels,
        image_size=data.image_size,
        mean=list(data.mean),
        std=list(data.std),
        center_crop=data.center_crop,
    )


def _save_beside(model: Any, folder: Path) -> None:
    with write_folder_beside(folder) as beside:
        model.save_pretrained(beside)
