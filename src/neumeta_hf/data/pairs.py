"""Pairs of sentences as data, for encoders: padded batch by batch, with attention masks."""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from neumeta_hf.data.base import Data, RowSplit
from neumeta_hf.data.config import DataConfig
from neumeta_hf.data.packing import refuse_missing
from neumeta_hf.data.partition import cut_splits, load_splits
from neumeta_hf.data.text import check_column, check_text
from neumeta_hf.errors import DataError

logger = logging.getLogger(__name__)


class PairSplit(RowSplit):
    """Pairs of sentences, tokenised when they are asked for.

    Args:
        rows: The pairs.
        columns: Columns of the two sentences.
        scores: How alike the two are, `[pairs]`; None where nothing looks at it.
        tokenizer: Makes tokens of them.
        max_tokens: Longer sentences are cut.
        name: Name of the split, for messages.
    """

    rows_are = "pairs"
    evaluation_batch_size = 64

    def __init__(
        self,
        rows: datasets.Dataset,
        columns: Sequence[str],
        scores: np.ndarray | None,
        tokenizer: PreTrainedTokenizerFast,
        *,
        max_tokens: int,
        name: str,
    ):
        self.rows = rows
        self.columns = columns
        self.scores = scores
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.name = name
        self.indices = np.arange(len(rows))

    def shown(self, batch: Mapping[str, Tensor]) -> PreTrainedTokenizerFast:
        """The tokenizer, which reads a batch."""
        return self.tokenizer

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """A pair: "input_ids" and "attention_mask" have its two sentences as rows."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.__getitems__([index])

    def __getitems__(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """A batch, already collated.

        Args:
            positions: Positions in this split, `[pairs]`.

        Returns:
            "input_ids" and "attention_mask", int64 `[2 * pairs, tokens]`, padded to the longest sentence: the first
            sentences of all pairs, then the second ones. Where the split has scores, "labels", float32 `[pairs]`.
        """
        chosen = self.indices[np.asarray(positions, dtype=np.int64)]
        rows: Any = self.rows[chosen.tolist()]
        encoded: Any = self.tokenizer(
            [sentence for column in self.columns for sentence in rows[column]],
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        if any(sentence.overflowing for sentence in encoded.encodings):
            _say_that_sentences_are_cut(self.name, self.max_tokens)
        batch = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        if self.scores is not None:
            batch["labels"] = torch.from_numpy(self.scores[chosen])
        return batch


@functools.cache  # once, however many batches are read
def _say_that_sentences_are_cut(name: str, max_tokens: int) -> None:
    logger.warning("sentences of the %s split are cut to data.block_size=%d tokens", name, max_tokens)


def load_pair_data(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> Data:
    """Load and split pairs of sentences.

    Scores are read of the validation and test splits alone: training may have pairs without any.

    Args:
        config: Says which, and names their columns.
        tokenizer: Makes tokens of them.

    Returns:
        The splits.

    Raises:
        DataError: The data set cannot be found or read; a split or column is missing or of another type; two splits
            share rows; a pair lacks a sentence, or one to measure on its score; the tokenizer has no token for padding;
            or a key of the config is out of range.
    """
    check_text(config)
    columns, score = config.text_columns or [], config.score_column
    if len(columns) != 2 or columns[0] == columns[1] or score is None:
        raise DataError(
            f"data.text_columns={config.text_columns}, data.score_column={score!r}: name the two columns that hold "
            "the sentences of a pair, and the column that scores how alike they are. For example: [sentence1, "
            "sentence2] and score."
        )
    if config.streaming:
        raise DataError("data.streaming=true: pairs of sentences are not streamed. Set it to false.")
    if tokenizer.pad_token_id is None:
        raise DataError("the tokenizer has no token for padding: set its pad_token, or name another (data.tokenizer).")
    loaded = load_splits(config, is_text=True)
    for column in columns:
        check_column(column, loaded, "data.text_columns")
    check_column(score, loaded, "data.score_column", numbers=True)
    cut = cut_splits({role: len(dataset) for role, dataset in loaded.items()}, config)
    splits = {}
    for role, (source, rows) in cut.items():
        chosen = loaded[source] if len(rows) == len(loaded[source]) else loaded[source].select(rows)
        for column in columns:
            refuse_missing(chosen, column, role)
        scores = None if role == "train" else _scores(chosen, score, role)
        options = {"max_tokens": config.block_size, "name": role}
        splits[role] = PairSplit(chosen, columns, scores, tokenizer, **options)
    return Data(**splits, label_names=[])


def _scores(dataset: datasets.Dataset, column: str, name: str) -> np.ndarray:
    scores = np.array([np.nan if score is None else score for score in dataset[column]], dtype=np.float32)
    if len(missing := np.flatnonzero(~np.isfinite(scores))):
        raise DataError(
            f"row {missing[0]} of the {name} split has no finite number in column {column!r}, the score that encoders "
            "are measured by: fill or remove such rows, or name another split."
        )
    return scores
