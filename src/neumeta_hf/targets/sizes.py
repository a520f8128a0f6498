"""From a config and a width to a config, and back."""

import json
from collections.abc import Mapping, Sequence

from transformers import PreTrainedConfig

from neumeta_hf.axes import Size
from neumeta_hf.errors import SizeError
from neumeta_hf.targets.registry import find_target

# What saving and loading write into a config, and into one that it contains; none of it belongs to the network.
_BOOKKEEPING = ("_name_or_path", "architectures", "dtype", "model_type", "transformers_version")


def resize(
    config: PreTrainedConfig, width: float | Mapping[str, float], *, groups: Sequence[str] | None = None
) -> PreTrainedConfig:
    """Make the config of the same network at another width.

    Args:
        config: The full-size network: every ratio is relative to it; not modified.
        width: As for `SizeSpace.size`.
        groups: Axes that may change. None: all.

    Returns:
        A new config, possibly of another class.

    Raises:
        SizeError: As for `SizeSpace.size`; or `groups` names an unknown axis.
        TargetError: The config belongs to no registered target family.
    """
    family = find_target(config)
    space = family.space(config)
    if unknown := [group for group in groups or () if group not in space.axes]:
        raise SizeError(
            f"groups={list(groups or ())} names {unknown[0]!r}, which is unknown: {family.name!r} has "
            f"{', '.join(space.axes)}."
        )
    return family.config_at(config, space.size(width, free=groups))


def size_of(config: PreTrainedConfig, reference_config: PreTrainedConfig) -> Size:
    """Read the size of a network that is a size of a reference.

    Args:
        config: A network of some size.
        reference_config: The full-size network.

    Returns:
        The size.

    Raises:
        SizeError: The two networks are not of one target family, or differ in something else than the number of
            channels.
        TargetError: The reference belongs to no registered target family.
    """
    family = find_target(reference_config)
    if not family.accepts(config):
        raise SizeError(
            f"a config of model type {config.model_type!r} is not a size of a reference of "
            f"{reference_config.model_type!r}: take one of the target family {family.name!r}."
        )
    size, full = family.size_of(config), family.size_of(reference_config)
    if list(size) != list(full):
        raise SizeError(
            f"the config has the width groups {', '.join(size)}, the reference has {', '.join(full)}: "
            "only the number of channels may differ. Take a config made by `resize` from this reference."
        )
    ours = _network_fields(family.config_at(config, full))
    theirs = _network_fields(family.config_at(reference_config, full))
    if different := [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]:
        key = different[0]
        raise SizeError(
            f"the config has {key}={ours.get(key)!r}, the reference has {theirs.get(key)!r}: only the number of "
            "channels may differ. Take a config made by `resize` from this reference."
        )
    return size


def ratios(config: PreTrainedConfig, reference_config: PreTrainedConfig) -> dict[str, float]:
    """Compute the width of every axis of `config`, relative to the reference: the inverse of `resize`.

    Args:
        config: A network of some size.
        reference_config: The full-size network.

    Returns:
        Axis to ratio, in data-flow order.

    Raises:
        SizeError: As for `size_of`.
        TargetError: The reference belongs to no registered target family.
    """
    size = size_of(config, reference_config)
    return {axis.name: size[axis.name] / axis.full for axis in find_target(reference_config).axes(reference_config)}


def _network_fields(config: PreTrainedConfig) -> dict:
    def without_bookkeeping(fields: dict) -> dict:
        return {key: value for key, value in fields.items() if key not in _BOOKKEEPING}

    # Through JSON, because lists come back where tuples went in.
    return json.loads(json.dumps(config.to_dict(), default=str), object_hook=without_bookkeeping)
