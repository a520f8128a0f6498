"""Loaders of splits, and the processes that load data for them."""

import atexit
import functools
import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neumeta_hf.data.base import Split
from neumeta_hf.data.splits import collate


def make_loader(
    split: Dataset | Split, *, num_workers: int, device: torch.device, keep_workers: bool = True, **options: Any
) -> DataLoader:
    """Make a loader whose memory and processes suit a device and many passes.

    A pass takes nothing from the global random numbers: `begin_pass` does, whatever the workers.

    Args:
        split: Rows, or a split `WithSharedEpoch`.
        num_workers: Processes that load data.
        device: Where batches go; memory is pinned for CUDA.
        keep_workers: Whether the processes live as long as the loader does, instead of one pass.
        options: As for a `DataLoader`: `batch_size`, `sampler`, `drop_last`.

    Returns:
        The loader.
    """
    dataset: Any = split
    return DataLoader(
        dataset,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=functools.partial(leave_signals_to_parent, parent_exits=_parent_exits())
        if num_workers
        else None,
        persistent_workers=keep_workers and num_workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
        **options,
    )


def begin_pass() -> None:
    """Draw the number that a loader with the global random numbers draws for a pass.

    Workers that are kept would draw it once, new ones each time, and the numbers after it would depend on that.
    """
    torch.empty((), dtype=torch.int64).random_()


class WithSharedEpoch(Dataset):
    """A split whose epoch reaches workers that are alive already.

    Args:
        split: The rows; in each process its `set_epoch` is called before the first batch of an epoch.
    """

    def __init__(self, split: Split):
        self.split = split
        self._epoch = torch.tensor(-1).share_memory_()
        self._known = -1

    def __len__(self) -> int:
        return len(self.split)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, between two passes.

        Args:
            epoch: From 0.
        """
        self._epoch.fill_(epoch)
        self.split.set_epoch(epoch)
        self._known = epoch

    def __getitems__(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """A batch, as of the split."""
        if self._known != (epoch := int(self._epoch)):
            self.set_epoch(epoch)
        return self.split.__getitems__(positions)


@functools.cache
def _parent_exits() -> Event:
    """An event that is set when this process exits."""
    event = multiprocessing.Event()
    atexit.register(event.set)  # before multiprocessing ends what is left with SIGTERM, and waits for it
    return event


def leave_signals_to_parent(worker: int, *, parent_exits: Event) -> None:
    """Ignore Ctrl-C and SIGTERM in a process that loads data, as `worker_init_fn` of a DataLoader.

    A terminal and most schedulers signal all processes of a run: without its data the main one could not end its step.

    Args:
        worker: Number of the process.
        parent_exits: Set once the parent exits, whose own SIGTERM then ends this process.
    """

    def end_with_parent(*_: Any) -> None:
        if parent_exits.is_set():
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_with_parent)
