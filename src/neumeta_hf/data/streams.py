"""Text that is read as it comes, for what fits no memory or has no end, and gone on with to the block."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import numpy as np
from datasets.distributed import split_dataset_by_node
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from neumeta_hf.data.base import Data
from neumeta_hf.data.config import DataConfig
from neumeta_hf.data.masking import Masking
from neumeta_hf.data.packing import Blocks, Encoder, cut
from neumeta_hf.data.partition import open_streams
from neumeta_hf.data.text import TextSplit, batch_of, check_text
from neumeta_hf.errors import CheckpointError, DataError

_ROUND = 16  # documents


class StreamSplit:
    """The training split as a stream: documents become blocks, which are mixed among some hundreds of their kind.

    Documents are read until they fill a window of blocks. Its blocks are given out in a random order; what is left at
    its end and fills no block is dropped. At the end of the documents the stream begins anew.

    Args:
        documents: As `datasets` streams them.
        column: Column of the texts.
        tokenizer: Makes tokens of them.
        config: Length of blocks, size of windows, and the seed.
        name: Name of the split, for messages.
        masking: As for `TextSplit`.
    """

    def __init__(
        self,
        documents: datasets.IterableDataset,
        column: str,
        tokenizer: PreTrainedTokenizerFast,
        config: DataConfig,
        *,
        name: str,
        masking: Masking | None = None,
    ):
        self.documents = documents
        self.column = column
        self.tokenizer = tokenizer
        self.encoder = Encoder.of(tokenizer)
        self.config = config
        self.name = name
        self.masking = masking

    def loader(self, *, batch_size: int, num_batches: int, rank: int = 0, num_processes: int = 1) -> "StreamLoader":
        """Batches of a process's own part of the documents.

        Args:
            batch_size: Blocks of a batch.
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
        """Read the first blocks, the same at every call.

        Args:
            num_rows: How many.

        Returns:
            A batch.
        """
        return next(iter(self.loader(batch_size=num_rows, num_batches=1)))

    def shown(self, batch: Mapping[str, Tensor]) -> PreTrainedTokenizerFast:
        """The tokenizer, which reads a batch."""
        return self.tokenizer


class StreamLoader:
    """Batches of a stream, which can be stopped after any and gone on with.

    Args:
        split: What is read.
        batch_size: Blocks of a batch.
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
        self._seed = [split.config.data_seed, rank]
        # Of the window that is being given out: how often the documents began anew before it, its number since then,
        # where its documents begin, and how many of its blocks are gone.
        self._round = self._window = self._taken = 0
        self._beginning = self._documents.state_dict()
        self._start = self._beginning
        self._blocks: Iterator[tuple[np.ndarray, int, int]] | None = None

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
            Batches, as from a `TextSplit`.

        Raises:
            DataError: The process's part of the documents fills no block, or a row has no text.
        """
        if self._blocks is None:
            self._blocks = self._read()
        for _ in range(num_given, self._num_batches):
            found = [next(self._blocks) for _ in range(self._batch_size)]
            tokens, sizes = np.stack([row[0] for row in found]), np.array([row[1] for row in found], dtype=np.int64)
            numbers = np.array([row[2] for row in found])
            yield batch_of(tokens, sizes, self._split.masking, numbers, 0)

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
            raise CheckpointError(f"the state of a stream has the numbers {numbers}, which say no place in it.")
        if not _is_like(start, self._beginning):
            raise CheckpointError("the state of a stream begins at what is no place in these documents.")
        self._round, self._window, self._taken = numbers
        self._start, self._blocks = start, None

    # ------------------------------------------------------------------------------------------------ the documents

    def _read(self) -> Iterator[tuple[np.ndarray, int, int]]:
        """Tokens, bytes and number of each block, on and on."""
        while True:
            has_blocks = self._window > 0
            for blocks in self._windows():
                has_blocks = has_blocks or len(blocks) > 0
                order = np.random.default_rng([*self._seed, self._round, self._window]).permutation(len(blocks))
                for index in order[self._taken :].tolist():
                    self._taken += 1
                    number = (self._round * 2**20 + self._window) * 2**20 + index
                    yield blocks.tokens[index], int(blocks.num_bytes[index]), number
                self._window, self._taken = self._window + 1, 0
            if not has_blocks:
                raise DataError(
                    f"the documents that a process gets of the {self._split.name} split fill no block of "
                    f"data.block_size={self._split.config.block_size} tokens: lower it, or train with fewer processes."
                )
            self._round, self._window, self._taken, self._start = self._round + 1, 0, 0, self._beginning

    def _windows(self) -> Iterator[Blocks]:
        """What is left of the documents, a window at a time; `_start` is where the documents of each begin."""
        config, encoder = self._split.config, self._split.encoder
        documents = self._documents
        documents.load_state_dict(self._start)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        num_tokens = 0
        for texts in self._texts():
            found += encoder.encode(texts)
            num_tokens += sum(len(tokens) for tokens, _ in found[-len(texts) :])
            if num_tokens >= config.shuffle_blocks * config.block_size:
                after = documents.state_dict()
                yield self._cut(found)
                self._start, found, num_tokens = after, [], 0
        if found:
            yield self._cut(found)

    def _cut(self, found: list[tuple[np.ndarray, np.ndarray]]) -> Blocks:
        tokens, sizes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return cut(tokens, sizes, self._split.config.block_size)[0]

    def _texts(self) -> Iterator[list[str]]:
        """Some documents at a time."""
        texts: list[str] = []
        for row in self._documents:
            text = row[self._split.column]
            if not isinstance(text, str):
                raise DataError(
                    f"a row of the {self._split.name} split has no text in column {self._split.column!r}: filter such "
                    "rows out."
                )
            texts.append(text)
            if len(texts) == _ROUND:
                yield texts
                texts = []
        if texts:
            yield texts


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


