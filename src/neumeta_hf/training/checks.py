"""What a run refuses before it writes anything: a folder in use, another recipe, steps that cannot be."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedConfig

from neumeta_hf.configuration_neumeta import NeuMetaConfig
from neumeta_hf.data import Data, ImageData, ImageSplit, StreamSplit, check_classes
from neumeta_hf.errors import CheckpointError, DataError, NeuMetaError, RecipeError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.modeling_tasks import family_class
from neumeta_hf.reading import find_file
from neumeta_hf.targets import find_target
from neumeta_hf.tasks import Task
from neumeta_hf.training.agreement import continue_recipe
from neumeta_hf.training.loop import check_length
from neumeta_hf.training.objectives import check_losses
from neumeta_hf.training.recipe import Recipe, load_recipe
from neumeta_hf.training.run_folder import LOG, RECIPE, is_finished, leftovers
from neumeta_hf.training.sampling import make_sampler, training_depths, training_widths, validation_widths
from neumeta_hf.training.statistics import draw_calibration_sizes, resolve_calibration, statistics_widths

logger = logging.getLogger(__name__)


def check_output(recipe: Recipe, output: Path, *, resume: bool) -> Recipe:
    """Refuse an output folder that holds another run, or none to go on with.

    A run that ended before it had a state may be started again without `resume`, with another recipe as well.

    Args:
        recipe: The run.
        output: Its folder.
        resume: Whether the run goes on.

    Returns:
        The recipe; of a run that goes on with what it leaves open as the run has it.

    Raises:
        CheckpointError: There is no run to resume, or the folder holds a link.
        RecipeError: The folder is in use, its run has another recipe, or it has ended and its state was removed.
    """
    written = find_file(output, RECIPE)
    if resume and written is None:
        raise CheckpointError(
            f"there is no run to resume in {output}: run with resume=False first.",
            command=f"there is no run to resume in {output}: run without --resume first.",
        )
    if not output.exists():
        return recipe
    names = {entry.name for entry in output.iterdir()} - leftovers()
    if not resume and names and not (names <= {RECIPE, LOG} and _is_written_by_a_run(written)):
        advice = "to go on with the run in it, or name another folder."
        raise RecipeError(
            f"output_dir={recipe.output_dir} is not empty: pass resume=True {advice}",
            command=f"output_dir={recipe.output_dir} is not empty: pass --resume {advice}",
        )
    for name in sorted(names):
        if (output / name).is_symlink():
            raise CheckpointError(
                f"{output / name} is a link: a run reads and writes nothing through links, which may lead anywhere. "
                "Remove it, or put what it points to in its place."
            )
    if resume and is_finished(output):
        raise RecipeError(
            f"the run in {output} has ended, and its state was removed (as keep_state: false does), so there is "
            "nothing to resume. To train anew, name another output_dir."
        )
    if resume:
        before = load_recipe(written)
        recipe = continue_recipe(recipe, before)
        changed = _differences(continue_recipe(before, before).to_dict(), recipe.to_dict())
        # No step depends on these; what is calibrated and stored comes after the last.
        allowed = ("output_dir", "trackers", "stop_after_steps", "num_workers", "checkpoint_every", "statistics_widths")
        allowed += ("max_image_pixels", "logging_steps", "keep_state")
        changed = [key for key in changed if not key.startswith("calibration.")]
        if changed := [key for key in changed if key.rpartition(".")[2] not in allowed]:
            problem = (
                f"with another recipe than the run in {recipe.output_dir} was started with; different: "
                f"{', '.join(changed)}. Resume with the same recipe, or name another output_dir."
            )
            raise RecipeError(f"resume=True {problem}", command=f"--resume {problem}")
    return recipe


def recipe_text(recipe: Recipe) -> str:
    """Write a recipe in the form in which a run saves it.

    Args:
        recipe: The run.

    Returns:
        YAML of every key.
    """
    return yaml.safe_dump(recipe.to_dict(), sort_keys=False)


def _is_written_by_a_run(path: Path | None) -> bool:
    """Whether a recipe has nothing of its author's to lose: it is the very text that a run writes."""
    try:
        return path is not None and path.read_text(encoding="utf-8") == recipe_text(load_recipe(path))
    except (OSError, UnicodeDecodeError, RecipeError):
        return False


