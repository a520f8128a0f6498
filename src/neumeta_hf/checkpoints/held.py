"""What the files of a checkpoint hold, by their headers alone, against what its config asks for."""

import contextlib
import dataclasses
import logging
import math
import struct
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.modules import module as hooks

from neumeta_hf.checkpoints.weights import check_keys
from neumeta_hf.errors import CheckpointError

logger = logging.getLogger(__name__)

_MOST_HEADER = 16 * 2**20
_TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
_MOST_DIMENSIONS = 8
_MOST_NAME = 1024

_FREE_VALUES = 2**24
"""So many values a network may have, or generate, whatever its files hold."""
_MOST_YIELD = 2**10
"""How many weights a family may generate for each number that its files hold."""

_PREFIXES = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before the name of every weight."""

MOST_PARTS = 2**15
"""Layers, parameters and buffers of one network."""
_MOST_BUILT = 2**16
_MOST_BUILT_EACH = 2**8
"""The same of all networks that are built to load a checkpoint, and as many more for each tensor in its files: a family
looks at a network for each group of channels, of which there are more the more tensors a network has."""


@contextlib.contextmanager
def limit_building(most: int = MOST_PARTS) -> Iterator[Callable[[], int]]:
    """While active, building more layers and tensors than that in this thread is an error.

    Args:
        most: Layers, parameters and buffers.

    Yields:
        Tells how many were built.

    Raises:
        CheckpointError: More are built.
    """
    count, thread = 0, threading.get_ident()

    def counted(*_: Any) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > most:
            raise _too_much_built(most)

    handles = [
        register(counted)
        for register in (
            hooks.register_module_parameter_registration_hook,
            hooks.register_module_buffer_registration_hook,
            hooks.register_module_module_registration_hook,
        )
    ]
    try:
        yield lambda: count
    finally:
        for handle in handles:
            handle.remove()


def _too_much_built(most: int) -> CheckpointError:
    return CheckpointError(
        f"a config asks for networks of more than {most:,} layers and tensors in all: it is damaged or not to be "
        "trusted."
    )


@dataclasses.dataclass(frozen=True)
class HeldWeights:
    """Names and shapes of the tensors in a checkpoint's files.

    Attributes:
        name: Name of the checkpoint.
        shapes: Name of each tensor to its shape.
        files: Name of each tensor to its file.
        prefix: What all names in the files begin with, and those in `shapes` do not.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    files: Mapping[str, Path]
    prefix: str = ""

    @property
    def num_values(self) -> int:
        """How many numbers there are in all."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def most_built(self) -> int:
        """How many layers and tensors are built, at the most, to load these."""
        return _MOST_BUILT + _MOST_BUILT_EACH * len(self.shapes)

    def check_work(self, num_parts: int, num_groups: int, num_patterns: int) -> None:
        """Refuse a family that takes too long to build, before it does.

        Args:
            num_parts: Layers and tensors of one of its networks.
            num_groups: Groups of channels, for each of which one is built.
            num_patterns: What is compared with each name of its tensors, which takes about a hundredth of the time.

        Raises:
            CheckpointError: So many are not built for a checkpoint of this size.
        """
        if num_parts * max(num_groups, num_patterns // 100) > self.most_built:
            raise _too_much_built(self.most_built)

    def check_family(self, family: nn.Module, num_generated: int) -> None:
        """Refuse a family that these are not the weights of, tensor by tensor.

        Args:
            family: On the meta device.
            num_generated: Weights that it generates at full size.

        Raises:
            CheckpointError: Tensors lack, are too many or have another shape, or the family generates far more than
                what it holds can tell.
        """
        needed = {name: tuple(tensor.shape) for name, tensor in family.state_dict().items()}
        self._check_shapes(needed)
        info = {"missing_keys": needed.keys() - self.shapes, "unexpected_keys": self.shapes.keys() - needed}
        check_keys({**info, "mismatched_keys": ()}, self.name)
        most = max(_FREE_VALUES, _MOST_YIELD * self.num_values)
        if num_generated > most:
            raise CheckpointError(
                f"{self.name}: its config.json asks for networks of {num_generated:,} weights, generated from "
                f"{self.num_values:,} numbers in its files: at most {most:,} are allowed. It is damaged or not to be "
                "trusted."
            )

    def check_network(self, network: nn.Module, *, dropped: tuple[str, ...] = ()) -> "HeldWeights":
        """Refuse a plain network that takes more memory than these fill.

        transformers renames weights of older checkpoints on the way, so that names may differ here, as long as there
        are as many numbers.

        Args:
            network: On the meta device.
            dropped: Prefixes of tensors that the network does not take.

        Returns:
            These weights, without a prefix that all of their names have and none of the network's.

        Raises:
            CheckpointError: Tensors have another shape, or more numbers lack than there are left over.
        """
        # Tied tensors are saved once, under one of their names.
        tensors = network.state_dict(keep_vars=True)
        names: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            names.setdefault(id(tensor), []).append(name)
        held = self.without_prefix(tensors)
        held._check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        missing = [same[0] for same in names.values() if not any(name in held.shapes for name in same)]
        spare = [name for name in held.shapes if name not in tensors and not name.startswith(dropped)]
        unsaved = {name: buffer for name, buffer in network.named_buffers() if name not in tensors}
        needed = sum(tensors[name].numel() for name in missing) + sum(map(torch.numel, unsaved.values()))
        if needed > sum(math.prod(held.shapes[name]) for name in spare) + _FREE_VALUES // 16:
            check_keys({"missing_keys": missing or unsaved, "unexpected_keys": (), "mismatched_keys": ()}, self.name)
        return held

    def without_prefix(self, needed: Collection[str] = ()) -> "HeldWeights":
        """Leave out what `DataParallel` and `torch.compile` put before the names of all weights.

        Args:
            needed: Names of a network's tensors, which may begin like that themselves.

        Returns:
            Weights with shorter names, or these.
        """
        names, prefix = list(self.shapes), ""
        while names and (found := next((p for p in _PREFIXES if all(n.startswith(p) for n in names)), "")):
            names, prefix = [name.removeprefix(found) for name in names], prefix + found
        if not prefix or any(name.startswith(_PREFIXES) for name in needed):
            return self
        logger.warning("%s: the names of all its weights begin with %r; this prefix is left out", self.name, prefix)
        return dataclasses.replace(
            self,
            shapes=dict(zip(names, self.shapes.values(), strict=True)),
            files=dict(zip(names, self.files.values(), strict=True)),
            prefix=prefix,
        )

    def _check_shapes(self, needed: Mapping[str, tuple[int, ...]]) -> None:
        other = [
            f"{name} ({list(self.shapes[name])} in its files, {list(shape)} by its config.json)"
            for name, shape in needed.items()
            if name in self.shapes and self.shapes[name] != shape
        ]
        check_keys({"missing_keys": (), "unexpected_keys": (), "mismatched_keys": other}, self.name)


def read_headers(name: str, paths: Sequence[Path], *, of_libraries: bool = True) -> HeldWeights:
    """Read the headers of weights files; no tensor is made.

    Args:
        name: Name of the checkpoint.
        paths: Its .safetensors files.
        of_libraries: Whether what they say of themselves has to be what transformers and diffusers write.

    Returns:
        What they hold.

    Raises:
        CheckpointError: A file holds tensors of a kind that no network here has, or of another library than PyTorch. Or
            two files hold tensors of one name.
        SafetensorError: A file is none: its header is too long or no JSON, or tensors lie outside of the file or over
            each other.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, Path] = {}
    for path in paths:
        with path.open("rb") as file:
            start = file.read(8)
        if len(start) == 8 and (length := struct.unpack("<Q", start)[0]) > _MOST_HEADER:
            raise SafetensorError(f"a header of {length:,} bytes, of which at most {_MOST_HEADER:,} are read")
        with safe_open(path, framework="pt") as file:  # checks that tensors fill the file, each a stretch of its own
            told = file.metadata() or {}
            if of_libraries and told and told.get("format") != "pt":
                raise CheckpointError(
                    f"{name}: the header of {path.name} says {str(told)[:80]}, but weights saved by PyTorch say "
                    "'format': 'pt'. Save it again with save_pretrained."
                )
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                tensor = file.get_slice(key)
                kind, shape = str(tensor.get_dtype()), tuple(tensor.get_shape())
                if kind not in _TYPES or len(shape) > _MOST_DIMENSIONS or len(key) > _MOST_NAME:
                    raise CheckpointError(
                        f"{name}: {path.name} holds {key[:80]!r} of type {kind} with {len(shape)} axes: networks of "
                        f"this library have {', '.join(_TYPES)}, at most {_MOST_DIMENSIONS} axes and names of at most "
                        f"{_MOST_NAME:,} letters."
                    )
                if key in shapes:
                    raise CheckpointError(
                        f"{name}: {path.name} and {files[key].name} both hold {key}: save the checkpoint again."
                    )
                shapes[key], files[key] = shape, path
    return HeldWeights(name, shapes, files)
