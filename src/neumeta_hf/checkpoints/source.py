"""Where the files of a checkpoint lie, and what is said where they do not."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of httpx or of httpx2, as the release has it
    OfflineModeIsEnabled,
    StrictDataclassError,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers.utils.hub import cached_file

from neumeta_hf.errors import CheckpointError, MissingCheckpointError, NeuMetaError, one_line
from neumeta_hf.reading import find_file, find_folder

CONFIG = "config.json"

_PIPELINE = "model_index.json"
_ADAPTER = "adapter_config.json"
_WHERE = ("revision", "cache_dir", "token", "force_download", "local_files_only", "proxies")
"""Options of `from_pretrained` that say where a file of a repo is taken from."""
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".h5", ".msgpack")
_SECONDS_TO_REACH = 5.0

_Result = TypeVar("_Result")


def explain_loading_errors(name: str, call: Callable[[], _Result]) -> _Result:
    """Call something that loads a checkpoint; what goes wrong becomes one error that says what to do.

    Args:
        name: Name of the checkpoint.
        call: Without arguments.

    Returns:
        What it returns.

    Raises:
        CheckpointError: A file is damaged, or no network can be built of what it says.
        MissingCheckpointError: A file or the whole checkpoint is not there; also an OSError, as transformers raises.
    """
    try:
        return call()
    except NeuMetaError:
        raise
    except SafetensorError as error:
        raise CheckpointError(
            f"{name}: its .safetensors file is damaged, or is not one ({one_line(error)}): download or save it again."
        ) from error
    except StrictDataclassError as error:
        raise CheckpointError(f"{name}: its config.json holds a value that does not fit: {one_line(error)}") from error
    except OSError as error:
        where = "" if Path(name).is_dir() else " (no folder of that name is here, so it was looked for on the Hub)"
        raise MissingCheckpointError(f"{name} cannot be loaded{where}: {one_line(error)}") from error
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{name} cannot be loaded: {one_line(error)}") from error
    # A config may hold anything, and what a library makes of a word where a number belongs may be any error.
    except Exception as error:
        raise CheckpointError(
            f"{name} cannot be loaded ({type(error).__name__}: {one_line(error)}): one of its files is damaged, or "
            "was written for something else."
        ) from error


def is_hub_name(name: str) -> bool:
    """Tell whether the Hub can have a repo of that name.

    Args:
        name: Such as "org/name".

    Returns:
        False for paths.
    """
    if name.endswith((*_PICKLES, ".safetensors")) or name.startswith("."):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


class Source:
    """Where the files of a checkpoint are taken from.

    Attributes:
        name: As the caller says it.
        folder: On this machine; None: in a repo.
        subfolder: Subfolder of the folder or repo.
        weights: The file that the name is of; None: it is of a folder or repo.

    Args:
        name: Folder or Hub id, or a file of weights where `config` is among the options.
        options: Options of `from_pretrained`; those that say where files lie are taken out.
    """

    def __init__(self, name: str, options: dict[str, Any]):
        self.name = name
        self.subfolder: str = options.pop("subfolder", "") or ""
        self._options = {key: options.pop(key) for key in _WHERE if key in options}
        self.folder: Path | None = None
        self._is_reached = False
        self.weights: str | None = None
        if Path(name).is_file() and name.endswith(".safetensors") and options.get("config") is not None:
            self.folder, self.weights = Path(name).parent, Path(name).name
        elif Path(name).is_dir():
            self.folder = find_folder(name, self.subfolder)
            if self.folder is None:
                raise MissingCheckpointError(f"{name} cannot be loaded: it holds no folder {self.subfolder!r}.")
        elif Path(name).exists():
            raise MissingCheckpointError(
                f"{name} cannot be loaded: it is a file{_of_pickles(name)}. Give the folder of a network that was "
                "saved with save_pretrained. (Only target.checkpoint of a CIFAR ResNet can be a bare .safetensors "
                "file.)"
            )
        elif not is_hub_name(name):
            raise MissingCheckpointError(
                f"{name} cannot be loaded: there is no such folder here, and the Hub has no such names "
                "(organisation/name)."
            )

    def find(self, file: str) -> Path | None:
        """Find a file, downloading it where it lies in a repo; None where there is none."""
        if self.folder is not None:
            return find_file(self.folder, file)
        if not self._is_reached:
            self._reach(file)
        try:
            found = cached_file(self.name, file, subfolder=self.subfolder, **self._options)
        except OSError as error:
            # So it says that the repo has no such file; what it met otherwise is a cause, or an error of the system.
            if type(error) is not OSError or error.errno is not None or error.__cause__ is not None:
                raise
            found = None
        if found is None:
            return None
        # ".../snapshots/<commit>/<subfolder>/<file>": all further files are of that commit.
        commit = Path(found).parents[len(PurePosixPath(self.subfolder, file).parts) - 1].name
        self._options["revision"] = commit
        return Path(found)

    def _reach(self, file: str) -> None:
        """Ask the Hub once, and shortly, for what the cache lacks: the client tries for half a minute.

        Without a network a name is more often a folder that was misspelt than a repo.
        """
        self._is_reached = True
        options = {key: self._options[key] for key in ("revision", "cache_dir") if key in self._options}
        path = str(PurePosixPath(self.subfolder, file))
        if self._options.get("local_files_only") or isinstance(try_to_load_from_cache(self.name, path, **options), str):
            return
        url = hf_hub_url(self.name, path, revision=options.get("revision"))
        try:
            get_hf_file_metadata(url, token=self._options.get("token"), timeout=_SECONDS_TO_REACH)
        except (HfHubHTTPError, OfflineModeIsEnabled):
            return  # an answer, which the client reads
        except (HTTPError, ConnectionError) as error:
            raise MissingCheckpointError(
                f"{self.name} cannot be loaded: no folder of that name is here, and the Hub cannot be reached to look "
                f"there ({one_line(error)}). Check the name, and your connection."
            ) from error

    def no_config(self) -> MissingCheckpointError:
        """The error of a checkpoint that has no config.json, by what there is instead."""
        if self.find(_PIPELINE) is not None:
            parts = [] if self.folder is None else sorted(path.parent.name for path in self.folder.glob(f"*/{CONFIG}"))
            return MissingCheckpointError(
                f"{self.name} cannot be loaded: it is a pipeline of several networks. Give the folder of one of them "
                f"on this machine, such as {Path(self.name, next((part for part in parts if 'vae' in part), 'vae'))}."
            )
        return MissingCheckpointError(
            f"{self.name} cannot be loaded: it has no {CONFIG}{self._held()}. Give the folder or Hub id of a network "
            "that was saved with save_pretrained."
        )

    def no_weights(self, file: str) -> MissingCheckpointError:
        """The error of a checkpoint without weights that are read, by what there is instead."""
        return MissingCheckpointError(
            f"{self.name} cannot be loaded: it has no file named {file}{self._held()}. Only safetensors files are "
            "read; save it with save_pretrained."
        )

    def _held(self) -> str:
        if self.folder is None:
            return ""
        names = sorted(path.name for path in self.folder.iterdir())
        if not names:
            return ": the folder is empty"
        if _ADAPTER in names:
            return (
                ", but an adapter for another network: merge it into that network in Python first, and save the result"
            )
        if pickles := [name for name in names if name.endswith(_PICKLES)]:
            return f", but {pickles[0]}{_of_pickles(pickles[0])}"
        return f" (it holds {', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _of_pickles(name: str) -> str:
    if not name.endswith(_PICKLES):
        return ""
    return ": pickled weights, which can run anything when they are read. If you trust it, load it in Python"
