"""The device that a command works on."""

import re
from typing import Any

from neumeta_hf.errors import RecipeError


def find_device(name: str, *, automatic: str) -> Any:
    """The device that `--device` asks for.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps" or "auto".
        automatic: What "auto" means: "cpu", or "gpu" for the first CUDA device where there is one, else the CPU.

    Returns:
        A `torch.device`.

    Raises:
        RecipeError: There is no device of this name, or not on this machine.
    """
    import torch

    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if number and automatic == "gpu" else "cpu")
    found = re.fullmatch(r"cuda(?::(\d{1,4}))?", name)
    if found is None and name not in ("cpu", "mps"):
        raise RecipeError(f"--device {name!r}: give cpu, cuda, cuda:1 (and so on), mps or auto.")
    if found is not None and int(found[1] or 0) >= number:
        there = f"it has {number} CUDA device(s), counted from 0" if number else "it has no CUDA device"
        raise RecipeError(f"--device {name}: this machine has no such device, {there}. Give another, or auto.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise RecipeError("--device mps: this machine has no such device. Give cpu, or auto.")
    return torch.device(name)
