"""The tokenizer of a run: the target's own, one that the recipe names, or one token a character.

Two files of it are read and no others, and what in them names code is left out.
"""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from neumeta_hf.errors import DataError, one_line
from neumeta_hf.hub.client import find_beside
from neumeta_hf.hub.preprocessors import SETTINGS, TEMPLATE, TOKENIZER, read_settings

CHARACTERS = "characters"
"""Stands in `data.tokenizer` for one token a character."""
_END, _UNKNOWN = "<|endoftext|>", "<|unknown|>"


def load_tokenizer(name: str, *, what: str) -> PreTrainedTokenizerFast:
    """Load the tokenizer that lies in a folder or repo.

    Args:
        name: A folder or Hub id.
        what: The key that names it, for messages.

    Returns:
        The tokenizer.

    Raises:
        DataError: There is none, or it is damaged.
        HubError: The repo cannot be read.
        CheckpointError: One of its files is a link out of the folder, or no JSON.
    """
    found = {file: find_beside(name, file) for file in (TOKENIZER, SETTINGS, TEMPLATE)}
    if (path := found[TOKENIZER]) is None:
        raise DataError(
            f"{what}={name!r} has no {TOKENIZER}, which says how text becomes tokens: name a folder or Hub id that has "
            "one with data.tokenizer, or data.tokenizer: characters."
        )
    settings = {} if (said := found[SETTINGS]) is None else read_settings(said)
    settings.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary, TOKENIZER).write_bytes(path.read_bytes())
        Path(temporary, SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
        if (template := found[TEMPLATE]) is not None:
            Path(temporary, TEMPLATE).write_bytes(template.read_bytes())
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(temporary, trust_remote_code=False)
        except Exception as error:  # of every class of tokenizers, and of Rust
            raise DataError(
                f"{TOKENIZER} of {name} cannot be read: {one_line(error, most=200)}. Save it again."
            ) from error
    if not tokenizer.is_fast:
        raise DataError(f"{what}={name!r} is no tokenizer of the tokenizers library: convert it first.")
    tokenizer.name_or_path = ""  # a folder that is gone
    return tokenizer


def character_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token for each character.

    Args:
        texts: Whose characters it knows.

    Returns:
        The tokenizer, with a token for the end of a document and one for all other characters.
    """
    characters = sorted({character for text in texts for character in text})
    vocabulary = {token: index for index, token in enumerate([_END, _UNKNOWN, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_END,
        bos_token=_END,
        pad_token=_END,
        unk_token=_UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def end_of_document(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Find the token that stands between two documents: the end of a text, else the separator.

    Args:
        tokenizer: Any.

    Returns:
        Its number; None: it has neither.
    """
    token: Any = tokenizer.eos_token_id
    return tokenizer.sep_token_id if token is None else token  # pyright: ignore[reportReturnType]
