"""The one way to the data of a recipe, whether it is of images or of text; the task decides."""

import dataclasses
import os
from typing import Any

from transformers import PreTrainedTokenizerFast

from neumeta_hf.data.base import Data
from neumeta_hf.data.config import GENERATED, DataConfig
from neumeta_hf.data.generation import check_generated
from neumeta_hf.data.image_streams import stream_image_data
from neumeta_hf.data.loading import load_image_data
from neumeta_hf.data.pairs import load_pair_data
from neumeta_hf.data.partition import load_splits
from neumeta_hf.data.text import find_text_column, load_text_data
from neumeta_hf.data.text_streams import stream_text_data
from neumeta_hf.data.tokenization import CHARACTERS, character_tokenizer, load_tokenizer
from neumeta_hf.errors import DataError
from neumeta_hf.tasks import Task

_TEXT = ("text_column", "text_columns", "score_column", "block_size", "tokenizer")
_TEXT += ("generated_tokens", "generated_temperature")
_SHARED = ("dataset", "subset", "train_split", "test_split", "test_fraction", "validation_split")
_SHARED += ("validation_fraction", "data_seed", "streaming", "shuffle_blocks", "kept_blocks")


def check_keys(config: DataConfig, task: Task) -> None:
    """Refuse keys of images where a task reads text, and the other way round: nothing would look at them.

    Args:
        config: What a recipe says of its data.
        task: What its networks do.

    Raises:
        DataError: Naming the key.
    """
    defaults = DataConfig()
    is_text = task.modality == "text"
    said = [
        field.name
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(defaults, field.name)
    ]
    foreign = [name for name in said if name not in _SHARED and (name in _TEXT) != is_text]
    if is_text and config.labels == "none":
        foreign.remove("labels")
    if config.dataset == GENERATED and is_text:
        check_generated(config, task)
    if not foreign:
        return
    read, other = ("text", "images") if is_text else ("images", "text")
    raise DataError(
        f"data.{foreign[0]}={getattr(config, foreign[0])!r} is for {other}, but {task.name} reads {read}: leave it out."
    )


def make_preprocessor(config: DataConfig, task: Task, source: str | None, *, prefer_source: bool = False) -> Any:
    """Make what turns raw data into a network's input outside of this library, and travels with its weights.

    Args:
        config: What a recipe says of its data.
        task: What its networks do.
        source: Folder or Hub id of the network, beside which a tokenizer may lie; None: there is none.
        prefer_source: Whether that tokenizer comes before the one that the config names, as for a network that was
            trained with it.

    Returns:
        A tokenizer; an image processor; or None where the ecosystem has it in code.

    Raises:
        DataError: There is no tokenizer, or it is damaged; or a key of the config is of no such data.
        HubError: What lies beside the network cannot be read.
        RecipeError: Images cannot be made so for the task.
    """
    check_keys(config, task)
    if task.modality == "image":
        return task.make_image_processor(**dataclasses.asdict(config.preprocessing))
    if prefer_source and source is not None:
        return load_tokenizer(source, what="the checkpoint")
    if config.tokenizer == CHARACTERS and config.dataset == GENERATED:
        raise DataError(
            "data.tokenizer=characters with data.dataset=generated: a network writes text with its own tokenizer. "
            "Leave data.tokenizer out."
        )
    if config.tokenizer == CHARACTERS and config.streaming:
        raise DataError(
            "data.tokenizer=characters with data.streaming=true: its characters are counted over a whole split, and a "
            "stream is never read whole. Name a tokenizer, or set data.streaming to false."
        )
    if config.tokenizer == CHARACTERS:
        loaded = load_splits(config, is_text=True)
        return character_tokenizer(loaded["train"][find_text_column(loaded, config)])
    if config.tokenizer is not None:
        return load_tokenizer(os.path.expanduser(config.tokenizer), what="data.tokenizer")
    if source is None:
        raise DataError(
            "data.tokenizer is left out, and there is no target.checkpoint to take a tokenizer from: name a folder or "
            "Hub id that has one, or set data.tokenizer: characters."
        )
    return load_tokenizer(source, what="target.checkpoint")


def load_data(config: DataConfig, task: Task, preprocessor: Any = None) -> Data:
    """Load and split the data of a recipe.

    Args:
        config: What a recipe says of its data.
        task: What its networks do, which decides how the data is read.
        preprocessor: As from `make_preprocessor`; images need none.

    Returns:
        The splits.

    Raises:
        DataError: As `load_image_data`, `load_text_data`, `load_pair_data` or what streams these; or a key of the
            config is of no such data.
    """
    check_keys(config, task)
    if task.modality == "image":
        return stream_image_data(config) if config.streaming else load_image_data(config)
    assert isinstance(preprocessor, PreTrainedTokenizerFast)
    if "similarity" in task.labels:
        return load_pair_data(config, preprocessor)
    load = stream_text_data if config.streaming else load_text_data
    return load(config, preprocessor, mask_probability=getattr(task, "mask_probability", None))
