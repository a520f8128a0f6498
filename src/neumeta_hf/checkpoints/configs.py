"""What a config may say: no number that no network has, no code to run, nothing that lies elsewhere."""

import math
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from neumeta_hf.errors import CheckpointError

_MAX_NUMBER = 2**20
_MAX_DEPTH = 2**10
_MAX_LAYERS = 2**12
_MAX_ENTRIES = 2**12
_MAX_LABELS = 2**15
"""Each is a name in every config; the largest sets of images have about 22,000 classes."""
_DEPTHS = ("num_blocks", "depths", "layers_per_block", "num_hidden_layers", "num_frequencies", "levels")
_EACH_BLOCK = ("layers_per_block",)
_LENGTHS = ("norm_num_groups",)
"""Into so many parts an axis is cut, and lists name each."""
_FREE = ("chunk_size", "recompute_above")
"""Bounds on memory, not sizes."""
_BUILT_OF = ("target_config", "hypernetwork")
"""What networks are built of; each entry of a list in it may be a layer or a block."""
_REPORTS = ("preparation",)
"""Nothing is built of these, and their lists are as long as a network has channels."""

_CODE = (
    "auto_map",
    "custom_pipelines",
    # Each of these may name a repo on the Hub whose compiled code is then loaded, or patches the network's classes.
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "_experts_implementation",
    "kernel_config",
    "use_kernels",
    "fusion_config",
)
_ORIGIN = ("_name_or_path", "name_or_path", "_commit_hash", "transformers_weights", "configuration_files")
"""Where something was loaded from, or that something is to be read elsewhere."""


def check_numbers(config: Any, where: str = "config.json", *, advice: str | None = None) -> None:
    """Refuse sizes that no network has, before anything is built of them.

    Args:
        config: Plain values, nested.
        where: What to call it in the error.
        advice: The way out; None: that of a checkpoint.

    Raises:
        CheckpointError: A number of channels and the like is above 2^20, a number of layers above 2^10 or, over all
            blocks, 2^12; a list has more than 2^12 entries, or one that a network is built of more than 2^10; a number
            is not finite.
    """
    advice = advice or "Its config.json is damaged or not to be trusted."
    if isinstance(config, Mapping):
        _check_layers(config, where, advice)
        for key, value in config.items():
            if key not in _FREE:
                check_numbers(value, f"{where}: {key}", advice=advice)
    elif isinstance(config, (list, tuple)):
        parts = where.split(": ")
        most = _MAX_DEPTH if any(part in _BUILT_OF for part in parts) else _MAX_ENTRIES
        if len(config) > most and not any(part in _REPORTS for part in parts):
            raise CheckpointError(
                f"{where} has {len(config):,} entries: at most {most:,} are read from a checkpoint, as each may "
                f"be a layer or a size. {advice}"
            )
        for value in config:
            check_numbers(value, where, advice=advice)
    elif isinstance(config, float) and not math.isfinite(config):
        raise CheckpointError(f"{where}={config}: it is no finite number. {advice}")
    elif isinstance(config, int) and not isinstance(config, bool):
        key = where.rpartition(": ")[2]
        most = _MAX_DEPTH if key in _DEPTHS + _LENGTHS else _MAX_LABELS if key == "num_labels" else _MAX_NUMBER
        if abs(config) > most:
            raise CheckpointError(
                f"{where}={_short(config)}: at most {most:,} are read from a checkpoint, so that it cannot ask for all "
                f"memory. {advice}"
            )


def _check_layers(config: Mapping[str, Any], where: str, advice: str) -> None:
    """Refuse products: so many layers in each of so many blocks, each within its own bound."""
    blocks = max((len(value) for value in config.values() if isinstance(value, (list, tuple))), default=1)
    for key in _DEPTHS:
        value = config.get(key)
        counts = value if isinstance(value, (list, tuple)) else [value] * (blocks if key in _EACH_BLOCK else 1)
        in_all = sum(count for count in counts if isinstance(count, int) and count <= _MAX_DEPTH)
        if in_all > _MAX_LAYERS:
            raise CheckpointError(
                f"{where}: {key}={_short(value)} makes {in_all:,} layers in all: at most {_MAX_LAYERS:,} are read from "
                f"a checkpoint. {advice}"
            )


