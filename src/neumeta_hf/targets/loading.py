"""Loading networks of transformers and diffusers, all of whose weights must be in their checkpoint."""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from neumeta_hf.checkpoints import (
    Checkpoint,
    check_keys,
    check_numbers,
    explain_loading_errors,
    forget_origin,
    limit_building,
    open_checkpoint,
)
from neumeta_hf.config_fields import check_fields
from neumeta_hf.errors import CheckpointError


def load_complete(
    cls: Any,
    name: str,
    *,
    build: Callable[[Any], nn.Module] | None = None,
    dropped: tuple[str, ...] = (),
    **options: Any,
) -> nn.Module:
    """Load a network all of whose weights are in its checkpoint.

    transformers and diffusers leave the others random, and say so in their log alone. Before they are asked, the files
    are looked at: nothing outside of the checkpoint is read, nothing in it runs, and no memory is taken that the
    weights do not fill.

    Args:
        cls: A class of transformers or diffusers, or an Auto class.
        name: A folder or Hub id.
        build: Makes the network of a config, or of the fields that diffusers calls one. None: as the class does.
        dropped: Prefixes of weights that a checkpoint may hold and the network does not take.
        **options: Options of `from_pretrained`.

    Returns:
        The network, in evaluation mode.

    Raises:
        CheckpointError: It cannot be read, or is of another architecture. Its weights are not numbers, are not those
            that were saved, are too few or too many.
        MissingCheckpointError: There is no such network; also an OSError.
    """
    checkpoint = _open(name, options)
    name, config = checkpoint.name, cast(Any, checkpoint.config)
    is_of_diffusers = hasattr(cls, "load_config")
    if not is_of_diffusers:
        config, options = _make_config(checkpoint, options)
        options |= {"config": config, "trust_remote_code": options.get("trust_remote_code", False)}
    make: Callable[[Any], nn.Module] = build or getattr(cls, "from_config", cls)
    variant = options.get("variant")
    held = checkpoint.read_weights(stem="diffusion_pytorch_model" if is_of_diffusers else "model", variant=variant)
    with torch.device("meta"), limit_building():
        network = explain_loading_errors(name, lambda: make(copy.deepcopy(config)))
    checkpoint.check_network(held.check_network(network, dropped=dropped))
    model, info = checkpoint.load(cls.from_pretrained, output_loading_info=True, **options)
    check_keys(info, name, dropped=dropped)
    forget_origin(model)
    return model.eval()


def load_config(name: str, **options: Any) -> PreTrainedConfig:
    """Load the config of a network of transformers, with the checks that `load_complete` makes of it.

    Args:
        name: A folder or Hub id.
        **options: Options of `from_pretrained`.

    Returns:
        The config.

    Raises:
        CheckpointError: It cannot be read, or no network can be built of it.
        MissingCheckpointError: There is no such network; also an OSError.
    """
    config, _ = _make_config(_open(name, options), options)
    return config


def _open(name: str, options: dict[str, Any]) -> Checkpoint:
    """Open the checkpoint of a network; those of `options` that say where its files lie are taken out."""
    checkpoint = open_checkpoint(name, options)
    check_numbers(checkpoint.config)
    check_fields(checkpoint.config, f"{checkpoint.name}: config.json")
    return checkpoint


def _make_config(checkpoint: Checkpoint, options: dict[str, Any]) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """The config of a network of transformers, and the options that are none of its fields."""
    kind = checkpoint.config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        problem = f"{checkpoint.name} cannot be loaded: {kind_of(checkpoint)}, and transformers has no such networks."
        python, command = needed_code(checkpoint)
        raise CheckpointError(problem + python, command=problem + command)
    return checkpoint.make_config(CONFIG_MAPPING[kind], options)


def kind_of(checkpoint: Checkpoint) -> str:
    """Describe a checkpoint that no target family has, for an error."""
    config = checkpoint.config
    kind = config.get("model_type", config.get("_class_name"))
    if isinstance(kind, str):
        return f"it is of model type {kind!r}"
    if "architecture" in config:
        return (
            f"it is a network of timm ({str(config['architecture'])[:40]}), which only timm reads (take the same "
            "network from transformers, or copy its weights into that one and save it with save_pretrained)"
        )
    return "its config.json names no model_type"


def needed_code(checkpoint: Checkpoint) -> tuple[str, str]:
    """Advise on a network that only code beside its weights can build, in Python and on the command line."""
    if not checkpoint.code:
        return "", ""
    found = f" It names code of its own ({'; '.join(checkpoint.code)[:200]}), and none of it runs here: read it, and "
    return (
        f"{found}load the network yourself in Python with trust_remote_code=True, and pass it to prepare().",
        f"{found}load the network yourself in Python. To use a target family of your own, name its module with "
        "--import MODULE.",
    )
