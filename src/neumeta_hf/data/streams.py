"""What is read as it comes, for what fits no memory or has no end, and gone on with to the row."""

import abc
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import datasets
import numpy as np
from datasets.distributed import split_dataset_by_node
from torch import Tensor

from neumeta_hf.data.config import DataConfig
from neumeta_hf.errors import CheckpointError, DataError


class Place(NamedTuple):
    """Where something stands in a stream.

    Attributes:
        round: How often the documents began anew before it.
        window: Number of its window since then.
        index: In the window, before it was mixed.
    """

    round: int
    window: int
    index: int


class StreamSplit(abc.ABC):
    """The training split as a stream: rows of a data set are read on and on, and mixed among some hundreds.

    Documents are read until they fill a window, which is given out in a random order. At the end of the documents the
    stream begins anew.

    Args:
        documents: As `datasets` streams them.
        config: Size of windows, and the seed.
        name: Name of the split, for messages.
    """

    def __init__(self, documents: datasets.IterableDataset, config: DataConfig, *, name: str):
        self.documents = documents
        self.config = config
        self.name = name

    @property
    @abc.abstractmethod
    def lack(self) -> str:
        """What documents do that give no row at all, and the way out."""

    @abc.abstractmethod
    def windows(self, documents: Iterator[Mapping[str, Any]]) -> Iterator[Sequence[Any]]:
        """Rows of batches, a window at a time; at each no document is read that the next one needs.

        Args:
            documents: From where the first window begins.
        """

    @abc.abstractmethod
    def batch(
        self, rows: Sequence[Any], places: Sequence[Place], *, rank: int, num_processes: int
    ) -> dict[str, Tensor]:
        """Collate a batch.

        Args:
            rows: Of `windows`.
            places: Where each stands in the process's part of the stream, which decides what is random.
            rank: Number of the process.
            num_processes: How many there are.

        Returns:
            As from a `Split`.
        """

    @abc.abstractmethod
    def shown(self, batch: Mapping[str, Tensor]) -> Any:
        """As of a `Split`."""

    def loader(self, *, batch_size: int, num_batches: int, rank: int = 0, num_processes: int = 1) -> "StreamLoader":
        """Batches of a process's own part of the documents.

        Args:
            batch_size: Rows of a batch.
            num_batches: Batches of a pass over the loader, after which the next pass goes on.
            rank: Number of the process.
            num_processes: How many there are; no two of them see the same document.

        Returns:
            The loader.
        """
        return StreamLoader(
            self, batch_size=batch_size, num_batches=num_batches, rank=rank, num_processes=num_processes
        )

    def sample(self, num_rows: int) -> dict[str, Tensor]:
        """Read the first rows, the same at every call.

        Args:
            num_rows: How many.

        Returns:
            A batch.
        """
        return next(iter(self.loader(batch_size=num_rows, num_batches=1)))


class StreamLoader:
    """Batches of a stream, which can be stopped after any and gone on with.

    Args:
        split: What is read.
        batch_size: Rows of a batch.
        num_batches: Batches of a pass.
        rank: Number of the process.
        num_processes: How many there are.
    """

    def __init__(self, split: StreamSplit, *, batch_size: int, num_batches: int, rank: int, num_processes: int):
        self._split = split
        self._batch_size = batch_size
        self._num_batches = num_batches
        self._documents = copy.deepcopy(split.documents)  # each has one place that it is read at
        if num_processes > 1:
            self._documents = split_dataset_by_node(self._documents, rank=rank, world_size=num_processes)
        self._rank, self._num_processes = rank, num_processes
        # Of the window that is being given out: how often the documents began anew before it, its number since then,
        # where its documents begin, and how many of its rows are gone.
        self._round = self._window = self._taken = 0
        self._beginning = self._documents.state_dict()
        self._start = self._beginning
        self._rows: Iterator[tuple[Any, Place]] | None = None

    def __len__(self) -> int:
        return self._num_batches

    def set_epoch(self, epoch: int) -> None:
        """Nothing depends on the number of a pass: each goes on where the last one ended."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self.rest(0)

    def rest(self, num_given: int) -> Iterator[dict[str, Tensor]]:
        """Read what is left of a pass.

        Args:
            num_given: Batches of it that were given out before.

        Yields:
            Batches, as from a `Split`.

        Raises:
            DataError: The process's part of the documents gives no row, or a document cannot be read.
        """
        if self._rows is None:
            self._rows = self._read()
        for _ in range(num_given, self._num_batches):
            rows, places = zip(*(next(self._rows) for _ in range(self._batch_size)), strict=True)
            yield self._split.batch(rows, places, rank=self._rank, num_processes=self._num_processes)

    def state_dict(self) -> dict[str, Any]:
        """Write where the stream is after the last batch, as plain values.

        Returns:
            What `load_state_dict` takes.
        """
        return {"round": self._round, "window": self._window, "taken": self._taken, "start": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where a stream was.

        Args:
            state: As from `state_dict`, of the same split and as many processes.

        Raises:
            CheckpointError: It is no such state.
        """
        numbers: Any = [state.get(name) for name in ("round", "window", "taken")]
        start: Any = state.get("start")
        if len(state) != 4 or not all(type(number) is int and number >= 0 for number in numbers):
            raise CheckpointError(f"the state of a stream has the numbers {numbers}, which are not a place in it.")
        if not _is_like(start, self._beginning):
            raise CheckpointError("the state of a stream begins at a place that these documents do not have.")
        self._round, self._window, self._taken = numbers
        self._start, self._rows = start, None

    # ------------------------------------------------------------------------------------------------ the documents

    def _read(self) -> Iterator[tuple[Any, Place]]:
        """Rows and where they stand, on and on."""
        seed = (self._split.config.data_seed, self._rank)
        while True:
            has_rows = self._window > 0
            for rows in self._windows():
                has_rows = has_rows or len(rows) > 0
                order = np.random.default_rng([*seed, self._round, self._window]).permutation(len(rows))
                for index in order[self._taken :].tolist():
                    self._taken += 1
                    yield rows[index], Place(self._round, self._window, index)
                self._window, self._taken = self._window + 1, 0
            if not has_rows:
                raise DataError(
                    f"the documents that a process reads from the {self._split.name} split {self._split.lack}, or "
                    "train with fewer processes."
                )
            self._round, self._window, self._taken, self._start = self._round + 1, 0, 0, self._beginning

    def _windows(self) -> Iterator[Sequence[Any]]:
        """What is left of the documents, a window at a time; `_start` is where the documents of each begin."""
        self._documents.load_state_dict(self._start)
        for rows in self._split.windows(iter(self._documents)):
            after = self._documents.state_dict()
            yield rows
            self._start = after


def _is_like(found: Any, beginning: Any) -> bool:
    """Whether a place in documents has the form of another; what is still open at the beginning may have any."""
    if isinstance(beginning, dict):
        is_like = isinstance(found, dict) and found.keys() == beginning.keys()
        return is_like and all(_is_like(found[key], value) for key, value in beginning.items())
    if isinstance(beginning, list):
        return isinstance(found, list) and len(found) == len(beginning) and all(map(_is_like, found, beginning))
    if isinstance(beginning, str):
        return found == beginning
    if beginning is None:
        return True
    return type(found) is type(beginning) and found >= 0