def _short(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 128:  # Python refuses to write out very long ones
        return f"an integer of {value.bit_length():,} bits"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def check_config(values: Mapping[str, Any], name: str) -> list[str]:
    """Refuse a config whose network would be read from elsewhere, or whose weights are in another form.

    Args:
        values: Values of its config.json.
        name: Name of the checkpoint.

    Returns:
        What code it names, such as "auto_map: AutoModel=modeling.Model"; none of it is run.

    Raises:
        CheckpointError: Naming the key and the way out.
    """
    found = []
    for path, key, value, beside in _walk(values):
        if key == "quantization_config" and value is not None:
            raise CheckpointError(
                f"{name}: its config.json has {path}, so its weights are quantised, and only plain ones are read. Load "
                "it in Python with its own library, dequantise it, and save it with save_pretrained."
            )
        if key == "backbone" and isinstance(value, str) and _takes_backbone_config(beside):
            raise CheckpointError(
                f"{name}: its config.json names {path}={value!r}, a network stored elsewhere, and nothing outside a "
                "checkpoint is read. Load it in Python and save it with save_pretrained: this also writes the "
                "backbone's config."
            )
        if key in _CODE and value not in (None, {}, [], "") and not _is_our_own(value):
            told = value if not isinstance(value, Mapping) else ", ".join(f"{k}={v}" for k, v in value.items())
            found.append(f"{path}: {_short(told)}")
    return found


def without_origin(values: Any) -> Any:
    """Copy plain values without what names code, or tells where something was loaded from.

    Args:
        values: Values of a config, nested.

    Returns:
        All other keys.
    """
    if isinstance(values, Mapping):
        return {key: without_origin(value) for key, value in values.items() if key not in _CODE + _ORIGIN}
    return [without_origin(value) for value in values] if isinstance(values, list) else values


def forget_origin(network: Any) -> None:
    """Drop from the config of a network, and from those inside of it, what names code and where it was loaded from.

    Args:
        network: A network of transformers or of diffusers, or a config of transformers; its config is changed.
    """
    config = network if isinstance(network, PreTrainedConfig) else getattr(network, "config", None)
    if isinstance(config, PreTrainedConfig):
        config.name_or_path = ""
        for key in {*_CODE, *_ORIGIN} - {"_name_or_path"}:
            vars(config).pop(key, None)
        for value in vars(config).values():
            if isinstance(value, PreTrainedConfig):
                forget_origin(value)
    elif isinstance(kept := getattr(network, "_internal_dict", None), dict):  # what diffusers calls a config
        network._internal_dict = type(kept)({key: kept[key] for key in kept if key not in _CODE + _ORIGIN})


def _walk(values: Any, path: str = ""):
    """Every key of nested plain values: its path, itself, its value and the mapping that it stands in."""
    for key, value in values.items() if isinstance(values, Mapping) else ():
        here = f"{path}.{key}" if path else str(key)
        yield here, key, value, values
        yield from _walk(value, here)
    for value in values if isinstance(values, list) else ():
        yield from _walk(value, path)


def _is_our_own(value: Any) -> bool:
    """Whether it is what a push with this package's modeling code writes; where the package is, that does not run."""
    ours = ("configuration_neumeta.NeuMeta", "modeling_neumeta.NeuMeta", "modeling_tasks.NeuMeta")
    return isinstance(value, Mapping) and all(str(name).startswith(ours) for name in value.values())


def _takes_backbone_config(values: Mapping[str, Any]) -> bool:
    # Here, because importing it is what makes the Auto classes known, which imports this package's models.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING or values.get("backbone_config") is not None:
        return False
    parts: Any = CONFIG_MAPPING[kind].sub_configs
    return "backbone_config" in parts
