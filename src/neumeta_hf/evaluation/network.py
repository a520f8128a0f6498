"""The scores of a plain network on a split."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.data import DataLoader

from neumeta_hf.batches import move_batch
from neumeta_hf.errors import DataError
from neumeta_hf.kinds import COUNT, whole_number
from neumeta_hf.progress import progress_bar
from neumeta_hf.targets import TargetFamily, config_of, find_target
from neumeta_hf.tasks import Task, build_task

if TYPE_CHECKING:
    from neumeta_hf.data import Split


def evaluate_network(
    network: nn.Module,
    split: "Split",
    *,
    task: Task | None = None,
    family: TargetFamily | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    num_workers: int = 0,
    loader: DataLoader | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """Measure a network, in evaluation mode and its own precision; the mode of every module is restored.

    Args:
        network: A network of the family, or any module with its forward pass; moved to `device`.
        split: What it is measured on.
        task: What it is measured by. None: its family's, with default options.
        family: Runs the network. None: the one that has such networks.
        batch_size: Rows per forward pass. None: its `evaluation_batch_size`, or 512.
        device: Where to run. None: where the network is.
        num_workers: Processes that load data.
        loader: Loader of the split, by `make_evaluation_loader`, for many passes with the same processes; it then has
            its own batch size and workers. None: one for this pass.
        progress: Whether to show a progress bar.

    Returns:
        The task's scores, ratios as ratios, and "num_samples".

    Raises:
        DataError: The split is empty, or holds what the network does not know; `batch_size` or `num_workers` is no
            such number.
        TargetError: There is no `family`, and none has such a network.
    """
    from neumeta_hf.data.workers import begin_pass

    family = family or find_target(config_of(network))
    task = task or build_task(family.task)
    parameter = next(network.parameters(), torch.empty(0))
    device = torch.device(device) if device is not None else parameter.device
    # Convolutions are about twice as fast so; anything else may count on the usual layout.
    has_convolutions = any(isinstance(module, nn.Conv2d) for module in network.modules())
    layout = torch.channels_last if has_convolutions else torch.contiguous_format
    if loader is None:
        loader = make_evaluation_loader(split, batch_size=batch_size, num_workers=num_workers, device=device)
    begin_pass()
    was_training = {module: module.training for module in network.modules()}
    network.to(device).eval()
    meter = task.make_meter(family, network, split.name)
    try:
        with torch.inference_mode():
            for batch in progress_bar(loader, description=split.name, unit=" batches", shown=progress, leave=False):
                batch = move_batch(batch, device)
                # What the network takes alone: labels keep their precision.
                batch |= move_batch(family.inputs_of(batch), dtype=parameter.dtype, memory_format=layout)
                meter.add(family.forward(network, batch), batch)
            scores = meter.compute()
    finally:
        for module, training in was_training.items():
            module.training = training
    return {**scores, "num_samples": len(split)}


def make_evaluation_loader(
    split: "Split", *, batch_size: int | None = None, num_workers: int = 0, device: torch.device
) -> DataLoader:
    """Make the loader of a split that networks are measured on.

    Args:
        split: Rows that they are measured on.
        batch_size: Rows per forward pass. None: its `evaluation_batch_size`, or 512.
        num_workers: Processes that load data, which live as long as the loader.
        device: Where the networks run.

    Returns:
        The loader.

    Raises:
        DataError: The split is empty; `batch_size` or `num_workers` is not such a number.
    """
    from neumeta_hf.data.workers import make_loader

    if batch_size is None:
        batch_size = getattr(split, "evaluation_batch_size", 512)
    for name, value, kind in (("batch_size", batch_size, whole_number(1)), ("num_workers", num_workers, COUNT)):
        if not kind.holds(value):
            raise DataError(f"{name}={value!r}: it must be {kind.rule}.")
    if len(split) == 0:
        raise DataError(
            f"the {split.name} split is empty, so there is nothing to measure: for validation set "
            "data.validation_fraction above 0, or name data.validation_split."
        )
    return make_loader(split, batch_size=batch_size, num_workers=num_workers, device=device)
