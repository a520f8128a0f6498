"""Networks in float32, whatever they were saved in: what is trained and compared needs all of its bits."""

import logging

import torch
from torch import nn

from neumeta_hf.checkpoints import open_checkpoint
from neumeta_hf.targets.registry import TargetFamily, load_network

logger = logging.getLogger(__name__)


def load_in_float32(name: str, family: TargetFamily | None = None) -> nn.Module:
    """Load a network in float32, and say so where its config names another precision.

    Args:
        name: A folder or Hub id, or a file of weights where the target family reads such.
        family: Target family of the network. None: as its config.json says.

    Returns:
        The network, in evaluation mode; its config says float32, too.

    Raises:
        TargetError: No registered target family has such networks, or `family` reads no bare weights.
        CheckpointError: It cannot be read, or lacks weights or has too many.
        MissingCheckpointError: There is no such network; also an OSError.
    """
    load = load_network if family is None else family.load
    network = load(name, dtype=torch.float32)
    if (saved := _saved_precision(name)) not in (None, "float32"):
        logger.warning(
            "%s was saved in %s: it is read in float32, and everything made from it is float32.", name, saved
        )
    return network


def _saved_precision(name: str) -> str | None:
    if name.endswith(".safetensors"):
        return None
    values = open_checkpoint(name).config
    saved = values.get("dtype", values.get("torch_dtype"))
    return saved if isinstance(saved, str) else None
