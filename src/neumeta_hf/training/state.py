"""The state that a loop resumes from: tensors as safetensors and one JSON manifest, in which nothing can run.

It is read as if a stranger had written it: the manifest first, then the checksum of every file. Then names, shapes and
types are compared with those of the run, and only then is anything changed.
"""

import dataclasses
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from neumeta_hf.errors import CheckpointError, one_line
from neumeta_hf.training.average import WeightAverage
from neumeta_hf.training.optimization import state_names
from neumeta_hf.training.randomness import RandomNumbers, RandomState

FORMAT = 1
"""Raised with every change that an earlier version could not read."""
MANIFEST = "manifest.json"

_MODEL, _OPTIMIZER, _AVERAGE, _RANDOM = (f"{name}.safetensors" for name in ("model", "optimizer", "average", "random"))
_PICKLES = (".bin", ".pkl", ".pt", ".pth")
_MOST_MANIFEST = 2**20
_MOST_RANDOM = 2**16  # bytes of random state for each process
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Count = Annotated[int, Field(ge=0, le=2**53)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclasses.dataclass(kw_only=True)
class Progress:
    """Where a run is; saved with its state.

    Attributes:
        batch: Batches seen by each process.
        step: Optimiser steps taken.
        best_score: Best score on the validation split; None: there is none yet.
        batches_per_epoch: Batches of each process in an epoch, which depends on how many processes there are.
        seconds: What the steps took, interruptions and validation left out.
        evaluated: Whether all is done that follows the last whole epoch.
    """

    __pydantic_config__ = _STRICT
    batch: Count = 0
    step: Count = 0
    best_score: float | None = None
    batches_per_epoch: Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    evaluated: bool = True


@dataclasses.dataclass(kw_only=True)
class Manifest:
    """What a state holds beside tensors.

    Attributes:
        format: Format number of the folder.
        progress: Where the run is.
        optimizer: Plain numbers of each group of parameters; the schedule moves their "lr".
        average: Plain numbers of the averaged weights, if there are any.
        random: Random state of each process.
        files: Name to SHA-256.
        streams: Where each process is in its documents; None: the data is no stream.
        checksum: SHA-256 of this manifest without it.
    """

    __pydantic_config__ = _STRICT
    format: int
    progress: Progress
    optimizer: list[dict[str, bool | int | float]]
    average: dict[str, bool | int | float] | None
    random: list[RandomNumbers]
    files: dict[str, Digest]
    streams: list[dict[str, Any]] | None = None
    checksum: str = ""

    def text(self) -> bytes:
        """Write the manifest in its one form, checksum included."""
        values = {**dataclasses.asdict(self), "checksum": ""}
        if self.streams is None:  # as earlier versions read and write it
            del values["streams"]
        values["checksum"] = hashlib.sha256(_json(values)).hexdigest()
        return _json(values)


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=1, allow_nan=False).encode()


@dataclasses.dataclass
class _Header:
    format: int


_MANIFESTS = TypeAdapter(Manifest)
_HEADERS = TypeAdapter(_Header)


