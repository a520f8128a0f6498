"""The sizes of a family as its checkpoint states them, so that rules that have changed since are found by name."""

import importlib.metadata
import re
from collections.abc import Mapping
from typing import Any

from neumeta_hf.errors import CheckpointError
from neumeta_hf.kinds import COUNT, MAPPING, NAME, Kind, list_of, whole_number
from neumeta_hf.space import SizeSpace

_KINDS: Mapping[str, Mapping[str, Kind]] = {
    "axes": {"count": whole_number(1), "step": whole_number(1), "parent": NAME.or_none()},
    "depths": {"fixed": list_of(COUNT), "ranking": list_of(COUNT)},
}
_VERSION = re.compile(r"\d[\w.+]{0,30}")


def describe_space(space: SizeSpace) -> dict[str, Any]:
    """Say in plain values what sizes a network has.

    Args:
        space: Space of the network.

    Returns:
        Its axes and its stacks of blocks by name; no tensors.
    """
    return {
        "axes": {
            name: {"count": axis.full, "step": axis.step, "parent": axis.parent} for name, axis in space.axes.items()
        },
        "depths": {
            name: {"fixed": list(stack.fixed), "ranking": list(stack.ranking)} for name, stack in space.depths.items()
        },
    }


def check_description(stated: Any) -> None:
    """Refuse what describes no space.

    Args:
        stated: What a config says.

    Raises:
        CheckpointError: Naming the key, its value and what it must be.
    """
    if not isinstance(stated, dict) or set(stated) != set(_KINDS):
        raise CheckpointError(f"space={_shown(stated)}: it must be a mapping of {', '.join(_KINDS)}.")
    for part, kinds in _KINDS.items():
        if not MAPPING.holds(stated[part]):
            raise CheckpointError(f"space: {part}={_shown(stated[part])}: it must be {MAPPING.rule}.")
        for name, values in stated[part].items():
            where = f"space: {part}: {name!s:.80}"
            if not isinstance(values, dict) or set(values) != set(kinds):
                raise CheckpointError(f"{where}={_shown(values)}: it must be a mapping of {', '.join(kinds)}.")
            for key, kind in kinds.items():
                if not kind.holds(values[key]):
                    raise CheckpointError(f"{where}: {key}={_shown(values[key])}: it must be {kind.rule}.")


def compare_space(stated: Mapping[str, Any] | None, space: SizeSpace, *, version: str | None) -> None:
    """Refuse a network whose sizes are not those that its checkpoint was saved with.

    Args:
        stated: As `describe_space` gives it.
        space: What the rules of the target family give for the checkpoint's reference.
        version: Version of this library as it saved the checkpoint; None: not known.

    Raises:
        CheckpointError: Naming the axis or stack of blocks that is another, and what to do.
    """
    if stated is None:
        raise CheckpointError(
            "config.json is of format 2 but has no space, which every checkpoint of that format has: it is damaged. "
            "Download or save the checkpoint again."
        )
    for part, entries in describe_space(space).items():
        for name in {**stated[part], **entries}:
            saved, found = stated[part].get(name), entries.get(name)
            if saved != found:
                what = "axis" if part == "axes" else "stack of blocks"
                raise CheckpointError(
                    f"by config.json, the {what} {name!s:.80} {_told(saved, _KINDS[part])}; by the rules of "
                    f"{space.name!r} here, it {_told(found, _KINDS[part])}. The rules or the file have changed since "
                    f"the checkpoint was saved: {version_to_install(version)}, register the target family as it was "
                    "then, or download the checkpoint again."
                )


def library_version() -> str | None:
    """Read the version of this library; None where it is code beside somebody's weights."""
    try:
        return importlib.metadata.version("neumeta_hf")
    except importlib.metadata.PackageNotFoundError:
        return None


def version_to_install(stated: Any) -> str:
    """Say which version of this library reads a checkpoint.

    Args:
        stated: The version that the checkpoint says it was saved by.

    Returns:
        The advice, as the beginning of a sentence in lower case.
    """
    if isinstance(stated, str) and _VERSION.fullmatch(stated):
        return f"install neumeta_hf {stated}, which wrote it"
    return "install the release of neumeta_hf that wrote it"


def _told(values: Mapping[str, Any] | None, kinds: Mapping[str, Kind]) -> str:
    return "is not there" if values is None else f"has {', '.join(f'{key} {_shown(values[key])}' for key in kinds)}"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."
