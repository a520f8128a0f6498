"""A fresh head for a trained network: transfer to the classes of other data."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from neumeta_hf.errors import TargetError
from neumeta_hf.targets import TargetFamily, config_of

logger = logging.getLogger(__name__)


def name_classes(config: Any, label_names: Sequence[str]) -> None:
    """Let a config have classes of these names.

    Args:
        config: Changed; the number of its classes follows.
        label_names: In the order of the network's outputs.
    """
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in enumerate(label_names)}


def with_new_head(network: nn.Module, family: TargetFamily, label_names: Sequence[str]) -> nn.Module:
    """Give a network a fresh head for other classes; all else keeps its weights.

    The head is every tensor whose shape depends on the number of classes. Its weights are drawn as the architecture
    draws them, from torch's current seed.

    Args:
        network: A network of the family; not modified.
        family: Builds the network.
        label_names: Names of the new classes, in order.

    Returns:
        Another network, in evaluation mode.

    Raises:
        TargetError: No tensor of the network depends on the number of classes.
    """
    config = copy.deepcopy(config_of(network))
    name_classes(config, label_names)
    made = family.build(config)
    head = _head_names(family, config)
    if not head:
        raise TargetError(
            f"target.new_head: no tensor of a {type(network).__name__} depends on the number of classes, so it has no "
            "head to renew. Leave target.new_head out."
        )
    kept = {name: tensor for name, tensor in network.state_dict().items() if name not in head}
    missing, unexpected = made.load_state_dict(kept, strict=False)
    assert set(missing) == head, missing
    assert not unexpected, unexpected
    logger.info("target.new_head: drawn anew for %d classes: %s", len(label_names), ", ".join(sorted(head)))
    return made.eval()


def _head_names(family: TargetFamily, config: PreTrainedConfig) -> set[str]:
    """Tensors whose shape depends on the number of classes, found without any layer's name."""
    shapes = []
    for number in (len(config.id2label or ()), len(config.id2label or ()) + 1):
        other = copy.deepcopy(config)
        name_classes(other, [str(index) for index in range(number)])
        shapes.append({name: tensor.shape for name, tensor in family.empty(other).state_dict().items()})
    fewer, more = shapes
    return {name for name, shape in fewer.items() if shape != more[name]}