def read_manifest(folder: Path) -> Manifest:
    """Read what a state says of itself, and check that its files are those that it names.

    Args:
        folder: Folder of the state.

    Returns:
        The manifest; the files that it names lie in the folder, and nothing else does.

    Raises:
        CheckpointError: There is no state, it is damaged, or it is of another version. The message names the file.
    """
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a link, and no state is read through links.")
    if not folder.is_dir():
        raise CheckpointError(
            f"no state to resume from at {folder}: run with resume=False first.",
            command=f"no state to resume from at {folder}: run without --resume first.",
        )
    names = sorted(entry.name for entry in os.scandir(folder))
    if MANIFEST not in names and (pickles := [name for name in names if name.endswith(_PICKLES)]):
        raise CheckpointError(
            f"{folder / pickles[0]} was written by an earlier version as a pickle. Pickles can run code, so "
            "it is not read."
        )
    path = folder / MANIFEST
    text = _read(path, _MOST_MANIFEST)
    try:
        if (found := _HEADERS.validate_json(text).format) != FORMAT:
            raise CheckpointError(
                f"{path} is of format {found}, and this version reads {FORMAT}: resume with the version that wrote it."
            )
        manifest = _MANIFESTS.validate_json(text)
    except ValidationError as error:
        entry = error.errors()[0]
        where = ".".join(map(str, entry["loc"]))
        raise CheckpointError(f"{path} is damaged: {where}{': ' if where else ''}{one_line(entry['msg'])}.") from error
    # Byte for byte: no other text means the same.
    if manifest.text() != text:
        raise CheckpointError(f"{path} is damaged: it does not match its checksum.")
    for name in sorted({*manifest.files, MANIFEST} ^ set(names)):
        is_there = name in names
        raise CheckpointError(f"{folder / name} {'does not belong to the state' if is_there else 'is missing'}.")
    return manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopState:
    """The objects whose state is saved and loaded.

    Attributes:
        module: What is trained, unwrapped.
        optimizer: Moves its parameters.
        schedule: Drives the optimiser, one step of it for each of the optimiser's.
        average: Averaged weights, if there are any.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    average: WeightAverage | None

    def save(
        self,
        folder: Path,
        progress: Progress,
        random: list[RandomState],
        streams: list[dict[str, Any]] | None = None,
    ) -> None:
        """Write the state into an empty folder.

        Args:
            folder: Exists.
            progress: Where the run is.
            random: Random state of every process.
            streams: Where every process is in its documents, where the data is a stream.

        Raises:
            OSError: The folder cannot be written to.
            SafetensorError: The folder cannot be written to, or the disk is full.
        """
        contents = {_MODEL: self._module_tensors(), _OPTIMIZER: self._optimizer_tensors(), _RANDOM: {}}
        if self.average is not None:
            contents[_AVERAGE] = _numbered(self.average.tensors)
        for rank, state in enumerate(random):
            contents[_RANDOM] |= {f"{rank}.{name}": tensor for name, tensor in state.tensors.items()}
        files = {}
        for name, tensors in contents.items():
            # Copies: safetensors refuses tensors that share memory.
            copies = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
            save_file(copies, folder / name)
            with (folder / name).open("rb") as file:
                files[name] = hashlib.file_digest(file, "sha256").hexdigest()
        manifest = Manifest(
            format=FORMAT,
            progress=progress,
            optimizer=self._optimizer_numbers(),
            average=None if self.average is None else self.average.numbers(),
            random=[state.numbers for state in random],
            files=files,
            streams=streams,
        )
        (folder / MANIFEST).write_bytes(manifest.text())

    def load(self, folder: Path, manifest: Manifest, *, rank: int, device: torch.device) -> RandomState:
        """Load the state of a folder, all of it or nothing.

        Args:
            folder: Folder of the state.
            manifest: As `read_manifest` returned it.
            rank: Number of this process.
            device: Device of this process.

        Returns:
            The random state of the process, checked, for the caller to restore.

        Raises:
            CheckpointError: A file is damaged, or is not of these objects. The message names the file.
        """
        path = folder / MANIFEST
        expected = {_MODEL: self._module_tensors(), _OPTIMIZER: self._optimizer_tensors(whole=True), _RANDOM: {}}
        if self.average is not None:
            expected[_AVERAGE] = _numbered(self.average.tensors)
        for name in sorted(expected.keys() ^ manifest.files.keys()):
            raise CheckpointError(
                f"{path} {'lacks' if name in expected else 'names'} {name}, unlike the recipe's loop."
            )
        self._check_numbers(path, manifest)
        tensors = {}
        for name, templates in expected.items():
            most = 2**16 + sum(tensor.nbytes + 2**9 for tensor in templates.values())
            if name == _RANDOM:
                most = _MOST_RANDOM * len(manifest.random)
            tensors[name] = _read_tensors(folder / name, manifest.files[name], most)
        random = _random_of(folder / _RANDOM, manifest, tensors.pop(_RANDOM), rank=rank, device=device)
        # A parameter that has never had a gradient has nothing in the optimiser yet.
        known = {key.partition(".")[0] for key in tensors[_OPTIMIZER]}
        expected[_OPTIMIZER] = {
            key: part for key, part in expected[_OPTIMIZER].items() if key.partition(".")[0] in known
        }
        for name, loaded in tensors.items():
            _check_tensors(folder / name, loaded, expected[name])

        step = manifest.progress.step
        with torch.no_grad():
            for name in (_MODEL, _AVERAGE):
                for key, tensor in tensors.get(name, {}).items():
                    expected[name][key].copy_(tensor)
        if self.average is not None:
            self.average.steps = step
        moments: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors[_OPTIMIZER].items():
            index, _, name = key.partition(".")
            # In the memory layout of its parameter, which fused steps count on.
            moments.setdefault(int(index), {})[name] = torch.empty_like(expected[_OPTIMIZER][key]).copy_(tensor)
        state = self.optimizer.state_dict()
        rates = [numbers["lr"] for numbers in manifest.optimizer]
        for group, rate in zip(state["param_groups"], rates, strict=True):
            group["lr"] = rate
        self.optimizer.load_state_dict({**state, "state": moments})
        steps = {"last_epoch": step, "_step_count": step + 1, "_last_lr": rates}
        self.schedule.load_state_dict({**self.schedule.state_dict(), **steps})
        return random

    def _check_numbers(self, path: Path, manifest: Manifest) -> None:
        """Refuse plain numbers other than those of these objects, which are of the recipe and stay.

        Versions of torch differ in what else they have, and earlier states have more of the average.
        """
        step, found, expected = manifest.progress.step, [*manifest.optimizer], [*self._optimizer_numbers()]
        if len(found) == len(expected):
            for group, base, factor in zip(expected, self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True):
                group["lr"] = float(base * factor(step))
        if manifest.average is not None:
            found.append(manifest.average)
        if self.average is not None:
            expected.append({**self.average.numbers(), "optimization_step": step})
        if len(found) != len(expected) or any("lr" not in group for group in manifest.optimizer):
            raise CheckpointError(f"{path} has other groups of parameters than the recipe's loop.")
        for numbers, live in zip(found, expected, strict=True):
            for key in sorted(numbers.keys() & live.keys()):
                # Cosines of two machines may differ in the last bits.
                if not math.isclose(numbers[key], live[key], rel_tol=1e-6 if key == "lr" else 0.0):
                    raise CheckpointError(
                        f"{path}: {key} is {numbers[key]} at step {step}, and {live[key]} by the recipe."
                    )

    def _module_tensors(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers, those with two names under the first."""
        tensors = self.module.state_dict(keep_vars=True)
        first = {id(tensor): name for name, tensor in reversed(tensors.items())}
        return {name: tensor for name, tensor in tensors.items() if first[id(tensor)] == name}

    def _optimizer_tensors(self, *, whole: bool = False) -> dict[str, Tensor]:
        """What the optimiser keeps for each parameter; the whole of it also where it has nothing yet."""
        tensors = {}
        for index, parameter in enumerate(_parameters(self.optimizer)):
            kept = self.optimizer.state.get(parameter, {})
            for name in state_names(self.optimizer):
                if whole:
                    tensors[f"{index}.{name}"] = torch.zeros(()) if name == "step" else parameter
                elif name in kept:
                    tensors[f"{index}.{name}"] = kept[name]
        return tensors

    def _optimizer_numbers(self) -> list[dict[str, bool | int | float]]:
        return [_numbers(group) for group in self.optimizer.param_groups]


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _numbered(tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    return {str(index): tensor for index, tensor in enumerate(tensors)}


def _numbers(values: Mapping[str, Any]) -> dict[str, bool | int | float]:
    return {key: value for key, value in values.items() if isinstance(value, bool | int | float)}


def _random_of(
    path: Path, manifest: Manifest, tensors: Mapping[str, Tensor], *, rank: int, device: torch.device
) -> RandomState:
    try:
        return RandomState.of_process(rank, manifest.random, tensors, device=device)
    except ValueError as error:
        raise CheckpointError(f"{path} holds no state of random numbers: {one_line(error)}.") from error


def _read(path: Path, most: int) -> bytes:
    """The bytes of a file of the state: no link, nothing but a file, and no more than it can hold."""
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.") from error
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is a link or not a file, and only files are read.")
    if status.st_size > most:
        raise CheckpointError(f"{path} is damaged: it has {status.st_size:,} bytes, but at most {most:,} belong there.")
    return path.read_bytes()


def _read_tensors(path: Path, digest: str, most: int) -> dict[str, Tensor]:
    content = _read(path, most)
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(f"{path} is damaged: it does not match its checksum in {MANIFEST}.")
    try:
        return load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file ({one_line(error)}).") from error


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for key in sorted(tensors.keys() ^ expected.keys()):
        raise CheckpointError(f"{path} {'lacks' if key in expected else 'holds'} {key!r}, unlike the recipe's network.")
    for key, tensor in sorted(tensors.items()):
        found, wanted = ((part.dtype, list(part.shape)) for part in (tensor, expected[key]))
        if found != wanted:
            raise CheckpointError(
                f"{path}: {key!r} is {found[0]} of shape {found[1]}, and the recipe's network has {wanted[0]} of shape "
                f"{wanted[1]}."
            )
