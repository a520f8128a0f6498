"""From widths to channel counts and back: the one rounding rule of the library."""

import json
import math
import numbers
from collections.abc import Mapping, Sequence

from transformers import PreTrainedConfig

from neumeta_hf.errors import SizeError
from neumeta_hf.kinds import MAX_RATIO
from neumeta_hf.targets.registry import find_target

# What saving and loading write into a config, and into one that it contains; none of it belongs to the network.
_BOOKKEEPING = ("_name_or_path", "architectures", "dtype", "model_type", "transformers_version")


def scale_channels(num_channels: int, ratio: float) -> int:
    """Round `num_channels * ratio` to an integer, halves upwards.

    Args:
        num_channels: Channels of the reference.
        ratio: Width, where 1.0 is the reference.

    Returns:
        The number of channels, which is 0 where the ratio is below `0.5 / num_channels`.
    """
    # A decimal half can fall short of itself in binary (1.005 * 100 is 100.49999999999999); the slack is far above such
    # errors and far below any difference between widths that is meant.
    return math.floor(num_channels * ratio + 0.5 + 1e-9)


def shortest_ratio(num_channels: int, wanted: int) -> float:
    """The ratio with the fewest decimals that scales `num_channels` to `wanted` channels, for use in advice."""
    candidates = (round(wanted / num_channels, digits) for digits in range(1, 17))
    return next((ratio for ratio in candidates if scale_channels(num_channels, ratio) == wanted), wanted / num_channels)


def _check_ratio(ratio: object, num_channels: int, name: str, advice: str) -> None:
    rule = f"in (0, {MAX_RATIO:g}], where 1.0 is the reference ({num_channels} channels)."
    if isinstance(ratio, bool) or not isinstance(ratio, numbers.Real):
        raise SizeError(f"{name}={ratio!r} is no ratio: it must be a number {rule}")
    value = float(ratio)
    if 0 < value <= MAX_RATIO:
        return
    message = f"{name}={ratio} is no ratio: it must lie {rule}"
    if value.is_integer() and 0 < value / num_channels <= MAX_RATIO:
        message += f" For {int(value)} channels pass {advice % shortest_ratio(num_channels, int(value))}."
    raise SizeError(message)


def _follow_parents(width: Mapping[str, float], allowed: Sequence[str], parents: Mapping[str, str]) -> dict[str, float]:
    by_group = {}
    for group in allowed:
        source = group
        while source not in width and source in parents:
            source = parents[source]
        by_group[group] = width.get(source, 1.0)
    return by_group


def resize(
    config: PreTrainedConfig, width: float | Mapping[str, float], *, groups: Sequence[str] | None = None
) -> PreTrainedConfig:
    """The config of the same network at another width.

    Args:
        config: The full-size network: every ratio is relative to it; not modified.
        width: One ratio for every group in `groups`, or a ratio by group. A group that is not named follows its parent
            where that is named (see `TargetFamily.parents`), and stays as it is otherwise. Counts are rounded to whole
            channels, or to whole multiples where the family asks for them (see `TargetFamily.multiples`).
        groups: Width groups that may change. None: all.

    Returns:
        A new config, possibly of another class.

    Raises:
        SizeError: A ratio is not a number in (0, 4], or leaves a group without channels; a group is unknown or not
            among `groups`; the architecture cannot have these numbers of channels.
        TargetError: The config belongs to no registered family.
    """
    family = find_target(config)
    full = family.num_channels(config)
    if unknown := [group for group in groups or () if group not in full]:
        raise SizeError(f"groups={list(groups or ())} has {unknown[0]!r}: {family.name!r} has {', '.join(full)}.")
    allowed = [group for group in full if groups is None or group in groups]

    if isinstance(width, Mapping):
        for group, ratio in width.items():
            if group not in allowed:
                raise SizeError(f"width names {group!r}, which cannot change here: choose among {', '.join(allowed)}.")
            _check_ratio(ratio, full[group], f"width[{group!r}]", f"width={{{group!r}: %s}}")
        by_group = _follow_parents(width, allowed, family.parents(config))
    else:
        _check_ratio(width, max(full[group] for group in allowed or full), "width", "width=%s")
        by_group = dict.fromkeys(allowed, width)

    multiples = family.multiples(config)
    units = {group: count // multiples.get(group, 1) for group, count in full.items()}
    counts = {group: scale_channels(units[group], by_group.get(group, 1.0)) * multiples.get(group, 1) for group in full}
    if empty := [group for group, count in counts.items() if count == 0]:
        group = min(empty, key=lambda name: units[name])
        step = f" in steps of {multiples[group]}" if group in multiples else ""
        raise SizeError(
            f"width={by_group[group]} leaves no channel of the {full[group]} in {group!r}{step}: "
            f"the smallest possible ratio is {0.5 / units[group]!r}."
        )
    return family.with_num_channels(config, counts)


def _network_fields(config: PreTrainedConfig) -> dict:
    def without_bookkeeping(fields: dict) -> dict:
        return {key: value for key, value in fields.items() if key not in _BOOKKEEPING}

    # Through JSON, because lists come back where tuples went in.
    return json.loads(json.dumps(config.to_dict(), default=str), object_hook=without_bookkeeping)


def ratios(config: PreTrainedConfig, reference_config: PreTrainedConfig) -> dict[str, float]:
    """The width of every group of `config`, relative to the reference: the inverse of `resize`.

    Args:
        config: A network of some size.
        reference_config: The full-size network.

    Returns:
        Width group to ratio, in data-flow order.

    Raises:
        SizeError: The two networks are not of one family, or differ in something else than the number of channels.
        TargetError: The reference belongs to no registered family.
    """
    family = find_target(reference_config)
    if not family.accepts(config):
        raise SizeError(
            f"a config of model type {config.model_type!r} is no size of one of {reference_config.model_type!r}: "
            f"take one of the target family {family.name!r}."
        )
    counts, full = family.num_channels(config), family.num_channels(reference_config)
    if list(counts) != list(full):
        raise SizeError(
            f"the config has the width groups {', '.join(counts)}, the reference has {', '.join(full)}: "
            "only the number of channels may differ. Take a config made by `resize` from this reference."
        )
    ours = _network_fields(family.with_num_channels(config, full))
    theirs = _network_fields(family.with_num_channels(reference_config, full))
    if different := [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]:
        key = different[0]
        raise SizeError(
            f"the config has {key}={ours.get(key)!r}, the reference has {theirs.get(key)!r}: only the number of "
            "channels may differ. Take a config made by `resize` from this reference."
        )
    return {group: counts[group] / full[group] for group in full}
