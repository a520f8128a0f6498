"""Text that is read as it comes, packed into blocks on the way."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from neumeta_hf.data.base import Data
from neumeta_hf.data.config import DataConfig
from neumeta_hf.data.masking import Masking
from neumeta_hf.data.packing import Blocks, Encoder, cut
from neumeta_hf.data.partition import open_streams
from neumeta_hf.data.streams import Place, StreamSplit
from neumeta_hf.data.text import TextSplit, batch_of, check_text
from neumeta_hf.errors import DataError

_ROUND = 16  # documents


class TextStream(StreamSplit):
    """Documents that become blocks; what is left at the end of a window and fills no block is dropped.

    Args:
        documents: As `datasets` streams them.
        column: Of the texts.
        tokenizer: Makes tokens of them.
        config: Length of blocks, size of windows, and the seed.
        name: Of the split, for messages.
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
        super().__init__(documents, config, name=name)
        self.column = column
        self.tokenizer = tokenizer
        self.encoder = Encoder.of(tokenizer)
        self.masking = masking

    @property
    def lack(self) -> str:
        """As `StreamSplit` says."""
        return f"fill no block of data.block_size={self.config.block_size} tokens: lower it"

    def windows(self, documents: Iterator[Mapping[str, Any]]) -> Iterator[list[tuple[np.ndarray, int]]]:
        """Tokens and bytes of blocks, as `StreamSplit` says."""
        found: list[tuple[np.ndarray, np.ndarray]] = []
        num_tokens = 0
        for texts in self._texts(documents):
            found += self.encoder.encode(texts)
            num_tokens += sum(len(tokens) for tokens, _ in found[-len(texts) :])
            if num_tokens >= self.config.shuffle_blocks * self.config.block_size:
                yield self._cut(found)
                found, num_tokens = [], 0
        if found:
            yield self._cut(found)

    def batch(
        self, rows: Sequence[Any], places: Sequence[Place], *, rank: int, num_processes: int
    ) -> dict[str, Tensor]:
        """As from a `TextSplit`."""
        tokens, sizes = np.stack([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=np.int64)
        numbers = np.array([(place.round * 2**20 + place.window) * 2**20 + place.index for place in places])
        return batch_of(tokens, sizes, self.masking, numbers, 0)

    def shown(self, batch: Mapping[str, Tensor]) -> PreTrainedTokenizerFast:
        """The tokenizer, which reads a batch."""
        return self.tokenizer

    def _cut(self, found: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, int]]:
        tokens, sizes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        blocks, _ = cut(tokens, sizes, self.config.block_size)
        return list(zip(blocks.tokens, blocks.num_bytes.tolist(), strict=True))

    def _texts(self, documents: Iterator[Mapping[str, Any]]) -> Iterator[list[str]]:
        """Some documents at a time."""
        texts: list[str] = []
        for row in documents:
            text = row[self.column]
            if not isinstance(text, str):
                raise DataError(
                    f"a row of the {self.name} split has no text in column {self.column!r}: filter such rows out."
                )
            texts.append(text)
            if len(texts) == _ROUND:
                yield texts
                texts = []
        if texts:
            yield texts


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
    streams = open_streams(config, is_text=True)
    masking = None if mask_probability is None else Masking.of(tokenizer, mask_probability, seed=config.data_seed)
    column = _find_column(streams, config)
    splits: dict[str, Any] = {}
    for role, documents in streams.items():
        split = TextStream(documents, column, tokenizer, config, name=role, masking=masking)
        if role == "train":
            splits[role] = split
        else:
            blocks = _first_blocks(split, config.kept_blocks)
            splits[role] = TextSplit(blocks, tokenizer, name=role, masking=masking)
    return Data(**splits, label_names=[])


def _first_blocks(split: TextStream, num_blocks: int) -> Blocks:
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
                f"the {role} split has {len(strings)} columns of strings among {', '.join(row)}: name the column of "
                "the text with data.text_column."
            )
        column = column or ("text" if "text" in strings else strings[0])
        if column not in strings:
            raise DataError(
                f"data.text_column={column!r}: the {role} split has the columns of strings {', '.join(strings)}. Name "
                "one of them."
            )
    assert column is not None
    return column
