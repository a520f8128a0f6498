"""One run, from a recipe to a checkpoint: reference, preparation, hypernetwork, selection."""

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import gather_object, parse_flag_from_env, set_seed
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor

from neumeta_hf.configuration_neumeta import NeuMetaConfig
from neumeta_hf.data import ImageData, ImageSplit, load_image_data
from neumeta_hf.errors import CheckpointError, NeuMetaError, RecipeError, TargetError
from neumeta_hf.evaluation import count_parameters, environment_facts, evaluate_network, parse_widths
from neumeta_hf.evaluation.budget import uniform_widths
from neumeta_hf.files import write_beside, write_folder_beside
from neumeta_hf.images import height_and_width
from neumeta_hf.modeling_neumeta import NeuMetaModel, family_class, ignore_size_warnings
from neumeta_hf.preparation import PreparationReport, prepare
from neumeta_hf.targets import TargetFamily, config_of, find_target
from neumeta_hf.tasks import Task, build_task
from neumeta_hf.training.loop import StoppedEarly, TrainingLoop, check_batch_size
from neumeta_hf.training.objectives import NeuMetaObjective, ReferenceObjective, check_losses, fit_to_reference
from neumeta_hf.training.precision import choose_precision
from neumeta_hf.training.recipe import LoopRecipe, Recipe, load_recipe
from neumeta_hf.training.sampling import SizeSampler
from neumeta_hf.training.synthesis import statistics_distance, synthesize_images
from neumeta_hf.training.tracking import JSONLTracker, check_trackers

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
    accelerator = _make_accelerator(recipe, output)
    _check_output(recipe, output, resume=resume)
    task = task_of(recipe)
    _image_processor(recipe, task)  # whether there can be one
    data = load_image_data(recipe.data)
    target = None if (output / "reference").is_dir() else _start_target(recipe, task, data)
    if target is not None:
        _check_run(recipe, task, data, config_of(target), num_processes=accelerator.num_processes)
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


def training_widths(recipe: Recipe) -> list[float]:
    """The uniform widths that a recipe trains at.

    Args:
        recipe: The run.

    Returns:
        Ratios in ascending order.
    """
    widths = recipe.sizes.widths
    return sorted(parse_widths(widths) if isinstance(widths, str) else widths)


def calibration_batches(split: ImageSplit, num_images: int, *, batch_size: int = 256) -> list[Tensor]:
    """Images as training sees them in its first epoch, augmentation included, to measure BatchNorm statistics on.

    Args:
        split: The training split.
        num_images: How many; all of them where there are fewer.
        batch_size: Images per batch, at most; batches are of equal size, but for one image, since each counts alike.

    Returns:
        Normalised batches, `[batch, channels, height, width]`.
    """
    chosen = split.with_augmentation(True).subset(min(num_images, len(split)), seed=0)
    chosen.set_epoch(0)  # whatever epoch training is in, so that a resumed run measures on the same
    num_batches = -(-len(chosen) // batch_size)
    return [
        chosen.__getitems__(part.tolist())["pixel_values"]
        for part in np.array_split(np.arange(len(chosen)), num_batches)
    ]


def task_of(recipe: Recipe) -> Task:
    """What the networks of a recipe do, with the recipe's options.

    Args:
        recipe: The run.

    Returns:
        The task of its target family.

    Raises:
        RecipeError: The task has no such option, or takes other labels than the recipe's data has.
        TargetError: There is no such target family.
    """
    task = build_task(find_target(recipe.target.family).task, recipe.task)
    if recipe.data.labels not in task.labels:
        raise RecipeError(
            f"data.labels={recipe.data.labels!r}: {task.name}, the task of the target family {recipe.target.family!r}, "
            f"needs {' or '.join(repr(kind) for kind in task.labels)}."
        )
    return task


def _make_accelerator(recipe: Recipe, output: Path) -> Accelerator:
    check_trackers(recipe.trackers)
    # Made here as Accelerator would make it, since the precision depends on the device.
    device: Any = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    precision = choose_precision(recipe.mixed_precision, device)
    # Accelerate keeps the precision of the first run for good and refuses another: forget it, as transformers does.
    if AcceleratorState._shared_state.get("_mixed_precision", precision) != precision:
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=precision,
        log_with=[*recipe.trackers, JSONLTracker(output / "log.jsonl")],  # pyright: ignore[reportArgumentType]
        project_dir=str(output),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=recipe.seed),
    )
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        # Each would believe to be alone and write over the others' files.
        raise RecipeError(
            f"the launcher started {expected} processes that do not see each other. On CPUs set "
            "ACCELERATE_USE_CPU=true and launch with --multi_gpu --num_processes N, or use torchrun."
        )
    return accelerator


