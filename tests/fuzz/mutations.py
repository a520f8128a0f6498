"""Changes of files as accidents and strangers make them, each drawn from a seed."""

import copy
import json
import math
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

NASTY: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    2**20 + 1,
    2**31,
    2**63,
    10**30,
    0.5,
    -0.0,
    1e-308,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "x",
    "nan",
    "12",
    "../../elsewhere",
    "/etc/passwd",
    "org/name",
    "\x1b[2J\x1b[31m",
    "[bold]x[/red]",
    "</details><script>alert(1)</script>",
    "| a | b |\n\n# heading",
    "a" * 100_000,
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    [0, 10],
    [1.0, 0.5, 0.5],
    list(range(100_000)),
]


def mutate_file(path: Path, rng: random.Random) -> str:
    """Change a file in place.

    Args:
        path: Text as JSON or YAML, or anything else as bytes; safetensors headers are also changed as JSON.
        rng: Draws the change.

    Returns:
        What was changed, for a report.
    """
    data = path.read_bytes()
    kinds = ["bytes"]
    if path.suffix in (".json", ".yaml", ".yml"):
        kinds += ["values"] * 6 + ["deep"]
    if path.suffix == ".safetensors":
        kinds += ["header"] * 2
    kind = rng.choice(kinds)
    if kind == "values":
        load, dump = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
        values, told = mutate_values(load(data.decode()), rng)
        path.write_text(dump(values))
    elif kind == "deep":
        depth = rng.choice([500, 5_000, 100_000])
        path.write_text("[" * depth + "]" * depth)
        told = f"nested {depth} deep"
    elif kind == "header":
        data, told = _mutate_header(data, rng)
        path.write_bytes(data)
    else:
        data, told = mutate_bytes(data, rng)
        path.write_bytes(data)
    return f"{path.name}: {told}"


def mutate_bytes(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Flip, cut, insert, repeat or blank bytes.

    Args:
        data: Not empty.
        rng: Draws the change.

    Returns:
        Other bytes, and what was changed.
    """
    # Half of all changes near the start, where headers are.
    place = rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 200))
    length = min(len(data) - place, rng.choice([1, 4, 64, 4096]))
    kind = rng.choice(["flip", "flip", "flip", "cut", "insert", "remove", "repeat", "blank", "empty"])
    if kind == "flip":
        bit = rng.randrange(8)
        return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :], f"bit {bit} of byte {place} flipped"
    changed = {
        "cut": data[:place],
        "insert": data[:place] + rng.randbytes(length) + data[place:],
        "remove": data[:place] + data[place + length :],
        "repeat": data[: place + length] + data[place:],
        "blank": data[:place] + bytes(length) + data[place + length :],
        "empty": b"",
    }[kind]
    return changed, f"{kind} of {length} bytes at byte {place}"


def mutate_values(values: Any, rng: random.Random) -> tuple[Any, str]:
    """Change plain values at a random place.

    Args:
        values: Nested lists, mappings and scalars; not modified.
        rng: Draws the change.

    Returns:
        Other values, and what was changed.
    """
    values = copy.deepcopy(values)
    places = list(_places(values))
    if not places:
        return rng.choice(NASTY), "everything replaced"
    node, key, name = rng.choice(places)
    kind = rng.choice(["replace"] * 6 + ["delete", "rename", "add", "wrap"])
    if kind == "delete":
        del node[key]
    elif kind == "rename" and isinstance(node, dict):
        node[f"{key}_"] = node.pop(key)
    elif kind == "add" and isinstance(node, dict):
        node["unheard_of"] = rng.choice(NASTY)
    elif kind == "wrap":
        node[key] = [node[key]]
    else:
        value = rng.choice(NASTY)
        node[key] = value
        return values, f"{name} = {repr(value)[:60]}"
    return values, f"{kind} of {name}"


def _places(values: Any, name: str = "") -> Iterator[tuple[Any, Any, str]]:
    keys = list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    for key in keys:
        yield values, key, f"{name}.{key}"
        yield from _places(values[key], f"{name}.{key}")


def _mutate_header(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    (length,) = struct.unpack("<Q", data[:8])
    if rng.random() < 0.2:
        claimed = rng.choice([0, length - 1, length + 8, 2**31, 2**63, 2**64 - 1])
        return struct.pack("<Q", claimed) + data[8:], f"header said to be {claimed} bytes long"
    header, told = mutate_values(json.loads(data[8 : 8 + length]), rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :], f"header {told}"
