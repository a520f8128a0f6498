"""Text as data: documents packed into blocks, for language models."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from neumeta_hf.data.base import Data, RowSplit
from neumeta_hf.data.config import DataConfig
from neumeta_hf.data.masking import Masking
from neumeta_hf.data.packing import Blocks, Encoder, pack
from neumeta_hf.data.partition import check_fractions, cut_splits, load_splits
from neumeta_hf.errors import DataError

_EVALUATED_TOKENS = 2**12
"""Of a forward pass without gradients: the logits of a vocabulary of 2^17 take 2 GB then."""


class TextSplit(RowSplit):
    """Blocks of text, or what else of text has rows of tokens.

    Args:
        blocks: Tokens.
        tokenizer: That made them.
        name: Name of the split, for messages.
        masking: Hides tokens that are to be told; None: each token is to be foretold from those before it.
        fresh: Whether each epoch hides others, as training wants it.
    """

    rows_are = "blocks"

    def __init__(
        self,
        blocks: Blocks,
        tokenizer: PreTrainedTokenizerFast,
        *,
        name: str,
        masking: Masking | None = None,
        fresh: bool = False,
    ):
        self.blocks = blocks
        self.tokenizer = tokenizer
        self.name = name
        self.masking = masking
        self.fresh = fresh
        self.epoch = 0
        self.indices = np.arange(len(blocks))
        self.evaluation_batch_size = max(1, _EVALUATED_TOKENS // blocks.tokens.shape[1])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that decides which tokens are hidden.

        Args:
            epoch: From 0.
        """
        self.epoch = epoch

    def shown(self, batch: Mapping[str, Tensor]) -> PreTrainedTokenizerFast:
        """The tokenizer, which reads a batch."""
        return self.tokenizer

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """A batch, already collated.

        Args:
            positions: Positions in this split, `[batch]`.

        Returns:
            "input_ids" and "labels", int64 `[batch, tokens]`, where -100 is no label; and "num_bytes", int64 `[batch]`:
            how many bytes of text the tokens of a block stand for, all but its first.
        """
        chosen = self.indices[np.asarray(positions, dtype=np.int64)]
        tokens = self.blocks.tokens[chosen]
        return batch_of(tokens, self.blocks.num_bytes[chosen], self.masking, chosen, self.epoch if self.fresh else 0)


def batch_of(
    tokens: np.ndarray, num_bytes: np.ndarray, masking: Masking | None, rows: np.ndarray, epoch: int
) -> dict[str, Tensor]:
    """Make a batch of blocks.

    Args:
        tokens: `[batch, tokens]`.
        num_bytes: `[batch]`.
        masking: As for `TextSplit`.
        rows: Numbers of the blocks, by which tokens are hidden.
        epoch: Likewise.

    Returns:
        As `TextSplit.__getitems__`.
    """
    inputs, labels = (tokens, tokens) if masking is None else masking.hide(tokens, rows, epoch=epoch)
    return {
        "input_ids": torch.from_numpy(inputs.astype(np.int64)),
        "labels": torch.from_numpy(labels.astype(np.int64)),
        "num_bytes": torch.from_numpy(num_bytes),
    }


def load_text_data(
    config: DataConfig, tokenizer: PreTrainedTokenizerFast, *, mask_probability: float | None = None
) -> Data:
    """Load, split, tokenise and pack documents.

    Args:
        config: Says which, and how long blocks are.
        tokenizer: Makes tokens of them.
        mask_probability: How many tokens are hidden; None: none, since each is foretold from those before it.

    Returns:
        The splits. Rows of the data set are cut into splits, before any is packed.

    Raises:
        DataError: The data set cannot be found or read; a split or column is missing, ambiguous or of another type; two
            splits share rows; a split fills no block; or a key of the config is out of range.
    """
    check_text(config)
    loaded = load_splits(config, is_text=True)
    column = find_text_column(loaded, config)
    masking = None if mask_probability is None else Masking.of(tokenizer, mask_probability, seed=config.data_seed)
    encoder = Encoder.of(tokenizer)
    cut = cut_splits({role: len(dataset) for role, dataset in loaded.items()}, config)
    splits = {}
    for role, (source, rows) in cut.items():
        chosen = loaded[source] if len(rows) == len(loaded[source]) else loaded[source].select(rows)
        blocks = pack(chosen, column, encoder, block_size=config.block_size, name=role)
        if len(rows) and not len(blocks):
            raise DataError(
                f"the {len(rows)} documents of the {role} split do not fill one block of data.block_size="
                f"{config.block_size} tokens: lower it, or give more text."
            )
        splits[role] = TextSplit(blocks, tokenizer, name=role, masking=masking, fresh=role == "train")
    return Data(**splits, label_names=[])


def check_text(config: DataConfig) -> None:
    """Refuse what no text can be read by.

    Args:
        config: Says how it is read.

    Raises:
        DataError: A key is out of range.
    """
    check_fractions(config)
    if not 2 <= config.block_size <= 2**20:
        raise DataError(f"data.block_size={config.block_size}: give a number from 2 to {2**20:,}.")


def find_text_column(loaded: Mapping[str, Any], config: DataConfig) -> str:
    """Find the column of texts.

    Args:
        loaded: The splits by role, "train" among them.
        config: Names the column, or leaves it to be found.

    Returns:
        Its name: "text" where there is one, else that of the only column of strings.

    Raises:
        DataError: It is missing, ambiguous, of another type, or not alike in all splits.
    """
    features = loaded["train"].features
    if (column := config.text_column) is None:
        strings = [name for name, feature in features.items() if is_string(feature)]
        if "text" not in strings and len(strings) != 1:
            raise DataError(
                f"the data set has {len(strings)} columns of strings among {', '.join(features)}: name the column of "
                "the text with data.text_column."
            )
        column = "text" if "text" in strings else strings[0]
    check_column(column, loaded, "data.text_column")
    return column


def check_column(column: str, loaded: Mapping[str, Any], key: str, *, numbers: bool = False) -> None:
    """Refuse a column that some split lacks, or that is of another type.

    Args:
        column: Its name.
        loaded: The splits by role.
        key: That names it.
        numbers: Whether it is of numbers, instead of strings.

    Raises:
        DataError: Naming the key, the column, and what there is.
    """
    for dataset in loaded.values():
        features = dataset.features
        if column not in features:
            raise DataError(
                f"{key}={column!r}: split {str(dataset.split)!r} has the columns {', '.join(features)}. Name one of "
                "them."
            )
        feature = features[column]
        if not (is_number(feature) if numbers else is_string(feature)):
            raise DataError(
                f"{key}={column!r}: the column is {feature} in split {str(dataset.split)!r}, and must hold "
                f"{'numbers' if numbers else 'strings'}. Name another of {', '.join(features)}, or cast it."
            )


def is_string(feature: Any) -> bool:
    """Tell whether a feature of `datasets` is of strings."""
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def is_number(feature: Any) -> bool:
    """Tell whether a feature of `datasets` is of numbers."""
    return isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "uint", "float", "double"))
