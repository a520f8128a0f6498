"""What a run leaves beside its checkpoint: found in a folder or in a repo, and checked before a card tells of it."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Self

from huggingface_hub import try_to_load_from_cache

from neumeta_hf.errors import CheckpointError, MissingCheckpointError, one_line
from neumeta_hf.files import shorten_paths
from neumeta_hf.hub.card import is_hub_id
from neumeta_hf.hub.client import download_file, explain_hub_errors
from neumeta_hf.reading import find_file, read_json, read_yaml
from neumeta_hf.scores import score_of

RECIPE = "recipe.yaml"
SWEEP = "sweep.json"
TRAINING = "training.json"
FACTS = (RECIPE, TRAINING, SWEEP, "sweep.csv", "sweep.png")
"""Files that tell of one run, and of no other weights than its own."""

_REMEDY = (
    "remove it, or write it anew (neumeta train writes recipe.yaml and training.json, neumeta evaluate sweep.json)."
)
_MOST_BYTES = 64 * 2**20
_NUMBER = (int, float)
_MAYBE_INT = (int, type(None))

_Kinds = Mapping[str, type | tuple[type, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSource:
    """Where the files of a family's run lie.

    Attributes:
        folder: On this machine; None: in a repo.
        repo_id: On the Hub, where there is no folder.
        revision: Commit, branch or tag of the repo; None: main.
        subfolder: Of the repo.
        cache_dir: Where files of the repo are kept; None: the usual cache.
    """

    folder: Path | None = None
    repo_id: str = ""
    revision: str | None = None
    subfolder: str = ""
    cache_dir: str | Path | None = None

    @classmethod
    def of_folder(cls, folder: str | Path) -> Self:
        """The run in a folder.

        Args:
            folder: Output of a run.

        Returns:
            The source, which stays right when the working folder changes.

        Raises:
            MissingCheckpointError: There is no such folder.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise MissingCheckpointError(f"run={folder} is no folder: give the output folder of the family's run.")
        return cls(folder=folder.resolve())

    @classmethod
    def of_loaded(
        cls,
        name: str,
        *,
        revision: str | None = None,
        subfolder: str = "",
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Where a checkpoint came from that was loaded a moment ago.

        Args:
            name: Folder, file of weights, or Hub id.
            revision: As it was asked for.
            subfolder: Of the folder or repo.
            cache_dir: Where the checkpoint was downloaded to.

        Returns:
            The folder, or the very commit: what is pushed to the repo later is of other weights.
        """
        place = Path(name, subfolder).resolve()
        if place.exists():
            return cls(folder=place if place.is_dir() else place.parent)
        config = PurePosixPath(subfolder, "config.json")
        cached = try_to_load_from_cache(name, str(config), revision=revision, cache_dir=cache_dir)
        if isinstance(cached, str):  # ".../snapshots/<commit>/<subfolder>/config.json"
            revision = Path(cached).parents[len(config.parts) - 1].name
        return cls(repo_id=name, revision=revision, subfolder=subfolder, cache_dir=cache_dir)

    def find(self, name: str, *, token: bool | str | None = None) -> Path | None:
        """A file of the run, downloaded where it lies in a repo.

        Args:
            name: Of the file.
            token: Of the Hub; None: the stored one.

        Returns:
            Its path, or None where the run has no such file.

        Raises:
            HubError: The Hub refuses or cannot be reached.
            CheckpointError: It is a link out of the folder, no regular file, or larger than a run writes any.
        """
        path = self._find_in_repo(name, token) if self.folder is None else find_file(self.folder, name)
        if path is not None and (size := os.path.getsize(path)) > _MOST_BYTES:
            raise CheckpointError(f"{path} has {size:,} bytes, more than a run writes: remove it, or write it anew.")
        return path

    def _find_in_repo(self, name: str, token: bool | str | None) -> Path | None:
        return explain_hub_errors(
            f"reading {name} of {self.repo_id}",
            lambda: download_file(
                self.repo_id,
                name,
                revision=self.revision,
                subfolder=self.subfolder or None,
                cache_dir=self.cache_dir,
                token=token,
            ),
        )


def read_training(path: Path | None) -> dict[str, Any] | None:
    """Read the `training.json` of a run.

    Args:
        path: The file; None: there is none.

    Returns:
        Its values, or None without a file.

    Raises:
        CheckpointError: It is no JSON, or not what a run writes.
    """
    training = None if path is None else read_json(path)
    if path is None or training is None or "environment" not in training:
        return training
    _check_kinds(training, path, {"environment": dict, "seconds": dict, "seed": int})
    environment = {"device": str, "cores": _MAYBE_INT, "date": str, "versions": dict}
    _check_kinds(training["environment"], path, environment)
    _check_kinds(training["seconds"], path, dict.fromkeys(training["seconds"], _NUMBER))
    return training


def read_sweep(path: Path | None) -> dict[str, Any] | None:
    """Read a sweep over sizes.

    Args:
        path: The file; None: there is none.

    Returns:
        The values of `Sweep.to_dict()`, or None without a file.

    Raises:
        CheckpointError: It is no JSON, or no sweep.
    """
    if path is None:
        return None
    sweep = read_json(path)
    _check_kinds(sweep, path, {"facts": dict, "rows": list})
    facts = sweep["facts"]
    stated: _Kinds = {"score": dict, "versions": dict, "num_images": int, "num_samples": int, "calibrated": _MAYBE_INT}
    _check_kinds(facts, path, {key: kind for key, kind in stated.items() if key in facts})
    if "score" in facts:
        _check_kinds(facts["score"], path, {"name": str, "label": str})
    try:
        score = score_of(facts).name
    except TypeError as error:
        raise CheckpointError(f"{path}: its score is none ({one_line(error)}): {_REMEDY}") from error
    kinds = {"width": (*_NUMBER, dict), score: (*_NUMBER, type(None)), "num_parameters": int, "macs": int}
    kinds |= {"compression_rate": _NUMBER, "trained": bool, "in_range": bool}
    for row in [*sweep["rows"], *([sweep["reference"]] if sweep.get("reference") else [])]:
        _check_kinds({"a row": row}, path, {"a row": dict})
        _check_kinds(row, path, kinds)
        if isinstance(row["width"], dict):
            _check_kinds(row["width"], path, dict.fromkeys(row["width"], _NUMBER))
    return sweep


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
    _check_kinds({"data": {}, "target": {}, **values}, path, {"data": dict, "target": dict})
    return {key: _without_folders(value) for key, value in values.items() if key != "output_dir"}


def _check_kinds(values: Mapping[str, Any], path: Path, kinds: _Kinds) -> None:
    for key, kind in kinds.items():
        if key not in values or not isinstance(values[key], kind):
            found = f"is {values[key]!r}" if key in values else "is missing"
            raise CheckpointError(f"{path} was not written by this library: {key} {found[:80]}. Either {_REMEDY}")


def _without_folders(value: Any) -> Any:
    """A recipe's value as others may read it: folders of this machine say nothing to them."""
    if isinstance(value, dict):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_folders(entry) for entry in value]
    if not isinstance(value, str):
        return value
    shortened = shorten_paths(value)
    # The last part alone: two would read like the id of somebody's repo.
    is_folder = shortened != value or (is_hub_id(value) and Path(value).exists())
    return Path(shortened).name if is_folder else value