def check_data(recipe: Recipe, task: Task, data: Data) -> None:
    """Refuse data that nothing could be learned or selected from, before anything is trained.

    Args:
        recipe: The run.
        task: What its networks do.
        data: The data set.

    Raises:
        DataError: Naming the key of the recipe, and counts.
    """
    if (recipe.pretrain or recipe.train) and len(data.validation) == 0:
        num_rows = 0 if isinstance(data.train, StreamSplit) else len(data.train)
        raise DataError(
            f"data.validation_fraction={recipe.data.validation_fraction} of {num_rows} training rows leaves no row "
            "for validation, by which training keeps its best weights: give about "
            f"{max(0.1, 1 / max(num_rows, 1)):.2g}, or name data.validation_split."
        )
    # Of a stream nobody has counted them.
    if task.has_classes and isinstance(data, ImageData) and isinstance(data.train, ImageSplit):
        check_classes(data.train, data.validation, data.label_names)


def check_run(recipe: Recipe, task: Task, data: Data, config: PreTrainedConfig, *, num_processes: int) -> None:
    """Refuse what could not be done after the reference, before hours are spent on it.

    Args:
        recipe: The run.
        task: What its networks do.
        data: The data set.
        config: Config of the network that the run starts from.
        num_processes: How many train.

    Raises:
        NeuMetaError: Naming the key of the recipe.
    """
    if recipe.pretrain is not None and not task.has_loss:
        raise RecipeError(
            f"pretrain: {task.name} has no loss that would train the reference. Leave it out, and name a trained "
            "network with target.checkpoint."
        )
    if recipe.pretrain is not None:
        check_length(data.train, recipe.pretrain, num_processes=num_processes, name="pretrain")
    if recipe.train is None:
        return
    check_length(data.train, recipe.train, num_processes=num_processes, name="train")
    check_losses(recipe.losses, task)
    model = meta_family(recipe, task, config)
    make_sampler(recipe, model)
    if recipe.train.gradient_checkpointing:
        model.recompute_layers()
    stored = statistics_widths(recipe, model)
    for key, widths in (
        ("sizes.widths", training_widths(recipe)),
        ("validation_widths", validation_widths(recipe)),
        ("statistics_widths", stored),
    ):
        for width in widths:
            try:
                model.size_at(width)
            except NeuMetaError as error:
                raise type(error)(f"{key}: {error}", command=f"{key}: {error.command}") from error
    for depth in training_depths(recipe):
        try:
            model.size_at(depth=depth)
        except NeuMetaError as error:
            raise type(error)(f"sizes.depths: {error}", command=f"sizes.depths: {error.command}") from error
    if recipe.static_cache.augmentations and task.modality != "image":
        raise RecipeError(
            f"static_cache.augmentations={recipe.static_cache.augmentations}: augmentations of images are kept, and "
            f"{task.name} reads {task.modality}. Set it to 0."
        )
    if recipe.static_cache.augmentations and isinstance(data.train, StreamSplit):
        raise RecipeError(
            f"static_cache.augmentations={recipe.static_cache.augmentations}: outputs for a stream (data.streaming) "
            "are not kept. Set it to 0."
        )
    if len(training_depths(recipe)) > 1 and recipe.static_cache.augmentations:
        raise RecipeError(
            "static_cache.augmentations with sizes.depths: the modules before the generated part change with the "
            "depth. Set augmentations to 0, or train whole networks."
        )
    if model.statistic_names:
        model.config.statistics_widths, model.config.statistics_depths = stored, training_depths(recipe)
        model.config.validate_neumeta()
        if resolve_calibration(recipe, model).images:
            draw_calibration_sizes(recipe, model)


def meta_family(recipe: Recipe, task: Task, config: PreTrainedConfig) -> NeuMetaModel:
    """Build the family of a recipe before there is a reference: without values, and without the memory for them.

    Args:
        recipe: The run.
        task: What its networks do.
        config: Config of the network that the run starts from.

    Returns:
        The family, on the meta device.
    """
    normalization = recipe.preparation.normalization
    if normalization == "fuse":
        config = find_target(recipe.target.family).fused_config(config)
    trained = {"trained_widths": training_widths(recipe), "trained_depths": training_depths(recipe)}
    fields = {**trained, **dataclasses.asdict(recipe.family)}
    with torch.device("meta"):
        return family_class(task.name)(NeuMetaConfig(target_config=config, normalization=normalization, **fields))


def _differences(before: Any, after: Any, prefix: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = {**before, **after}
        return [key for name in keys for key in _differences(before.get(name), after.get(name), f"{prefix}{name}.")]
    return [] if before == after else [prefix.rstrip(".")]
