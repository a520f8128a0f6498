"""The weights themselves: a checksum, whether they are numbers, whether they are those of their network."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from neumeta_hf.errors import CheckpointError
from neumeta_hf.reading import read_json

DIGEST_FILE = "weights_digest.json"
"""Beside the weights of a plain network, whose config is somebody else's."""

_KEY = "weights_digest"


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Compute a checksum over names, types, shapes and bits of weights, whatever files they lie in.

    Args:
        tensors: Name to tensor.

    Returns:
        "sha256:" and 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


@dataclasses.dataclass(frozen=True, eq=False)
class Fingerprint:
    """What tells weights of a moment from those that they are later; about a hundredth of the time of a checksum.

    The bits of each tensor, added up as integers. It is exact on every device, and no device is waited for. Any one
    value that changes is seen, and so is every training step. What is not: values that change places inside of a
    tensor, or changes whose bits cancel out to the last one.

    Attributes:
        kinds: Name, type and shape of each tensor.
        sums: Sums of the bits of each, on its device.
    """

    kinds: tuple[tuple[str, torch.dtype, torch.Size], ...]
    sums: tuple[Tensor, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Fingerprint":
        """Take the fingerprint of weights.

        Args:
            tensors: Name to tensor.

        Returns:
            The fingerprint, which holds none of them.
        """
        kinds = tuple((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items())
        return cls(kinds, tuple(map(_sum_bits, tensors.values())))

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Tell whether weights are still those that the fingerprint was taken of.

        Args:
            tensors: Name to tensor, on any device.
        """
        other = Fingerprint.of(tensors)
        return self.kinds == other.kinds and all(
            int(mine) == int(theirs) for mine, theirs in zip(self.sums, other.sums, strict=True)
        )


def _sum_bits(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()  # a part of a larger one, which integers of eight bytes cannot be read from
    bytes_ = flat.view(torch.uint8)
    end = len(bytes_) // 8 * 8
    return bytes_[:end].view(torch.int64).sum() + bytes_[end:].sum()


def check_weights(tensors: Mapping[str, Tensor], digest: str | None, name: str) -> None:
    """Refuse weights that are not numbers, or not those that were saved.

    Args:
        tensors: Name to tensor, as loaded.
        digest: As saved; None: not known, or of another type of numbers than what was loaded.
        name: Name of the checkpoint.

    Raises:
        CheckpointError: Naming the key or the file, and the remedy.
    """
    _check_finite(tensors, name)
    if digest is not None and (found := weights_digest(tensors)) != digest:
        raise CheckpointError(
            f"{name}: the weights in model.safetensors are not those that were saved with its config.json "
            f"({found[:15]}... instead of {digest[:15]}...). Some bits were changed on the way: download or save it "
            "again."
        )


def check_keys(info: Mapping[str, Iterable[Any]], name: str, *, dropped: tuple[str, ...] = ()) -> None:
    """Refuse weights that are not exactly those of the model they were loaded into: what lacks would stay random.

    Args:
        info: The loading info of transformers or diffusers.
        name: Name of the checkpoint.
        dropped: Prefixes of tensors that a checkpoint may hold beyond the model's.

    Raises:
        CheckpointError: Tensors lack, are too many or have another shape.
    """
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(map(str, info[kind]))
        if kind == "unexpected_keys":
            keys = [key for key in keys if not key.startswith(dropped)]
        if keys:
            first = ", ".join(keys[:5]) + (" ..." if len(keys) > 5 else "")
            raise CheckpointError(
                f"{name}: {kind.replace('_', ' ')} in the checkpoint: {first} ({len(keys)} in all). Its weights are "
                "not those of the network that its config.json describes: save the whole network, or download it again."
            )


def check_loaded(model: nn.Module, info: Mapping[str, Iterable[Any]], name: str, *, digest: str | None) -> None:
    """Refuse a model whose weights are not all those of its checkpoint, and let it own their memory.

    Args:
        model: As loaded.
        info: The loading info of transformers.
        name: Name of the checkpoint.
        digest: As for `check_weights`.

    Raises:
        CheckpointError: As `check_keys` and `check_weights`.
    """
    check_keys(info, name)
    # What is read from a file starts at any byte, and matrix products round differently there. Fresh memory is
    # aligned, so that a reloaded family generates the very same bits.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    check_weights(model.state_dict(), digest, name)


class _Files(Mapping[str, Tensor]):
    """The tensors in weights files, each read when it is asked for."""

    def __init__(self, files: Mapping[str, Path]):
        self._files = files

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], framework="pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def check_files(files: Mapping[str, Path], digest: Path | None, name: str) -> None:
    """Refuse weights files of a plain network that hold no numbers, or not those that were saved.

    Args:
        files: Name of each tensor to its file.
        digest: The file with their checksum, if there is one.
        name: Name of the checkpoint.

    Raises:
        CheckpointError: Naming the key or the file, and the remedy.
    """
    tensors = _Files(files)
    _check_finite(tensors, name)
    if digest is None:
        return
    saved = read_json(digest).get(_KEY)
    if not isinstance(saved, str) or not re.fullmatch("sha256:[0-9a-f]{64}", saved):
        raise CheckpointError(f"{digest} holds no checksum of weights: remove it, or save the network again.")
    if (found := weights_digest(tensors)) != saved:
        raise CheckpointError(
            f"{name}: its weights do not match the checksum in {DIGEST_FILE} beside them ({found[:15]}... instead of "
            f"{saved[:15]}...). If you have trained or saved them anew since, delete {digest}. If not, some bits were "
            "changed on the way: copy, download or make the network again."
        )


def save_network(network: Any, folder: str | Path) -> None:
    """Save a plain network with a checksum of its weights beside them, which loading compares.

    Args:
        network: A model of transformers or diffusers.
        folder: Made if it does not exist.

    Raises:
        OSError: It cannot be written.
    """
    folder = Path(folder)
    (folder / DIGEST_FILE).unlink(missing_ok=True)  # of other weights, should what follows not come to its end
    network.save_pretrained(folder)
    files = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            files |= dict.fromkeys(file.keys(), path)
    text = json.dumps({_KEY: weights_digest(_Files(files))}, indent=1)
    (folder / DIGEST_FILE).write_text(text + "\n", encoding="utf-8")


def _check_finite(tensors: Mapping[str, Tensor], name: str) -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(
                f"{name}: {key} holds NaN or infinite values. The run that wrote it has diverged: train it again with "
                "a lower learning rate."
            )
