"""Fields that transformers gives every config: values of the wrong kind are refused by name before it trips on them."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig

from neumeta_hf.errors import CheckpointError
from neumeta_hf.kinds import COUNT, Kind


def _is_name_of_floats(value: Any) -> bool:
    found = getattr(torch, value, None) if isinstance(value, str) else value
    return isinstance(found, torch.dtype) and found.is_floating_point


def _is_index(value: Any) -> bool:
    return COUNT.holds(value) or (isinstance(value, str) and value.isdecimal())


def _maps(value: Any, is_key: Any, is_entry: Any) -> bool:
    return isinstance(value, Mapping) and all(is_key(key) and is_entry(entry) for key, entry in value.items())


def _is_label(value: Any) -> bool:
    return isinstance(value, str) or COUNT.holds(value)


_NAME_OF_FLOATS = Kind('the name of a type of floats, such as "float32"', _is_name_of_floats).or_none()
_FIELDS = {
    "id2label": Kind(
        'a mapping of class numbers to names, such as {"0": "cat"}', lambda value: _maps(value, _is_index, _is_label)
    ).or_none(),
    "label2id": Kind(
        'a mapping of names to class numbers, such as {"cat": 0}', lambda value: _maps(value, _is_label, _is_index)
    ).or_none(),
    "num_labels": COUNT.or_none(),
    "dtype": _NAME_OF_FLOATS,
    "torch_dtype": _NAME_OF_FLOATS,
    "problem_type": Kind("a text", lambda value: isinstance(value, str)).or_none(),
    "architectures": Kind(
        "a list of names", lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value)
    ).or_none(),
}


def check_fields(config: Mapping[str, Any], where: str = "config.json") -> None:
    """Refuse values of a config, and of configs in it, that no network has.

    Args:
        config: Plain values.
        where: What to call it in the error.

    Raises:
        CheckpointError: Naming the field, its value and what it must be.
    """
    for key, kind in _FIELDS.items():
        if key in config and not kind.holds(config[key]):
            raise CheckpointError(f"{where}: {key}={_shown(config[key])}, and it must be {kind.rule}.")
    for key, value in config.items():
        found = getattr(PreTrainedConfig, str(key), None)
        if callable(found) or (isinstance(found, property) and found.fset is None):
            raise CheckpointError(
                f"{where}: {_shown(key)} is not a field of a config, and would hide one of its methods. Rename or "
                "remove it."
            )
        if isinstance(value, Mapping) and "model_type" in value:
            check_fields(value, f"{where}: {key}")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."
