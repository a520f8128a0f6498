"""Where a family and its morphs come from: what their cards are written of when they are shared."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Self

from huggingface_hub import try_to_load_from_cache

from neumeta_hf.checkpoints import Fingerprint
from neumeta_hf.errors import MissingCheckpointError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSource:
    """Where the files of a family's run lie.

    Attributes:
        folder: On this machine; None: in a repo.
        repo_id: On the Hub, where there is no folder.
        revision: Commit, branch or tag of the repo; None: main.
        subfolder: Subfolder of the repo.
        cache_dir: Where files of the repo are kept; None: the usual cache.
    """

    folder: Path | None = None
    repo_id: str = ""
    revision: str | None = None
    subfolder: str = ""
    cache_dir: str | Path | None = None

    @classmethod
    def of_folder(cls, folder: str | Path) -> Self:
        """Find the run in a folder.

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
        """Find where the checkpoint that was just loaded came from.

        Args:
            name: Folder, file of weights, or Hub id.
            revision: As it was asked for.
            subfolder: Subfolder of the folder or repo.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class MorphOrigin:
    """Where a morph comes from.

    Attributes:
        source: Hub id or folder of the family; empty for one that was never saved.
        run: Where the family's image processor and its measured scores lie; None: nowhere.
        family: Name of the target family.
        task: What its networks do.
        widths: Width group to ratio.
        depths: Stack of blocks to how many it has, and how many in the reference.
        num_samples: Generations averaged.
        noise: Width of their noise in channels.
        seed: Seed of that noise.
        calibrated: Images that its BatchNorm statistics were measured on, if the caller gave any; None: the statistics
            are the family's own.
        full_num_parameters: Number of parameters of the family's reference.
        fingerprint: Fingerprint of its weights as they were generated.
    """

    source: str
    run: RunSource | None
    family: str
    task: str
    widths: Mapping[str, float]
    depths: Mapping[str, tuple[int, int]]
    num_samples: int
    noise: float
    seed: int
    calibrated: int | None
    full_num_parameters: int
    fingerprint: Fingerprint
