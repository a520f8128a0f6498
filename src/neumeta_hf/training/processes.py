"""The accelerator of a run: its precision, its trackers, whether the processes see each other, and fail as one."""

import logging
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

from neumeta_hf.errors import NeuMetaError, RecipeError
from neumeta_hf.training.precision import choose_precision
from neumeta_hf.training.recipe import Recipe
from neumeta_hf.training.tracking import JSONLTracker, check_trackers

logger = logging.getLogger(__name__)

_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
"""What `accelerate launch` sets, and what it means."""

LONGEST_WAIT = timedelta(hours=4)
"""How long processes wait for another one; NCCL gives up after ten minutes unless told.

The main process alone prepares the reference, makes calibration images and writes. Of large networks either may take
longer than that, and a launcher ends the others at once where one process fails.
"""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def make_accelerator(recipe: Recipe, output: Path) -> Accelerator:
    """Make the accelerator of a run.

    Args:
        recipe: The run.
        output: Its folder, where the log is written.

    Returns:
        An accelerator of the precision that the recipe asks for on this device.

    Raises:
        RecipeError: A tracker is missing, or the processes do not see each other. Or the launcher asks for a way of
            sharing the work whose state this library does not write.
    """
    check_trackers(recipe.trackers)
    for variable, name in _SHARDING.items():
        if parse_flag_from_env(variable):
            raise RecipeError(_unknown_sharing(name))
    # Made here as Accelerator would make it, since the precision depends on the device.
    device: Any = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=LONGEST_WAIT).device
    precision = choose_precision(recipe.mixed_precision, device)
    # Accelerate keeps the precision of the first run for good and refuses another: forget it, as transformers does.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=precision,
        log_with=[*recipe.trackers, JSONLTracker(output / "log.jsonl")],  # pyright: ignore[reportArgumentType]
        project_dir=str(output),
        dataloader_config=DataLoaderConfiguration(
            use_seedable_sampler=True,
            data_seed=recipe.seed,
            non_blocking=device.type == "cuda",  # from pinned memory, while the step before is computed
        ),
    )
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        # Each would believe to be alone and write over the others' files.
        raise RecipeError(
            f"the launcher started {expected} processes that do not see each other. On CPUs set "
            "ACCELERATE_USE_CPU=true and launch with --multi_gpu --num_processes N, or use torchrun."
        )
    kind = accelerator.distributed_type.value
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise RecipeError(_unknown_sharing(kind))
    return accelerator


def _unknown_sharing(name: str) -> str:
    return (
        f"the launcher asks for {name}, which spreads one network over processes: such a state cannot be written and "
        "resumed here. Launch with --multi_gpu, each process of which holds the whole network."
    )


def on_main(accelerator: Accelerator, function: Callable[[], _Result]) -> _Result:
    """Call a function on the main process, while the others wait; if it fails there, all fail with its error.

    Args:
        accelerator: Accelerator of the run; all its processes have to call this.
        function: Without arguments.

    Returns:
        What it returns, on all processes.

    Raises:
        NeuMetaError: As the function does.
        OSError: As the function does.
    """
    result: Any = None
    error = None
    if accelerator.is_main_process:
        try:
            result = function()
        except (NeuMetaError, OSError) as caught:
            error = caught
    if accelerator.num_processes > 1:
        result, error = broadcast_object_list([result, error])
    if error is not None:
        raise error
    return result


def share(
    accelerator: Accelerator, items: Sequence[_Item], function: Callable[[list[_Item]], list[_Result]]
) -> list[_Result]:
    """Spread work over the processes; if it fails on one, all fail with its error.

    Args:
        accelerator: Accelerator of the run; all its processes have to call this.
        items: The same on all processes; each gets every so many of them, perhaps none.
        function: From the items of a process to a result of each, which can be pickled and is on no device.

    Returns:
        The results of all items, in their order, on all processes.

    Raises:
        NeuMetaError: As the function does.
        OSError: As the function does.
    """
    rank, count = accelerator.process_index, accelerator.num_processes
    results, error = [], None
    try:
        results = function(list(items[rank::count]))
    except (NeuMetaError, OSError) as caught:
        if count == 1:
            raise
        error = caught
    gathered = gather_object([(results, error)])
    for _, error in gathered:
        if error is not None:
            raise error
    return [gathered[index % count][0][index // count] for index in range(len(items))]
