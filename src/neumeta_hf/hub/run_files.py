"""What a run leaves beside its checkpoint: found in a folder or in a repo, and checked before a card tells of it."""

import csv
import os
from pathlib import Path
from typing import Any

from neumeta_hf.checkpoints import without_origin
from neumeta_hf.errors import CheckpointError, one_line
from neumeta_hf.hub.client import download_file, explain_hub_errors
from neumeta_hf.hub.facts import REMEDY, check, check_sweep, check_training, without_folders
from neumeta_hf.kinds import MAPPING
from neumeta_hf.provenance import RunSource
from neumeta_hf.reading import find_file, read_json, read_yaml

RECIPE = "recipe.yaml"
SWEEP = "sweep.json"
TRAINING = "training.json"
TABLE = "sweep.csv"
FIGURE = "sweep.png"
FACTS = (RECIPE, TRAINING, SWEEP, TABLE, FIGURE)
"""Files that tell of one run, and of no other weights than its own."""

_MOST_BYTES = 64 * 2**20


def find_run_file(run: RunSource, name: str, *, token: bool | str | None = None) -> Path | None:
    """Find a file of a run, downloaded where it lies in a repo.

    Args:
        run: Where the run's files lie.
        name: Name of the file.
        token: Access token of the Hub; None: the stored one.

    Returns:
        Its path, or None where the run has no such file.

    Raises:
        HubError: The Hub refuses or cannot be reached.
        CheckpointError: It is a link out of the folder, no regular file, or larger than a run writes any.
    """
    path = _find_in_repo(run, name, token) if run.folder is None else find_file(run.folder, name)
    if path is not None and (size := os.path.getsize(path)) > _MOST_BYTES:
        raise CheckpointError(f"{path} has {size:,} bytes, more than a run writes: remove it, or write it anew.")
    return path


def _find_in_repo(run: RunSource, name: str, token: bool | str | None) -> Path | None:
    return explain_hub_errors(
        f"reading {name} of {run.repo_id}",
        lambda: download_file(
            run.repo_id,
            name,
            revision=run.revision,
            subfolder=run.subfolder or None,
            cache_dir=run.cache_dir,
            token=token,
        ),
    )


def read_training(path: Path | None) -> dict[str, Any] | None:
    """Read the `training.json` of a run as others may read it.

    Args:
        path: The file; None: there is none.

    Returns:
        Its values without folders of this machine, or None without a file.

    Raises:
        CheckpointError: It is no JSON, or not what a run writes.
    """
    if path is None:
        return None
    training = read_json(path)
    check_training(training, str(path))
    return without_folders(training)


def read_sweep(path: Path | None) -> dict[str, Any] | None:
    """Read a sweep over sizes as others may read it.

    Args:
        path: The file; None: there is none.

    Returns:
        The values of `Sweep.to_dict()` without folders of this machine, or None without a file.

    Raises:
        CheckpointError: It is no JSON, or no sweep.
    """
    if path is None:
        return None
    sweep = read_json(path)
    check_sweep(sweep, str(path))
    return without_folders(sweep)


def read_table(path: Path | None) -> list[list[str]] | None:
    """Read a table in CSV as others may read it.

    Args:
        path: The file; None: there is none.

    Returns:
        Its rows without folders of this machine, or None without a file.

    Raises:
        CheckpointError: It is no CSV.
    """
    if path is None:
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return without_folders(list(csv.reader(file)))
    except (csv.Error, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is no CSV ({one_line(error)}): {REMEDY}") from error


def read_processor(path: Path | None) -> dict[str, Any] | None:
    """Read the config of an image processor as others may read it.

    Args:
        path: The file; None: there is none.

    Returns:
        Its values without folders of this machine, or None without a file.

    Raises:
        CheckpointError: It is no JSON, or maps no keys to values.
    """
    return None if path is None else without_folders(without_origin(read_json(path)))


def read_recipe(path: Path | None) -> dict[str, Any] | None:
    """Read the recipe of a run as others may read it.

    Args:
        path: A YAML file; None: there is none.

    Returns:
        Its values without the folders of the machine that ran it, or None without a file.

    Raises:
        CheckpointError: It is no YAML, or maps no keys to values.
    """
    if path is None:
        return None
    values = read_yaml(path)
    check(values, {"data": MAPPING, "target": MAPPING}, str(path), needed=False)
    return {key: without_folders(value) for key, value in values.items() if key != "output_dir"}
