"""Text that a language model writes itself, to learn from where there is none of its training text."""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import config as datasets_config
from torch import nn
from transformers import PreTrainedTokenizerFast

from neumeta_hf.checkpoints import weights_digest
from neumeta_hf.data.config import GENERATED, DataConfig
from neumeta_hf.data.packing import Encoder
from neumeta_hf.errors import DataError
from neumeta_hf.files import write_folder_beside
from neumeta_hf.progress import progress_bar
from neumeta_hf.reading import find_folder
from neumeta_hf.tasks import Task
from neumeta_hf.tasks.sampling import sample_tokens

logger = logging.getLogger(__name__)

_FILE = "train.parquet"
_TEXTS = 64  # written side by side
_LONGEST = 1024
_VERSION = 1
"""Raised with every change of what a network writes, so that nothing kept from before is taken for it."""
_TEST_FRACTION = 0.1


def check_generated(config: DataConfig, task: Task) -> None:
    """Refuse what says nothing of text that the network itself writes.

    Args:
        config: Whose `dataset` is "generated".
        task: What its networks do.

    Raises:
        DataError: Networks of the task write no text, or a key of the config is out of range or names what there is
            not.
    """
    if "next_token" not in task.labels:
        raise DataError(
            f"data.dataset=generated: only causal language models write text, and the task is {task.name}. Name a "
            "data set of text."
        )
    defaults = DataConfig()
    for name in ("subset", "text_column", "train_split", "test_split", "validation_split", "streaming"):
        if getattr(config, name) != getattr(defaults, name):
            raise DataError(
                f"data.{name}={getattr(config, name)!r}: this does not apply to text that the network writes. Leave "
                "it out, or write ./generated for a folder of that name."
            )
    if not 1 <= config.generated_tokens <= 10**10 or not 0 < config.generated_temperature <= 100:
        raise DataError(
            f"data.generated_tokens={config.generated_tokens}, data.generated_temperature="
            f"{config.generated_temperature}: give a number of tokens from 1 up, and a temperature above 0 and up to "
            "100."
        )


def write_texts(
    network: nn.Module, tokenizer: PreTrainedTokenizerFast, config: DataConfig, *, device: torch.device
) -> Path:
    """Let a language model write texts; what it has written once, by the same seed and options, is kept.

    Each text begins as the network's texts do and goes on to its end, or to the length that the network is for.

    Args:
        network: A causal language model, in evaluation mode; back on the CPU afterwards.
        tokenizer: Its own.
        config: Says how many tokens, at which temperature, by which seed.
        device: Where the network runs.

    Returns:
        A folder in the cache of `datasets`, as `generated_data` takes it.

    Raises:
        DataError: The tokenizer has no token that a text begins with, or all texts are empty.
        TargetError: The network generates no text.
    """
    options = {
        "version": _VERSION,
        "weights": weights_digest(network.state_dict()),
        "tokenizer": hashlib.sha256(Encoder.of(tokenizer).tokenizer.encode()).hexdigest(),
        "tokens": config.generated_tokens,
        "temperature": config.generated_temperature,
        "seed": config.data_seed,
        "device": device.type,
    }
    key = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
    folder = Path(datasets_config.HF_DATASETS_CACHE, "neumeta_hf_generated", key)
    if (folder / GENERATED / _FILE).is_file():
        logger.info("the text that the network wrote before is read from %s", folder)
        return folder
    texts = _write(network.to(device), tokenizer, config, device)
    network.to("cpu")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_beside(folder) as beside:
        (beside / GENERATED).mkdir()
        datasets.Dataset.from_dict({"text": texts}).to_parquet(beside / GENERATED / _FILE)
    return folder


def _write(
    network: nn.Module, tokenizer: PreTrainedTokenizerFast, config: DataConfig, device: torch.device
) -> list[str]:
    specials: list[Any] = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    ends = [token for token in specials if token is not None]
    if not ends:
        raise DataError(
            "data.dataset=generated: the tokenizer has no token that a text begins or ends with (bos_token, "
            "eos_token). Name texts with data.dataset."
        )
    model_config: Any = network.config
    longest = min(getattr(model_config, "max_position_embeddings", None) or _LONGEST, _LONGEST)
    prompts = torch.full((_TEXTS, 1), ends[0], device=device)
    texts: list[str] = []
    num_tokens = number = 0
    with progress_bar(total=config.generated_tokens, description="writing text", unit=" tokens") as bar:
        while num_tokens < config.generated_tokens:
            found = sample_tokens(
                network,
                prompts,
                num_tokens=longest - 1,
                temperature=config.generated_temperature,
                seed=(config.data_seed * 1_000_003 + number) % 2**63,
                end=ends,
            )
            written: list[Any] = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in found]
            for text, tokens in zip(written, found, strict=True):
                if text.strip() and num_tokens < config.generated_tokens:
                    texts.append(text)
                    num_tokens += len(tokens)
                    bar.update(len(tokens))
            number += 1
            if not texts:
                raise DataError(
                    f"data.dataset=generated: the network ended all of {_TEXTS} texts before it wrote anything. Name "
                    "texts with data.dataset, or take another target.checkpoint."
                )
    return texts


def generated_data(config: DataConfig, task: Task, run: str | Path) -> DataConfig:
    """Say where the text lies that a network wrote for a run.

    Args:
        config: Whose `dataset` is "generated"; others are given back as they are.
        task: What networks do; of images "generated" is a folder like any other.
        run: The folder of the run, or one with a folder of its texts.

    Returns:
        Another config, by which the texts are loaded as any data set is.

    Raises:
        DataError: The folder has no such texts.
        CheckpointError: They are a link out of the folder.
    """
    if config.dataset != GENERATED or task.modality != "text":
        return config
    if (folder := find_folder(run, GENERATED)) is None:
        raise DataError(
            f"data.dataset=generated: {run} has no folder {GENERATED} with the text that its network wrote. Name "
            "other text of the same kind as the data set."
        )
    fraction = _TEST_FRACTION if config.test_fraction is None else config.test_fraction
    return dataclasses.replace(config, dataset=str(folder.resolve()), text_column="text", test_fraction=fraction)
