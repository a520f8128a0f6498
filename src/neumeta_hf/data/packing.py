"""From documents to blocks of as many tokens each: tokenised once, kept by `datasets` under a fingerprint."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from neumeta_hf.data.tokenization import end_of_document
from neumeta_hf.errors import DataError

logger = logging.getLogger(__name__)

_ROUND = 256  # documents
_VERSION = 1
"""Raised with every change of what documents become, so that nothing kept from before is taken for it."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Documents as blocks of tokens.

    Attributes:
        tokens: int32, `[blocks, tokens]`.
        num_bytes: Bytes of UTF-8 that the tokens of a block stand for, all but its first, which nothing foretells;
            int64, `[blocks]`.
    """

    tokens: np.ndarray
    num_bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Turns documents into tokens; plain values, so that `datasets` knows what it has done before.

    Attributes:
        tokenizer: As `tokenizers.Tokenizer.to_str` writes it.
        end: Token after each document; None: none.
    """

    tokenizer: str
    end: int | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> "Encoder":
        """Make the encoder of a tokenizer, whatever was set on it for padding and truncation."""
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_padding()
        backend.no_truncation()
        return cls(backend.to_str(), end_of_document(tokenizer))

    def encode(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tokens of each document, and how many bytes each of them stands for; int32 both.

        Args:
            texts: The documents.

        Returns:
            As the tokenizer's template has it, such as with a token for the start, and with the end token.
        """
        encodings = _backend(self.tokenizer).encode_batch(list(texts))
        return [self._encode(text, found) for text, found in zip(texts, encodings, strict=True)]

    def _encode(self, text: str, found: Any) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.array(found.ids, dtype=np.int32)
        sizes = np.zeros(0)
        if len(tokens):
            # What lies between two tokens, such as a space that none of them holds, belongs to the second.
            ends = np.maximum.accumulate(np.array([end for _, end in found.offsets], dtype=np.int64))
            ends[-1] = len(text)
            points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
            before = np.concatenate([[0], np.cumsum(1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF))])
            sizes = np.diff(before[ends], prepend=0)
        if self.end is not None and (not len(tokens) or tokens[-1] != self.end):
            tokens, sizes = np.append(tokens, self.end), np.append(sizes, 0)
        return tokens.astype(np.int32), sizes.astype(np.int32)


@functools.lru_cache(maxsize=4)
def _backend(tokenizer: str) -> Tokenizer:
    backend = Tokenizer.from_str(tokenizer)
    backend.encode_special_tokens = True  # a document that writes out a special token has no such token
    return backend


def _encode_rows(
    rows: Mapping[str, list[str]], *, column: str, tokenizer: str, end: int | None, version: int
) -> dict[str, list]:
    """Tokenise rows; another `version` is another fingerprint."""
    found = Encoder(tokenizer, end).encode(rows[column])
    return {"tokens": [tokens for tokens, _ in found], "num_bytes": [sizes for _, sizes in found]}


def pack(dataset: datasets.Dataset, column: str, encoder: Encoder, *, block_size: int, name: str) -> Blocks:
    """Tokenise documents, and cut them, one behind the other, into blocks.

    What is left at the end and fills no block is dropped, and said in the log. All blocks are kept in memory, with
    four bytes a token: a text that is too large for that is streamed.

    Args:
        dataset: The documents, a row each.
        column: Column of the texts.
        encoder: Turns them into tokens.
        block_size: Tokens of a block.
        name: Name of the split, for messages.

    Returns:
        The blocks.

    Raises:
        DataError: A row has no text.
    """
    if len(dataset) == 0:
        return cut(np.zeros(0, np.int32), np.zeros(0, np.int32), block_size)[0]
    refuse_missing(dataset, column, name)
    encoded = dataset.map(
        _encode_rows,
        batched=True,
        batch_size=_ROUND,
        remove_columns=dataset.column_names,
        fn_kwargs={"column": column, **dataclasses.asdict(encoder), "version": _VERSION},
        desc=f"tokenising {name}",
    )
    rows = encoded.with_format("numpy")
    tokens, sizes = (
        np.concatenate([np.asarray(row, np.int32) for row in rows[key]]) for key in ("tokens", "num_bytes")
    )
    blocks, left = cut(tokens, sizes, block_size)
    if left:
        logger.info("%s: %d tokens at the end fill no block of %d, and are dropped", name, left, block_size)
    return blocks


def cut(tokens: np.ndarray, sizes: np.ndarray, block_size: int) -> tuple[Blocks, int]:
    """Cut tokens into blocks.

    Args:
        tokens: One behind the other, `[tokens]`.
        sizes: How many bytes each stands for, `[tokens]`.
        block_size: Tokens of a block.

    Returns:
        The blocks, and how many tokens are left at the end.
    """
    num_blocks, left = divmod(len(tokens), block_size)
    whole = slice(num_blocks * block_size)
    shape = (num_blocks, block_size)
    return Blocks(tokens[whole].reshape(shape), sizes[whole].reshape(shape)[:, 1:].sum(1, dtype=np.int64)), left


def refuse_missing(dataset: datasets.Dataset, column: str, name: str) -> None:
    """Refuse rows without a text.

    Args:
        dataset: The rows.
        column: Column of the texts.
        name: Name of the split, for messages.

    Raises:
        DataError: Naming the first such row.
    """
    if dataset.data.column(column).null_count == 0:
        return
    missing = [row for row, text in enumerate(dataset[column]) if text is None]
    if missing:
        raise DataError(
            f"row {missing[0]} of the {name} split has no text in column {column!r}: fill or remove such rows "
            f"({len(missing)} in all)."
        )