def stream_text_data(
    config: DataConfig, tokenizer: PreTrainedTokenizerFast, *, mask_probability: float | None = None
) -> Data:
    """Open documents as streams: training reads on and on, validation and test keep their first blocks.

    Args:
        config: Says which, how long blocks are, and how many are kept.
        tokenizer: Makes tokens of them.
        mask_probability: As for `load_text_data`.

    Returns:
        The splits.

    Raises:
        DataError: The data set cannot be found or read; a split or column is missing or of another type; a split that
            is kept fills no block; or a key of the config is out of range or makes no sense of a stream.
    """
    check_text(config)
    streams = open_streams(config)
    masking = None if mask_probability is None else Masking.of(tokenizer, mask_probability, seed=config.data_seed)
    column = _find_column(streams, config)
    splits: dict[str, Any] = {}
    for role, documents in streams.items():
        split = StreamSplit(documents, column, tokenizer, config, name=role, masking=masking)
        if role == "train":
            splits[role] = split
        else:
            blocks = _first_blocks(split, config.kept_blocks)
            splits[role] = TextSplit(blocks, tokenizer, name=role, masking=masking)
    return Data(**splits, label_names=[])


def _first_blocks(split: StreamSplit, num_blocks: int) -> Blocks:
    """The first blocks of a split, in order, or as many as there are."""
    config, found, num_tokens = split.config, [], 0
    for row in split.documents:
        if not isinstance(text := row[split.column], str):
            raise DataError(f"a row of the {split.name} split has no text in column {split.column!r}: filter it out.")
        found += split.encoder.encode([text])
        num_tokens += len(found[-1][0])
        if num_tokens >= num_blocks * config.block_size:
            break
    if num_tokens < config.block_size:
        raise DataError(
            f"the documents of the {split.name} split do not fill one block of data.block_size={config.block_size} "
            "tokens: lower it, or name another split."
        )
    tokens, sizes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    blocks, _ = cut(tokens, sizes, config.block_size)
    return Blocks(blocks.tokens[:num_blocks], blocks.num_bytes[:num_blocks])


def _find_column(streams: Mapping[str, datasets.IterableDataset], config: DataConfig) -> str:
    """The column of texts, which the first row of each split has."""
    # Of copies, since a look moves the place that is said to be read at.
    rows = {role: next(iter(copy.deepcopy(documents)), None) for role, documents in streams.items()}
    column = config.text_column
    for role, row in rows.items():
        if row is None:
            raise DataError(f"the {role} split has no row: name another (data.{role}_split).")
        strings = [name for name, value in row.items() if isinstance(value, str)]
        if column is None and "text" not in strings and len(strings) != 1:
            raise DataError(
                f"the {role} split has {len(strings)} columns of strings among {', '.join(row)}: say which is the text "
                "with data.text_column."
            )
        column = column or ("text" if "text" in strings else strings[0])
        if column not in strings:
            raise DataError(
                f"data.text_column={column!r}: the {role} split has the columns of strings {', '.join(strings)}. Name "
                "one of them."
            )
    assert column is not None
    return column
