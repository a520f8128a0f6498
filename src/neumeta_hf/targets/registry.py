"""What a target family is, and the registry that finds the family of a config.

A target family is one architecture at every size. It says which *width groups* the architecture has: sets of axes that
can only grow and shrink together (tied residual streams are one group). That weights can be generated it does not know.
"""

import abc
import copy
import operator
from collections.abc import Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel

from neumeta_hf.errors import SizeError, TargetError


class TargetFamily(abc.ABC):
    """One architecture at every size; stateless, so that one instance serves all configs.

    Attributes:
        name: What the family is called in the registry.
        model_types: The `model_type` of each config class that the family's networks have.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]

    def accepts(self, config: PreTrainedConfig) -> bool:
        """Whether `config` describes a network of this family."""
        return config.model_type in self.model_types

    def build(self, config: PreTrainedConfig) -> PreTrainedModel:
        """Make the network, in train mode and with fresh random weights; under `torch.device("meta")` without any.

        Args:
            config: One that the family accepts; not modified.

        Returns:
            An image classifier that takes `pixel_values` and returns an output with `logits`.
        """
        return AutoModelForImageClassification.from_config(copy.deepcopy(config))

    @abc.abstractmethod
    def num_channels(self, config: PreTrainedConfig) -> dict[str, int]:
        """How many channels each width group has, in data-flow order."""

    def parents(self, config: PreTrainedConfig) -> dict[str, str]:
        """Inner group to the group whose ratio it follows unless it is named itself; no entry for the others."""
        return {}

    @abc.abstractmethod
    def with_num_channels(self, config: PreTrainedConfig, num_channels: Mapping[str, int]) -> PreTrainedConfig:
        """The config of the same network with other numbers of channels.

        `with_num_channels(config, num_channels(config))` equals `config`.

        Args:
            config: The network to start from; not modified.
            num_channels: A count for every width group; any integer type.

        Returns:
            A new config, possibly of another class.

        Raises:
            SizeError: A group lacks a count, is unknown or has no channels, or the architecture cannot have these
                counts; the message says which it can have.
        """

    def fused_config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """The config of the same network after its BatchNorm was fused into the convolutions.

        A copy of `config` where the architecture cannot leave its BatchNorm modules out.
        """
        return copy.deepcopy(config)

    @abc.abstractmethod
    def image_shape(self, config: PreTrainedConfig) -> tuple[int, int, int]:
        """Channels, height and width, in pixels, of one image that the network is made for."""

    def example_inputs(self, config: PreTrainedConfig, batch_size: int = 2) -> Tensor:
        """The same normal noise at every call, on the CPU: `[batch_size, channels, height, width]`."""
        generator = torch.Generator("cpu").manual_seed(0)
        return torch.randn(batch_size, *self.image_shape(config), generator=generator, device="cpu")

    def check_channels(self, config: PreTrainedConfig, num_channels: Mapping[str, int]) -> dict[str, int]:
        """`num_channels` as plain integers in the order of the groups, for `with_num_channels` to start from.

        Raises:
            SizeError: A group lacks a count or is unknown, or a count is not a positive integer.
        """
        groups = list(self.num_channels(config))
        if set(num_channels) != set(groups):
            raise SizeError(
                f"channels are given for {', '.join(map(str, num_channels)) or 'nothing'}, but {self.name!r} needs a "
                f"count for each of its width groups: {', '.join(groups)}."
            )
        counts = {}
        for group in groups:
            count = num_channels[group]
            if isinstance(count, bool) or not hasattr(count, "__index__") or operator.index(count) < 1:
                raise SizeError(f"{group!r} cannot have {count!r} channels: a count is an integer from 1 up.")
            counts[group] = operator.index(count)
        return counts


Family = TypeVar("Family", bound=TargetFamily)

_REGISTRY: dict[str, TargetFamily] = {}


def register_target(cls: type[Family]) -> type[Family]:
    """Class decorator: puts one instance of the family into the registry under its `name`.

    Returns:
        The class, unchanged.

    Raises:
        TargetError: Another class holds the name.
    """
    known = _REGISTRY.setdefault(cls.name, cls())
    if type(known) is not cls:
        raise TargetError(f"target family {cls.name!r} is taken by {type(known).__name__}: choose another name.")
    return cls


def list_targets() -> list[str]:
    """Names of the registered target families."""
    return sorted(_REGISTRY)


def find_target(config_or_name: PreTrainedConfig | str) -> TargetFamily:
    """The target family of a config, or the one of that name.

    Raises:
        TargetError: No registered family has this name or accepts this config.
    """
    if isinstance(config_or_name, str):
        wanted, found = repr(config_or_name), _REGISTRY.get(config_or_name)
    else:
        wanted = f"of model type {config_or_name.model_type!r}"
        found = next((family for family in _REGISTRY.values() if family.accepts(config_or_name)), None)
    if found is not None:
        return found
    raise TargetError(
        f"no target family {wanted} is registered: there is {', '.join(list_targets())}. "
        "docs/new_target.md shows how to add one in a single file."
    )
