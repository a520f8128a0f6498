"""Texts of a few words, their tokenizers, and data sets of them."""

import datasets
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ("the", "cat", "dog", "sat", "ran", "on", "mat", "a", "red", "big")
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")


class NextToken:
    """What data ask of a task."""

    name = "next"
    modality = "text"
    labels = ("next_token",)


class MaskedToken(NextToken):
    labels = ("masked_token",)
    mask_probability = 0.3


class Pairs(NextToken):
    labels = ("similarity",)


def word_tokenizer(*, start=False, **changed):
    """One token a word; with `start`, a token before each text."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**names, **changed})


def sentences(num, *, length=6, offset=0):
    """Sentences of known words, no two alike for a while."""
    return [
        " ".join(WORDS[(offset + row * 7 + place * (1 + row % 3)) % len(WORDS)] for place in range(length))
        for row in range(num)
    ]


def save(folder, **splits):
    """Write splits, each a mapping of columns, as parquet files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in splits.items():
        datasets.Dataset.from_dict(columns).to_parquet(folder / f"{name}.parquet")
    return str(folder)
