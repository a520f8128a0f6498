"""A checkpoint on this machine or on the Hub: its files, each looked at before anything is made of it."""

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
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
from safetensors.torch import load_file, save_file
from transformers.utils.hub import cached_file

from neumeta_hf.checkpoints.configs import check_config, without_origin
from neumeta_hf.checkpoints.held import HeldWeights, limit_building, read_headers
from neumeta_hf.checkpoints.weights import DIGEST_FILE, check_files
from neumeta_hf.errors import CheckpointError, MissingCheckpointError, NeuMetaError, one_line
from neumeta_hf.reading import find_file, find_folder, read_json

PROCESSOR = "preprocessor_config.json"
"""The config of an image processor, beside a network."""

_CONFIG = "config.json"
_PIPELINE = "model_index.json"
_ADAPTER = "adapter_config.json"
_WHERE = ("revision", "cache_dir", "token", "force_download", "local_files_only", "proxies")
"""Options of `from_pretrained` that say where a file of a repo is taken from."""
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".h5", ".msgpack")
_MOST_SHARDS = 1024
_SECONDS_TO_REACH = 5.0

_Result = TypeVar("_Result")


def explain_loading_errors(name: str, call: Callable[[], _Result]) -> _Result:
    """Call something that loads a checkpoint; what goes wrong becomes one error that says what to do.

    Args:
        name: Of the checkpoint.
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
            f"{name}: its .safetensors file is damaged or none ({one_line(error)}): download or save it again."
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
            f"{name} cannot be loaded ({type(error).__name__}: {one_line(error)}): a file of it is damaged, or was "
            "written for something else."
        ) from error


def is_hub_name(name: str) -> bool:
    """Whether the Hub can have a repo of that name.

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


class _Source:
    """Where the files of a checkpoint are taken from.

    Args:
        name: Folder or Hub id.
        options: Of `from_pretrained`; those that say where files lie are taken out.
    """

    def __init__(self, name: str, options: dict[str, Any]):
        self.name = name
        self.subfolder: str = options.pop("subfolder", "") or ""
        self._options = {key: options.pop(key) for key in _WHERE if key in options}
        self.folder: Path | None = None
        self._is_reached = False
        if Path(name).is_dir():
            self.folder = find_folder(name, self.subfolder)
            if self.folder is None:
                raise MissingCheckpointError(f"{name} cannot be loaded: it holds no folder {self.subfolder!r}.")
        elif Path(name).exists():
            raise MissingCheckpointError(
                f"{name} cannot be loaded: it is a file{_of_pickles(name)}. Give the folder of a network that was "
                "saved with save_pretrained (bare .safetensors files are read as target.checkpoint of a CIFAR ResNet)."
            )
        elif not is_hub_name(name):
            raise MissingCheckpointError(
                f"{name} cannot be loaded: there is no such folder here, and the Hub has no such names "
                "(organisation/name)."
            )

    def find(self, file: str) -> Path | None:
        """A file, downloaded where it lies in a repo; None where there is none."""
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
                f"{self.name} cannot be loaded: no folder of that name is here, and the Hub, where it was looked for, "
                f"cannot be reached ({one_line(error)}). Check the name of the folder, or the network."
            ) from error

    def no_config(self) -> MissingCheckpointError:
        """The error of a checkpoint that has no config.json, by what there is instead."""
        if (index := self.find(_PIPELINE)) is not None:
            parts = [key for key in read_json(index) if not key.startswith("_")]
            return MissingCheckpointError(
                f"{self.name} cannot be loaded: it is a pipeline of several networks ({', '.join(parts[:8])}). Give "
                f"the folder of one of them, such as {self.name}/vae, on this machine."
            )
        return MissingCheckpointError(f"{self.name} cannot be loaded: it has no {_CONFIG}{self._held()}.")

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
            return ", and nothing else: the folder is empty"
        if _ADAPTER in names:
            return ", but an adapter for another network: merge it into that in Python first, and save the result"
        if pickles := [name for name in names if name.endswith(_PICKLES)]:
            return f", but {pickles[0]}{_of_pickles(pickles[0])}"
        return f" (it holds {', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _of_pickles(name: str) -> str:
    if not name.endswith(_PICKLES):
        return ""
    return " of pickled weights, which can run anything when they are read: load it in Python if you trust it"


