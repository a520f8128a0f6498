"""Reading what somebody else wrote: files that stay in their folder, and JSON and YAML within bounds.

A text of a few bytes can ask for any amount of memory or time, by nesting or by aliases of aliases. A link in a folder
can stand for any file of the machine that reads it. All that comes from a checkpoint, a run or a repo is read through
here.
"""

import json
import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from neumeta_hf.errors import CheckpointError, NeuMetaError, one_line

_MOST_JSON = 8 * 2**20
"""Bytes: a config with the names of 20,000 classes, twice, is about three million."""
_MOST_YAML = 2**18
_MOST_DEPTH = 64
_MOST_NODES = 100_000
"""Of a YAML text, those that aliases repeat counted each time."""


def find_file(folder: str | Path, name: str) -> Path | None:
    """Find a file of a folder that somebody else may have made.

    Args:
        folder: May itself be a link.
        name: Name of the file, relative to the folder.

    Returns:
        Its path, or None where there is nothing of that name.

    Raises:
        CheckpointError: It is a link that leads out of the folder or nowhere, or no regular file.
    """
    path = _find_inside(folder, name)
    if path is not None and not path.is_file():  # a pipe or a device may never come to an end
        raise CheckpointError(f"{path} is no regular file: only such are read. Remove it, or put the file there.")
    return path


def find_folder(folder: str | Path, name: str) -> Path | None:
    """Find a folder inside a folder that somebody else may have made.

    Args:
        folder: May itself be a link.
        name: Name of the folder inside of it.

    Returns:
        Its path, or None where there is no folder of that name.

    Raises:
        CheckpointError: It is a link that leads out of the folder or nowhere.
    """
    path = _find_inside(folder, name)
    return path if path is not None and path.is_dir() else None


def read_json(path: str | Path, *, error: type[NeuMetaError] = CheckpointError) -> dict[str, Any]:
    """Read a JSON file that maps keys to values.

    Args:
        path: The file.
        error: What is raised.

    Returns:
        Its values.

    Raises:
        NeuMetaError: It is too large or nested too deeply, or is not JSON text. It names a key twice, holds NaN or an
            infinite number, or is not a mapping.
        OSError: It cannot be opened.
    """
    return _mapping(parse_json(_read_text(path, _MOST_JSON, error), str(path), error=error), str(path), error)


def parse_json(text: str, where: str, *, error: type[NeuMetaError] = CheckpointError) -> Any:
    """Read JSON.

    Args:
        text: A text of any length.
        where: What to call it in the error.
        error: What is raised.

    Returns:
        Plain values.

    Raises:
        NeuMetaError: As `read_json`, whatever kind of value the text holds.
    """
    try:
        values = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
        )
        _check_depth(values)
    except (ValueError, RecursionError) as caught:
        raise error(f"{where} is no JSON that is read here ({_reason(caught)}): {_REMEDY}") from caught
    return values


def read_yaml(path: str | Path, *, error: type[NeuMetaError] = CheckpointError) -> dict[str, Any]:
    """Read a YAML file that maps keys to values.

    Args:
        path: The file; an empty one maps none.
        error: What is raised.

    Returns:
        Its values.

    Raises:
        NeuMetaError: It is too large or nested too deeply, or is not YAML text. It names a key twice, repeats too much
            through aliases, or is not a mapping.
        OSError: It cannot be opened.
    """
    values = parse_yaml(_read_text(path, _MOST_YAML, error), str(path), error=error)
    return _mapping({} if values is None else values, str(path), error)


def parse_yaml(text: str, where: str, *, error: type[NeuMetaError] = CheckpointError) -> Any:
    """Read YAML, with the types that every reader of YAML knows alone.

    Args:
        text: The YAML.
        where: What to call it in the error.
        error: What is raised.

    Returns:
        Plain values; None of an empty text.

    Raises:
        NeuMetaError: As `read_yaml`, whatever kind of value the text holds.
    """
    try:
        if len(text) > _MOST_YAML:
            raise ValueError(f"it has more than {_MOST_YAML:,} characters")
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_nodes(node)  # before values are made of them
            return loader.construct_document(node)
        finally:
            loader.dispose()
    # What PyYAML itself lets through for words that are not of the type that their tag says.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as caught:
        raise error(f"{where} is no YAML that is read here ({_reason(caught)}): {_REMEDY}") from caught


_REMEDY = "it is damaged, or not what its name says. Write it anew, or take it from where it came from."


def _find_inside(folder: str | Path, name: str) -> Path | None:
    path = Path(folder, name)
    if not path.exists() and not path.is_symlink():
        return None
    try:
        home, target = Path(folder).resolve(), path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # a link to nothing, or to itself
        raise CheckpointError(f"{path} is a link that leads nowhere: remove it, or put the file there.") from error
    if not (target.is_relative_to(home) or _is_blob_of(home, target)):
        raise CheckpointError(
            f"{path} is a link to {target}, outside of its folder: nothing outside is read. Put a copy in its place if "
            "it belongs there, or remove the link."
        )
    return path


def _is_blob_of(home: Path, target: Path) -> bool:
    """Whether the Hub's cache has laid it so: `<repo>/snapshots/<commit>/name` is a link to `<repo>/blobs/<hash>`."""
    for place in (home, *home.parents):
        if place.parent.name == "snapshots":
            return target.parent == place.parent.parent / "blobs"
    return False


def _read_text(path: str | Path, most: int, error: type[NeuMetaError]) -> str:
    with Path(path).open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise error(f"{path} has more than {most:,} bytes, the most that is read of such a file: {_REMEDY}")
    try:
        return data.decode()
    except UnicodeDecodeError as caught:
        raise error(f"{path} is no text in UTF-8: {_REMEDY}") from caught


def _mapping(values: Any, where: str, error: type[NeuMetaError]) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise error(f"{where} holds a {type(values).__name__}, and must map keys to values: {_REMEDY}")
    return values


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else one_line(error)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"it has the key {twice!r} twice")
    return values


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def _check_depth(values: Any) -> None:
    waiting = [(values, 1)]
    while waiting:
        value, depth = waiting.pop()
        if not isinstance(value, (dict, list)):
            continue
        if depth > _MOST_DEPTH:
            raise ValueError(f"it is nested deeper than {_MOST_DEPTH} levels")
        waiting += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]


def _check_nodes(root: yaml.Node) -> None:
    """Aliases are the same node again: counting each time bounds what they repeat, and ends where one holds itself."""
    waiting, count = [(root, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if depth > _MOST_DEPTH or count > _MOST_NODES:
            raise ValueError(
                f"it is nested deeper than {_MOST_DEPTH} levels, or has more than {_MOST_NODES:,} values, its aliases "
                "written out"
            )
        if isinstance(node, yaml.SequenceNode):
            waiting += [(inner, depth + 1) for inner in node.value]
        elif isinstance(node, yaml.MappingNode):
            keys: set[Hashable] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in keys:
                    raise ValueError(f"it has the key {key.value!r} twice in one mapping")
                keys.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))
                waiting += [(key, depth + 1), (value, depth + 1)]
