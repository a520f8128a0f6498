"""The accelerator of a run: its precision, its trackers, and whether the processes see each other."""

import logging
import os
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import parse_flag_from_env

from neumeta_hf.errors import RecipeError
from neumeta_hf.training.precision import choose_precision
from neumeta_hf.training.recipe import Recipe
from neumeta_hf.training.tracking import JSONLTracker, check_trackers

logger = logging.getLogger(__name__)


def make_accelerator(recipe: Recipe, output: Path) -> Accelerator:
    """Make the accelerator of a run.

    Args:
        recipe: The run.
        output: Its folder, where the log is written.

    Returns:
        An accelerator of the precision that the recipe asks for on this device.

    Raises:
        RecipeError: A tracker is missing, or the processes do not see each other.
    """
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
