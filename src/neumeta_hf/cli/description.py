"""What `neumeta info` says of a family, or of a run that has not come to one."""

import itertools
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neumeta_hf.errors import CheckpointError, HubError, SizeError
from neumeta_hf.widths import format_size

if TYPE_CHECKING:
    from neumeta_hf.modeling_neumeta import NeuMetaModel

_MOST_SIZES = 9
"""Of a family that no sweep has measured."""


def say_unfinished(folder: str) -> str | None:
    """What to say of the folder of a run that has no family, or not yet.

    Args:
        folder: Anything that may be a checkpoint.

    Returns:
        One sentence or two; None of what is no such folder.

    Raises:
        CheckpointError: Its recipe is a link that leads out of it.
        RecipeError: Its recipe is damaged.
    """
    from neumeta_hf.reading import find_file

    path = Path(folder)
    if not path.is_dir() or find_file(path, "config.json") or not (recipe_path := find_file(path, "recipe.yaml")):
        return None
    if not any(os.path.lexists(path / name) for name in ("log.jsonl", "reference", "state", "state-pretrain")):
        return None  # somebody's recipe, which is no run yet
    from neumeta_hf.training import load_recipe

    recipe = load_recipe(recipe_path)
    if recipe.train is None and find_file(path, "training.json"):
        return f"{folder} is a run without a family (train: null): it ends with its reference, {path / 'reference'}."
    command = f"neumeta train --config {shlex.quote(str(recipe_path))} --resume"
    if Path(recipe.output_dir).resolve() != path.resolve():
        command += f" --set {shlex.quote(f'output_dir={folder}')}"
    return f"{folder} is a run that is not finished: go on with {command}"


def family_facts(family: "NeuMetaModel") -> dict[str, Any]:
    """What a family is.

    Args:
        family: Loaded; nothing is generated.

    Returns:
        Names to plain values.
    """
    from neumeta_hf.evaluation import count_parameters

    config = family.config
    num_parameters, generated = count_parameters(family.hypernetwork), family.num_generated_parameters
    facts = {
        "target family": family.target_family.name,
        "task": family.target_family.task,
        "width groups": {group: family.space.full[group] for group in family.width_groups},
        "trained widths": list(config.trained_widths),
        "hypernetwork": config.hypernetwork,
        "hypernetwork parameters": num_parameters,
        "generated parameters": generated,
        "static parameters": sum(tensor.numel() for tensor in family.static.parameters()),
        "hypernetwork / generated": round(num_parameters / generated, 2),
        "normalization": config.normalization,
        "widths with stored BatchNorm statistics": list(config.statistics_widths),
        "coordinate noise (channels)": config.coordinate_noise,
    }
    if min(config.trained_depths) < 1:
        facts["blocks"] = {name: stack.full for name, stack in family.space.depths.items()}
        facts["trained depths"] = list(config.trained_depths)
        if config.statistics_widths:
            facts["depths with stored BatchNorm statistics"] = list(config.statistics_depths)
    if config.preparation:
        facts["total variation before, after preparation"] = [
            round(config.preparation["tv_before"], 2),
            round(config.preparation["tv_after"], 2),
        ]
    return facts


def size_facts(family: "NeuMetaModel") -> list[dict[str, Any]]:
    """Parameters and multiply-accumulates by uniform width, and scores where the family was measured.

    Args:
        family: Loaded; nothing is generated.

    Returns:
        A row per width, the largest last; "scores" are of the sweep beside the family, for networks of these sizes.
    """
    from neumeta_hf.evaluation import count_macs, count_parameters

    sweep = _sweep_of(family)
    uniform = [row for row in sweep["rows"] if not isinstance(row["width"], Mapping)] if sweep else []
    measured = {(float(row["width"]), float(row.get("depth", 1))): row for row in uniform}
    widths = _some(sorted(family.config.trained_widths)) or [1.0]
    sizes = sorted(measured, key=lambda size: (-size[1], size[0])) or [(width, 1.0) for width in widths]
    example = family.target_family.example_batch(family.reference_config, 1)
    rows = []
    for width, depth in sizes:
        try:
            network = family.skeleton_at(family.size_at(width, depth=depth))
        except SizeError:  # of another family, as the note below says
            continue
        row: dict[str, Any] = {
            "width": width,
            **({} if depth == 1 else {"depth": depth}),
            "parameters": count_parameters(network),
            "macs": count_macs(network, example, family=family.target_family),
        }
        found = measured.get((width, depth))
        if found and found["num_parameters"] == row["parameters"]:
            row["scores"] = {name: found[name] for name in _score_names(family) if name in found}
        rows.append(row)
    if sum("scores" in row for row in rows) < len(measured):
        print("note: sweep.json belongs to other networks than these: run `neumeta evaluate` again", file=sys.stderr)
    return rows