@dataclasses.dataclass
class Checkpoint:
    """A checkpoint whose config has been read, and whose weights have not.

    Attributes:
        name: Folder or Hub id.
        config: Values of its config.json, without what names code or other places; empty where there is none.
        code: What code its config.json names.
    """

    name: str
    config: dict[str, Any]
    code: list[str]
    _source: _Source
    _held: HeldWeights | None = None
    _weights: str = ""

    def make_config(self, config_class: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Make the config of a network of transformers.

        Args:
            config_class: Its class.
            options: Of `from_pretrained`; fields of the config among them win.

        Returns:
            The config, and the options that are none of its fields.

        Raises:
            NeuMetaError: As `explain_loading_errors`.
        """
        make = functools.partial(config_class.from_dict, dict(self.config), return_unused_kwargs=True, **options)
        return explain_loading_errors(self.name, make)

    def read_weights(self, *, stem: str = "model", variant: str | None = None) -> HeldWeights:
        """Find the weights files, and read their headers.

        Args:
            stem: What their names begin with.
            variant: As of `from_pretrained`.

        Returns:
            What they hold.

        Raises:
            CheckpointError: A file is damaged, or the index names one elsewhere.
            MissingCheckpointError: There are none, or the index names one that is not there.
        """
        infix = "" if variant is None else f".{variant}"
        self._weights = f"{stem}{infix}.safetensors"

        def read() -> HeldWeights:
            if (path := self._source.find(self._weights)) is not None:
                return read_headers(self.name, [path])
            if (index := self._source.find(f"{stem}.safetensors.index{infix}.json")) is None:
                raise self._source.no_weights(self._weights)
            return read_headers(self.name, [self._find_shard(index, name) for name in _shards(index)])

        self._held = explain_loading_errors(self.name, read)
        return self._held

    def check_network(self, held: HeldWeights) -> None:
        """Look at every weight of a plain network, and compare with the checksum beside them if there is one.

        Args:
            held: As `HeldWeights.check_network` returned it.

        Raises:
            CheckpointError: A weight is no number, or not as it was saved.
        """
        self._held = held
        files = {held.prefix + name: path for name, path in held.files.items()}
        digest = explain_loading_errors(self.name, lambda: self._source.find(DIGEST_FILE))
        explain_loading_errors(self.name, lambda: check_files(files, digest, self.name))

    def load(self, loader: Callable[..., _Result], *args: Any, **options: Any) -> _Result:
        """Call a `from_pretrained` on a folder in which there is nothing but what was checked.

        Args:
            loader: Gets the folder first.
            *args: Further arguments.
            **options: Likewise.

        Returns:
            What it returns.

        Raises:
            NeuMetaError: As `explain_loading_errors`.
        """
        assert self._held is not None
        with self._staged(self._held) as folder, limit_building(self._held.most_built):
            return explain_loading_errors(self.name, lambda: loader(folder, *args, **options))

    def load_family(
        self,
        loader: Callable[..., _Result],
        config_class: Any,
        _: Any,
        *args: Any,
        config: Any = None,
        **options: Any,
    ) -> _Result:
        """Call the `from_pretrained` of a family, whose constructor compares itself with `held`.

        Args:
            loader: Gets the folder first, and `config` and `held` among its options.
            config_class: Of the family.
            _: As the caller named it.
            *args: Further arguments.
            config: The family's, where the caller has it.
            **options: Of `from_pretrained`.

        Returns:
            What it returns.

        Raises:
            NeuMetaError: As `explain_loading_errors`.
        """
        if not isinstance(config, config_class):
            config, options = self.make_config(config_class, options)
        held = self.read_weights(variant=options.get("variant"))
        return self.load(loader, *args, config=config, held=held, **options)

    @contextlib.contextmanager
    def _staged(self, held: HeldWeights) -> Iterator[str]:
        # What else lies beside the weights (adapters, shards of another layout, code) has its say with transformers.
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / _CONFIG).write_text(json.dumps(self.config), encoding="utf-8")
            paths = list(dict.fromkeys(held.files.values()))
            names = {path: path.name for path in paths} if len(paths) > 1 else dict.fromkeys(paths, self._weights)
            for path, name in names.items():
                if held.prefix:
                    tensors = {key.removeprefix(held.prefix): tensor for key, tensor in load_file(path).items()}
                    save_file(tensors, folder / name, metadata={"format": "pt"})
                else:
                    _link(path, folder / name)
            if len(paths) > 1:
                stem, _, infix = self._weights.removesuffix(".safetensors").partition(".")
                index = f"{stem}.safetensors.index{infix and '.'}{infix}.json"
                weight_map = {key: names[path] for key, path in held.files.items()}
                (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
            yield str(folder)

    def load_processor(self, loader: Callable[..., _Result], **options: Any) -> _Result:
        """Call the `from_pretrained` of an image processor.

        Args:
            loader: Gets a folder first, with the configs of network and processor and nothing else.
            **options: Further ones.

        Returns:
            What it returns.

        Raises:
            CheckpointError: The processor's config cannot be read.
            MissingCheckpointError: There is none.
        """

        def load() -> _Result:
            if (path := self._source.find(PROCESSOR)) is None:
                raise MissingCheckpointError(f"{self.name} has no {PROCESSOR}, which says how its images are made.")
            with tempfile.TemporaryDirectory() as temporary:
                for name, values in ((_CONFIG, self.config), (PROCESSOR, without_origin(read_json(path)))):
                    Path(temporary, name).write_text(json.dumps(values), encoding="utf-8")
                return loader(temporary, **options)

        return explain_loading_errors(self.name, load)

    def _find_shard(self, index: Path, name: str) -> Path:
        path = self._source.find(name)
        if path is None:
            raise MissingCheckpointError(
                f"{self.name} cannot be loaded: {index.name} names {name}, which is not there."
            )
        return path


def open_checkpoint(name: str | Path, options: dict[str, Any] | None = None) -> Checkpoint:
    """Find a checkpoint, and read its config.

    Args:
        name: Folder or Hub id; "~" is the home folder.
        options: Of `from_pretrained`; those that say where files lie are taken out.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: Its config.json cannot be read, or describes what lies elsewhere; or pickles were asked for.
        MissingCheckpointError: There is no such checkpoint, or it has no config.json.
    """
    name = os.path.expanduser(str(name))
    options = {} if options is None else options
    if options.setdefault("use_safetensors", True) is not True:
        raise CheckpointError(
            f"{name}: use_safetensors={options['use_safetensors']} would read a pickle, which can run anything. Only "
            "safetensors files are read."
        )

    def read() -> Checkpoint:
        source = _Source(name, options)
        path = source.find(_CONFIG)
        if path is None and options.get("config") is None:
            raise source.no_config()
        values: Mapping[str, Any] = {} if path is None else read_json(path)
        code = check_config(values, name)
        return Checkpoint(name, without_origin(values), code, source)

    return explain_loading_errors(name, read)


def open_weights(path: str | Path) -> tuple[Path, HeldWeights]:
    """Read the header of a file of bare weights.

    Args:
        path: The file; "~" is the home folder.

    Returns:
        Its path, and what it holds, without a prefix that all names have.

    Raises:
        CheckpointError: It cannot be read as safetensors.
    """
    path = Path(path).expanduser()
    try:
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        return path, read_headers(str(path), [path]).without_prefix()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({one_line(error)}): pass the path of such a file."
        ) from error


def _shards(index: Path) -> list[str]:
    """The files that an index names, all of them in its own folder."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise CheckpointError(f"{index} is no index of weights: download or save the checkpoint again.")
    names = list(dict.fromkeys(map(str, weight_map.values())))
    for name in names:
        parts = PurePosixPath(name).parts
        if len(parts) != 1 or parts[0] == ".." or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names {name!r}: weights are .safetensors files in the checkpoint's own folder, and nothing "
                "outside of it is read."
            )
    if len(names) > _MOST_SHARDS:
        raise CheckpointError(f"{index} names {len(names):,} files: at most {_MOST_SHARDS:,} are read.")
    return names


def _link(path: Path, place: Path) -> None:
    try:
        place.symlink_to(path.resolve())
    except OSError:  # a system on which links need rights
        shutil.copyfile(path, place)
