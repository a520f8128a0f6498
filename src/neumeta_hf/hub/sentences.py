"""What makes a morph of a sentence encoder a model of sentence-transformers, from tokens to vectors of length one."""

import json
from pathlib import Path
from typing import Any

from neumeta_hf.hub.preprocessors import SETTINGS, TOKENIZER
from neumeta_hf.reading import read_json

_POOLING, _NORMALIZE = "1_Pooling", "2_Normalize"
# Names and keys that every version since 2.0 reads; newer ones write others.
_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": _POOLING, "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": _NORMALIZE, "type": "sentence_transformers.models.Normalize"},
]


def write_sentence_modules(folder: Path) -> None:
    """Write how sentence-transformers makes vectors of a network: the mean over tokens, brought to length one.

    Nothing is written where there is no tokenizer, without which it reads no text, or where the network's config does
    not say how long its vectors are, as transformers' own encoders do.

    Args:
        folder: Of the network, with its config and its tokenizer.

    Raises:
        CheckpointError: The tokenizer's settings are no JSON, or map no keys to values.
    """
    config = read_json(folder / "config.json")
    if not (folder / TOKENIZER).is_file() or "hidden_size" not in config:
        return
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    pooling = {"word_embedding_dimension": config["hidden_size"], "pooling_mode_mean_tokens": True}
    others = ("cls_token", "max_tokens", "mean_sqrt_len_tokens")
    pooling |= {f"pooling_mode_{name}": False for name in others}  # older ones default to nothing
    (folder / _POOLING).mkdir()
    (folder / _NORMALIZE).mkdir()  # older ones read no file of it
    _write(_MODULES, folder / "modules.json")
    _write(pooling, folder / _POOLING / "config.json")
    _write({}, folder / _NORMALIZE / "config.json")
    _write({"max_seq_length": _longest(config, settings), "do_lower_case": False}, folder / "sentence_bert_config.json")


def _longest(config: dict[str, Any], settings: dict[str, Any]) -> int | None:
    """How many tokens the network has positions for, or fewer where the tokenizer says so; None: nobody says."""
    positions, said = config.get("max_position_embeddings"), settings.get("model_max_length")
    if positions is not None and "roberta" in config["model_type"]:
        positions -= (config.get("pad_token_id") or 0) + 1  # its positions begin behind the padding token's number
    limits = [positions, said if type(said) is int and said > 0 else None]
    return min((limit for limit in limits if limit is not None), default=None)


def _write(values: Any, path: Path) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