def _check_output(recipe: Recipe, output: Path, *, resume: bool) -> None:
    written = output / "recipe.yaml"
    if resume and not written.is_file():
        raise CheckpointError(f"there is no run to resume in {output}: run without --resume first.")
    if not resume and output.exists() and any(output.iterdir()):
        raise RecipeError(
            f"output_dir={recipe.output_dir} is not empty: pass --resume to go on with the run in it, or name another "
            "folder."
        )
    if resume:
        changed = _differences(load_recipe(written).to_dict(), recipe.to_dict())
        # No step depends on these; what is calibrated and stored comes after the last.
        allowed = ("output_dir", "trackers", "stop_after_steps", "num_workers", "checkpoint_every", "statistics_widths")
        changed = [key for key in changed if not key.startswith("calibration.")]
        if changed := [key for key in changed if key.rpartition(".")[2] not in allowed]:
            raise RecipeError(
                f"--resume with another recipe than the run in {recipe.output_dir} was started with; different: "
                f"{', '.join(changed)}. Resume with the same recipe, or name another output_dir."
            )


def _check_run(recipe: Recipe, task: Task, data: ImageData, config: PreTrainedConfig, *, num_processes: int) -> None:
    """Refuse what could not be done after the reference, before hours are spent on it."""
    if recipe.pretrain is not None:
        check_batch_size(data.train, recipe.pretrain, num_processes=num_processes, name="pretrain")
    if recipe.train is None:
        return
    check_batch_size(data.train, recipe.train, num_processes=num_processes, name="train")
    check_losses(recipe.losses)
    model = _meta_family(recipe, task, config)
    make_sampler(recipe, model)
    statistics_widths = _statistics_widths(recipe, model)
    for key, widths in (
        ("sizes.widths", training_widths(recipe)),
        ("validation_widths", _validation_widths(recipe)),
        ("statistics_widths", statistics_widths),
    ):
        for width in widths:
            try:
                model.target_config_at(width)
            except NeuMetaError as error:
                raise type(error)(f"{key}: {error}") from error
    if model.statistic_names:
        model.config.statistics_widths = statistics_widths
        model.config.validate_neumeta()


def _meta_family(recipe: Recipe, task: Task, config: PreTrainedConfig) -> NeuMetaModel:
    """The family of a recipe before there is a reference: without values, and without the memory for them."""
    normalization = recipe.preparation.normalization
    if normalization == "fuse":
        config = find_target(recipe.target.family).fused_config(config)
    fields = {"trained_widths": training_widths(recipe), **dataclasses.asdict(recipe.family)}
    with torch.device("meta"):
        return family_class(task.name)(NeuMetaConfig(target_config=config, normalization=normalization, **fields))


