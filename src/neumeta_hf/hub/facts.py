"""What the files of a run may say: numbers in their range, texts of bounded length, and no folder of a machine."""

import os
from collections.abc import Mapping
from typing import Any

from neumeta_hf.errors import CheckpointError
from neumeta_hf.files import shorten_paths
from neumeta_hf.kinds import (
    AMOUNT,
    COUNT,
    LIST,
    MAPPING,
    MAX_ROWS,
    NAME,
    NUMBER,
    RATIO,
    SEED,
    WIDTH,
    YES_OR_NO,
    Kind,
    mapping_of,
    number,
    text,
)
from neumeta_hf.scores import ROW_KEYS, Score, score_of
from neumeta_hf.widths import format_size

REMEDY = (
    "remove it, or write it anew (neumeta train writes recipe.yaml and training.json, neumeta evaluate sweep.json)."
)

_Kinds = Mapping[str, Kind]

_VERSIONS = mapping_of(NAME.or_none())
_ENVIRONMENT: _Kinds = {"device": NAME, "cores": COUNT.or_none(), "date": NAME, "versions": _VERSIONS}
_MORE_ENVIRONMENT: _Kinds = {"command": text(100_000), "python": NAME, "threads": COUNT}
_TRAINING: _Kinds = {"environment": MAPPING, "seconds": mapping_of(AMOUNT), "seed": SEED}
_MORE_TRAINING: _Kinds = {"seed": SEED, "mixed_precision": NAME, "num_parameters": mapping_of(COUNT)}
_FACTS: _Kinds = {
    **_MORE_ENVIRONMENT,
    **dict.fromkeys(("checkpoint", "dataset", "split", "title", "task", "device", "date"), NAME.or_none()),
    **dict.fromkeys(("num_images", "num_samples"), COUNT),
    **dict.fromkeys(("calibrated", "cores"), COUNT.or_none()),
    "noise": AMOUNT,
    "seed": SEED,
    "score": MAPPING,
    "versions": _VERSIONS,
    "training": MAPPING.or_none(),
}
_SCORE: _Kinds = {
    "name": Kind(
        f"a text of 1 to 64 characters, other than {', '.join(ROW_KEYS)}",
        lambda value: text(64, 1).holds(value) and value not in ROW_KEYS,
    ),
    "label": text(100, 1),
    "is_ratio": YES_OR_NO,
    "larger_is_better": YES_OR_NO,
    "hub_name": NAME.or_none(),
}
_WIDTHS = mapping_of(WIDTH, most=1000)
_ROW: _Kinds = {
    "width": Kind(
        f"{WIDTH.rule}, or such a number for each width group",
        lambda value: WIDTH.holds(value) or (_WIDTHS.holds(value) and len(value) > 0),
    ),
    "num_parameters": COUNT,
    "macs": COUNT,
    "compression_rate": number(most=1),
    "trained": YES_OR_NO,
    "in_range": YES_OR_NO,
}
_MORE_ROW: _Kinds = {"depth": Kind("a number above 0, of at most 1", lambda value: RATIO.holds(value) and value > 0)}


def check_training(training: Mapping[str, Any], where: str) -> None:
    """Refuse what no run writes into its `training.json`.

    Args:
        training: The file's values.
        where: What to call it in the error.

    Raises:
        CheckpointError: Naming the key, its value and what it must be.
    """
    check(training, _MORE_TRAINING, where, needed=False)
    if "environment" in training:  # files that are older have none
        check(training, _TRAINING, where)
        inside = f"{where}, environment"
        check(training["environment"], _ENVIRONMENT, inside)
        check(training["environment"], _MORE_ENVIRONMENT, inside, needed=False)


def check_sweep(sweep: Mapping[str, Any], where: str) -> None:
    """Refuse what no sweep over sizes is.

    Args:
        sweep: The file's values.
        where: What to call it in the error.

    Raises:
        CheckpointError: Naming the row, the key, its value and what it must be.
    """
    check(sweep, {"facts": MAPPING, "rows": LIST}, where)
    check(sweep, {"reference": MAPPING.or_none()}, where, needed=False)
    facts, rows, reference = sweep["facts"], sweep["rows"], sweep.get("reference")
    check(facts, _FACTS, f"{where}, facts", needed=False)
    score = _check_score(facts, where)
    if not 1 <= len(rows) <= MAX_ROWS:
        raise CheckpointError(f"{where}: it has {len(rows):,} rows, and must have 1 to {MAX_ROWS:,}: {REMEDY}")
    seen: dict[Any, int] = {}
    for index, row in enumerate(rows, start=1):
        _check_row(row, score, f"{where}, row {index}")
        width = frozenset(row["width"].items()) if isinstance(row["width"], dict) else row["width"]
        size = (width, row.get("depth", 1))
        if seen.setdefault(size, index) != index:
            told = format_size(row["width"], size[1])
            raise CheckpointError(f"{where}: rows {seen[size]} and {index} are of one width, {told}: {REMEDY}")
    if reference is not None:
        _check_row(reference, score, f"{where}, reference")


def without_folders(value: Any) -> Any:
    """Remove folders of this machine from a value of a run's file, so that others may read it.

    Args:
        value: Plain values, nested.

    Returns:
        The same with the last part alone of every path: two would read like the id of somebody's repo.
    """
    if isinstance(value, dict):
        return {without_folders(key): without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_folders(entry) for entry in value]
    if not isinstance(value, str):
        return value
    shortened = shorten_paths(value, keep=1)
    # A relative path reads like the id of a repo, unless it is there.
    is_folder = shortened == value and "/" in value and os.path.exists(value)
    return os.path.basename(os.path.normpath(value)) if is_folder else shortened


def check(values: Any, kinds: _Kinds, where: str, *, needed: bool = True) -> None:
    """Refuse values that are not of their kinds.

    Args:
        values: A mapping.
        kinds: Key to kind.
        where: What to call the mapping in the error.
        needed: Whether every key must be there.

    Raises:
        CheckpointError: Naming the key, its value and what it must be.
    """
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{where} is {_shown(values)}, and must be a mapping. Either {REMEDY}")
    for key, kind in kinds.items():
        if key in values and not kind.holds(values[key]):
            raise CheckpointError(f"{where}: {key} is {_shown(values[key])}, and must be {kind.rule}. Either {REMEDY}")
        if needed and key not in values:
            raise CheckpointError(f"{where} was not written by this library: {key} is missing. Either {REMEDY}")


def _check_score(facts: Mapping[str, Any], where: str) -> Score:
    if "score" in facts:
        inside = f"{where}, score"
        check(facts["score"], {key: _SCORE[key] for key in ("name", "label")}, inside)
        check(facts["score"], _SCORE, inside, needed=False)
        if unknown := [key for key in facts["score"] if key not in _SCORE]:
            raise CheckpointError(f"{inside} has an unknown key {_shown(unknown[0])}. Either {REMEDY}")
    return score_of(facts)


def _check_row(row: Any, score: Score, where: str) -> None:
    value = (RATIO if score.is_ratio else NUMBER).or_none()
    check(row, {**_ROW, score.name: value}, where)
    others = dict.fromkeys(set(row) - set(_ROW), NUMBER.or_none())  # the other scores
    check(row, {**others, **_MORE_ROW}, where, needed=False)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."
