"""What is checked of a checkpoint before it is trusted: its files, its weights, its sizes. Knows no network."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor

from neumeta_hf.errors import CheckpointError, MissingCheckpointError, NeuMetaError, one_line

_INDEX_FILE = "model.safetensors.index.json"

_MAX_NUMBER = 2**20
_MAX_DEPTH = 2**10
_DEPTHS = ("num_blocks", "depths", "layers_per_block", "num_hidden_layers", "num_frequencies", "levels")
_FREE = ("chunk_size", "recompute_above")
"""Bounds on memory, not sizes."""
_BUILT_OF = ("target_config", "hypernetwork")
"""What networks are built of; each entry of a list in it may be a layer or a block."""

_Result = TypeVar("_Result")


def check_numbers(config: Any, where: str = "config.json") -> None:
    """Refuse sizes that no network has, before anything is built of them.

    Args:
        config: Plain values, nested.
        where: What to call it in the error.

    Raises:
        CheckpointError: A number of channels and the like is above 2^20, a number of layers above 2^10, or a list that
            a network is built of has more than 2^10 entries.
    """
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key not in _FREE:
                check_numbers(value, f"{where}: {key}")
    elif isinstance(config, (list, tuple)):
        if len(config) > _MAX_DEPTH and any(part in _BUILT_OF for part in where.split(": ")):
            raise CheckpointError(
                f"{where} has {len(config):,} entries: at most {_MAX_DEPTH:,} are read from a checkpoint, as each may "
                "be a layer. Its config.json is damaged or not to be trusted."
            )
        for value in config:
            check_numbers(value, where)
    elif isinstance(config, int) and not isinstance(config, bool):
        most = _MAX_DEPTH if where.rpartition(": ")[2] in _DEPTHS else _MAX_NUMBER
        if config > most:
            raise CheckpointError(
                f"{where}={config}: at most {most:,} are read from a checkpoint, so that it cannot ask for all memory. "
                "Its config.json is damaged or not to be trusted."
            )


def check_index(folder: str | Path) -> None:
    """Refuse an index whose weights lie outside of the checkpoint's folder.

    Args:
        folder: Of the checkpoint, on this machine; other names are the Hub's affair, which has no such paths.

    Raises:
        CheckpointError: Naming the file.
    """
    path = Path(folder) / _INDEX_FILE
    if not path.is_file():
        return
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is no index of weights ({one_line(error)}): download or save the checkpoint again."
        ) from error
    for name in names:
        parts = PurePosixPath(str(name)).parts
        if len(parts) != 1 or parts[0] == ".." or "\\" in str(name):
            raise CheckpointError(
                f"{path} names {name!r}: weights lie in the checkpoint's own folder, and nothing outside of it is read."
            )


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """A checksum over names, types, shapes and bits of weights, whatever files they lie in.

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


def check_weights(tensors: Mapping[str, Tensor], digest: str | None, name: str) -> None:
    """Refuse weights that are no numbers, or not those that were saved.

    Args:
        tensors: Name to tensor, as loaded.
        digest: As saved; None: not known, or of another type of numbers than what was loaded.
        name: Of the checkpoint.

    Raises:
        CheckpointError: Naming the key or the file, and the remedy.
    """
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(
                f"{name}: {key} holds NaN or infinite values. The run that wrote it has diverged: train it again with "
                "a lower learning rate."
            )
    if digest is not None and (found := weights_digest(tensors)) != digest:
        raise CheckpointError(
            f"{name}: the weights in model.safetensors are not those that were saved with its config.json "
            f"({found[:15]}... instead of {digest[:15]}...). Some bits were changed on the way: download or save it "
            "again."
        )


def explain_loading_errors(name: str, call: Callable[[], _Result]) -> _Result:
    """Call something that loads a checkpoint; what goes wrong becomes one error that says what to do.

    Args:
        name: Of the checkpoint.
        call: Without arguments.

    Returns:
        What it returns.

    Raises:
        CheckpointError: A file is damaged.
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
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{name} cannot be loaded: {one_line(error)}") from error
    except OSError as error:
        where = "" if Path(name).is_dir() else " (no folder of that name is here, so it was looked for on the Hub)"
        raise MissingCheckpointError(f"{name} cannot be loaded{where}: {one_line(error)}") from error


def check_keys(info: Mapping[str, Iterable[Any]], name: str, *, dropped: tuple[str, ...] = ()) -> None:
    """Refuse weights that are not exactly those of the model they were loaded into: what lacks would stay random.

    Args:
        info: The loading info of transformers or diffusers.
        name: Of the checkpoint.
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
