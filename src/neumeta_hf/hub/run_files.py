"""What a run leaves beside its checkpoint: found in a folder or in a repo, and checked before a card tells of it."""

import csv
import dataclasses
import os
from pathlib import Path, PurePosixPath
from typing import Any, Self

from huggingface_hub import try_to_load_from_cache

from neumeta_hf.checkpoints import without_origin
from neumeta_hf.errors import CheckpointError, MissingCheckpointError, one_line
from neumeta_hf.hub.client import download_file, explain_hub_errors
from neumeta_hf.hub.facts import REMEDY, check, check_sweep, check_training, without_folders
from neumeta_hf.kinds import MAPPING
from neumeta_hf.reading import find_file, read_json, read_yaml

RECIPE = "recipe.yaml"
SWEEP = "sweep.json"
TRAINING = "training.json"
TABLE = "sweep.csv"
FIGURE = "sweep.png"
FACTS = (RECIPE, TRAINING, SWEEP, TABLE, FIGURE)
"""Files that tell of one run, and of no other weights than its own."""

_MOST_BYTES = 64 * 2**20


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
