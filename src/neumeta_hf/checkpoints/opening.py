"""A checkpoint on this machine or on the Hub: its files, each looked at before anything is made of it."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from neumeta_hf.checkpoints.configs import check_config, without_origin
from neumeta_hf.checkpoints.held import HeldWeights, limit_building, read_headers
from neumeta_hf.checkpoints.source import CONFIG, Source, explain_loading_errors
from neumeta_hf.checkpoints.weights import DIGEST_FILE, check_files
from neumeta_hf.errors import CheckpointError, MissingCheckpointError, one_line
from neumeta_hf.reading import read_json

logger = logging.getLogger(__name__)

PROCESSOR = "preprocessor_config.json"
"""The config of an image processor, beside a network."""

_MOST_SHARDS = 1024

_Result = TypeVar("_Result")


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
    _source: Source
    _held: HeldWeights | None = None
    _weights: str = ""

    def make_config(self, config_class: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Make the config of a network of transformers.

        Args:
            config_class: Its class.
            options: Options of `from_pretrained`; fields of the config among them win.

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
            if (path := self._source.find(self._source.weights or self._weights)) is not None:
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
            CheckpointError: A weight is not a number, or not as it was saved.
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
        if self.code:
            told = "; ".join(self.code)[:200]
            logger.warning("%s names code of its own (%s): it is neither run nor saved again", self.name, told)
        with self._staged(self._held) as folder, limit_building(self._held.most_built):
            return explain_loading_errors(self.name, lambda: loader(folder, *args, **options))

    def load_family(
        self,
        loader: Callable[..., tuple[Any, dict[str, Any]]],
        config_class: Any,
        name: Any,
        *args: Any,
        config: Any = None,
        **options: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Call the `from_pretrained` of a family, whose constructor compares itself with `held`.

        Args:
            loader: Gets the folder first, and `config` and `held` among its options.
            config_class: Config class of the family.
            name: What the family is to say that it was loaded from.
            *args: Further arguments.
            config: The family's, where the caller has it.
            **options: Options of `from_pretrained`.

        Returns:
            The family and the loading info.

        Raises:
            NeuMetaError: As `explain_loading_errors`.
        """
        if not isinstance(config, config_class):
            config, options = self.make_config(config_class, options)
        held = self.read_weights(variant=options.get("variant"))
        family, info = self.load(loader, *args, config=config, held=held, **options)
        family.name_or_path = family.config.name_or_path = name
        return family, info

    @contextlib.contextmanager
    def _staged(self, held: HeldWeights) -> Iterator[str]:
        # What else lies beside the weights (adapters, shards of another layout, code) has its say with transformers.
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / CONFIG).write_text(json.dumps(self.config), encoding="utf-8")
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
                for name, values in ((CONFIG, self.config), (PROCESSOR, without_origin(read_json(path)))):
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
        name: Folder or Hub id, or a file of weights where `config` is among the options; "~" is the home folder.
        options: Options of `from_pretrained`; those that say where files lie are taken out.

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
        source = Source(name, options)
        path = source.find(CONFIG)
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
        return path, read_headers(str(path), [path], of_libraries=False).without_prefix()
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