def disk_facts(folder: str) -> dict[str, int]:
    """What a folder takes of the disk.

    Args:
        folder: A checkpoint's.

    Returns:
        Bytes by part: what lies in the folder itself, each folder in it, and all; nothing where there is no folder.
    """
    path = Path(folder)
    if not path.is_dir():
        return {}
    parts = {"family": 0}
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            parts[f"{entry.name}/"] = sum(
                os.lstat(os.path.join(root, name)).st_size for root, _, names in os.walk(entry) for name in names
            )
        else:
            parts["family"] += entry.stat(follow_symlinks=False).st_size
    return {**parts, "all": sum(parts.values())}


def show_description(
    name: str, facts: Mapping[str, Any], sizes: list[dict[str, Any]], disk: Mapping[str, int], family: "NeuMetaModel"
) -> None:
    """Print what there is to say of a family, as tables.

    Args:
        name: Name of its checkpoint.
        facts: As from `family_facts`.
        sizes: As from `size_facts`.
        disk: As from `disk_facts`.
        family: Says what scores are called.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from neumeta_hf.printable import printable
    from neumeta_hf.tables import Column, build_tables
    from neumeta_hf.tasks import build_task

    console = Console()
    longest = max(map(len, facts))
    table = Table(show_header=False, title=Text(printable(name)), title_justify="left")
    table.add_column(width=longest if longest < 0.45 * console.width else 24)
    table.add_column(overflow="fold")
    for key, value in facts.items():
        table.add_row(key, Text(printable(_in_words(value))))
    console.print(table)
    scores = [score for score in build_task(family.target_family.task).scores if any("scores" in row for row in sizes)]
    columns = [
        Column(name="width", cells=[format_size(row["width"], row.get("depth", 1)) for row in sizes]),
        *(Column(name=score.label, cells=[_shown(score, row.get("scores", {})) for row in sizes]) for score in scores),
        Column(name="parameters", cells=[f"{row['parameters']:,}" for row in sizes]),
        Column(name="MACs", cells=[f"{row['macs']:,}" for row in sizes]),
    ]
    measured = "" if scores else ", not measured yet: `neumeta evaluate` adds scores"
    console.print(*build_tables(columns, width=console.width, title=f"sizes{measured}"))
    if disk:
        columns = [
            Column(name="disk", cells=list(disk), is_text=True),
            Column(name="size", cells=[_in_bytes(number) for number in disk.values()]),
        ]
        console.print(*build_tables(columns, width=console.width))


def _sweep_of(family: "NeuMetaModel") -> dict[str, Any] | None:
    from neumeta_hf.hub.run_files import SWEEP, find_run_file, read_sweep

    if family.run_source is None:
        return None
    try:
        return read_sweep(find_run_file(family.run_source, SWEEP))
    except (HubError, CheckpointError) as error:
        print(f"note: what was measured is left out: {error}", file=sys.stderr)
        return None


def _score_names(family: "NeuMetaModel") -> list[str]:
    from neumeta_hf.tasks import build_task

    return [score.name for score in build_task(family.target_family.task).scores]


def _some(widths: list[float]) -> list[float]:
    """A few of many, evenly spaced, with the first and the last."""
    if len(widths) <= _MOST_SIZES:
        return widths
    return [widths[round(place * (len(widths) - 1) / (_MOST_SIZES - 1))] for place in range(_MOST_SIZES)]


def _shown(score: Any, values: Mapping[str, Any]) -> str:
    return score.format(values[score.name]) if score.name in values else ""


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_in_words(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        steps = [after - before for before, after in itertools.pairwise(value)] if len(value) > 6 else []
        if steps and max(steps) - min(steps) < 1e-9:  # as the command takes them
            return f"{value[0]}:{value[-1]}:{steps[0]:g} ({len(value)})"
        return ", ".join(map(_in_words, value)) or "none"
    return "none" if value is None else f"{value:,}" if type(value) is int else str(value)


def _in_bytes(number: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= factor:
            return f"{number / factor:,.1f} {unit}"
    return f"{number} bytes"