def _differences(before: Any, after: Any, prefix: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = {**before, **after}
        return [key for name in keys for key in _differences(before.get(name), after.get(name), f"{prefix}{name}.")]
    return [] if before == after else [prefix.rstrip(".")]


# ---------------------------------------------------------------------------------------------------- the reference


def load_target(recipe: Recipe, label_names: Sequence[str]) -> Any:
    """The unprepared target: fresh, or from its checkpoint.

    Args:
        recipe: The run.
        label_names: Names of the data's classes; none where the task has none.

    Returns:
        The network at full size.

    Raises:
        TargetError: The family has no such config field or reads no bare weights, the checkpoint is of another family,
            has another number of classes than the data or takes other images.
        CheckpointError: The checkpoint cannot be read, or lacks weights or has too many.
    """
    target = recipe.target
    family = find_target(target.family)
    if target.checkpoint is None:
        height, width = height_and_width(recipe.data.image_size)
        shape = (recipe.data.num_channels, height, width)
        return family.build(family.make_config(target.config, image_shape=shape, label_names=label_names))
    if target.config:
        raise TargetError("target.config and target.checkpoint were both given: a checkpoint brings its own config.")
    model = family.load(target.checkpoint)
    config = config_of(model)
    if not family.accepts(config):
        raise TargetError(f"target.checkpoint is a {config.model_type}, target.family is {target.family}.")
    if label_names:
        if config.num_labels != len(label_names):
            raise TargetError(
                f"target.checkpoint tells {config.num_labels} classes apart, the data set has {len(label_names)}: "
                "fine-tune it on the data first, or choose the data that it was trained on."
            )
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
    _fit_to_images(model, family, recipe)
    return model


def _fit_to_images(model: nn.Module, family: TargetFamily, recipe: Recipe) -> None:
    """Let the config of a checkpoint say the size of the data's images, where its weights are for any size."""
    height, width = height_and_width(recipe.data.image_size)
    wanted, shape = (recipe.data.num_channels, height, width), family.image_shape(config_of(model))
    fits = shape == wanted
    if not fits and shape[0] == wanted[0]:
        family.set_image_size(model, height if height == width else [height, width])
        with torch.device("meta"):
            resized = family.build(config_of(model)).state_dict()
        shapes, before = (
            {name: tensor.shape for name, tensor in state.items()} for state in (resized, model.state_dict())
        )
        fits = shapes == before
    if not fits:
        told, asked = ("x".join(map(str, sizes)) for sizes in (shape, wanted))
        raise TargetError(
            f"target.checkpoint takes images of {told} (channels, height, width), and data.num_channels and "
            f"data.image_size give {asked}: give the checkpoint's, whose weights are for no other."
        )


def _start_target(recipe: Recipe, task: Task, data: ImageData) -> Any:
    if recipe.pretrain is None and recipe.target.checkpoint is None:
        raise RecipeError(
            "the target has neither a checkpoint nor a pretrain section: its weights would be random. Give "
            "target.checkpoint, or a pretrain section."
        )
    set_seed(recipe.seed)
    return load_target(recipe, data.label_names if task.has_classes else [])


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
        objective = NeuMetaObjective(
            model,
            reference,
            task=self.task,
            losses=recipe.losses,
            sampler=sampler,
            seed=recipe.seed,
            rank=accelerator.process_index,
            train_static=recipe.train_static,
        )
        chosen = _validation_widths(recipe)
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
            data.train,
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
            widths = _statistics_widths(recipe, model)
            batches = calibration_batches(self.data.train, recipe.statistics_images)
            model.calibrate(batches, tqdm(widths, desc="statistics"))
            if recipe.calibration.images:
                model.store_calibration_images(_calibration_images(recipe, model, batches))
        # Beside, and then file by file: the output folder may hold the family already, from before this was resumed.
        beside = self.output / "family.partial"
        shutil.rmtree(beside, ignore_errors=True)
        model.save_pretrained(beside)
        self._save_image_processor(beside)
        for file in sorted(beside.iterdir()):
            file.replace(self.output / file.name)
        beside.rmdir()


def _validation_widths(recipe: Recipe) -> list[float]:
    widths = training_widths(recipe)
    return recipe.validation_widths or sorted({widths[0], widths[len(widths) // 2], widths[-1]})


def _statistics_widths(recipe: Recipe, model: NeuMetaModel) -> list[float]:
    widths = recipe.statistics_widths
    if widths == "all":
        # Several widths round to one network; the last is the exact one where there is any.
        by_size = {}
        for width in uniform_widths(model):
            by_size[tuple(model.target_family.num_channels(model.target_config_at(width)).values())] = width
        return list(by_size.values())
    return parse_widths(widths) if isinstance(widths, str) else widths or training_widths(recipe)


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


def make_sampler(recipe: Recipe, model: NeuMetaModel, **options: Any) -> SizeSampler:
    """What draws the sizes of a recipe's training steps.

    Args:
        recipe: The run.
        model: Its family.
        **options: Of `SizeSampler`, instead of all that the recipe's `sizes` says but the widths.

    Returns:
        A sampler of the recipe's seed.

    Raises:
        RecipeError: The recipe names no widths, or a step would draw nothing.
    """
    options = options or {name: value for name, value in vars(recipe.sizes).items() if name != "widths"}
    parents = model.target_family.parents(model.reference_config)
    groups = {group: group in parents for group in model.width_groups}
    return SizeSampler(training_widths(recipe), groups=groups, is_possible=model.has_size, seed=recipe.seed, **options)


def _calibration_images(recipe: Recipe, model: NeuMetaModel, batches: list[Tensor]) -> Tensor:
    """Synthetic images for the networks of many sizes, whose statistics are measured on real ones first."""
    calibration = recipe.calibration
    num_per_group = calibration.networks - 2
    sampler = make_sampler(recipe, model, sampler="sandwich", num_random=0, num_per_group=num_per_group)
    sizes = tqdm(sampler.draw(0), desc="calibration networks")
    networks = [model.morph(size, calibration=batches) for size in sizes]
    images = synthesize_images(
        networks,
        model.target_family.image_shape(model.reference_config),
        num_images=calibration.images,
        steps=calibration.steps,
        learning_rate=calibration.learning_rate,
        seed=recipe.seed,
        progress=tqdm(range(calibration.steps), desc="calibration images"),
    )
    with torch.no_grad():
        distance = statistics_distance(networks[-1], images).item()
    logger.info("calibration images: squared distance of the statistics %.4f at the last size", distance)
    return images
