"""Where and with what a result was measured."""

import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from neumeta_hf.files import shorten_paths

_PACKAGES = (
    "neumeta_hf",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "diffusers",
    "evaluate",
    "huggingface_hub",
)


def environment_facts(device: torch.device | str | None = None) -> dict[str, Any]:
    """Collect versions, device, date and command, for a result file.

    Args:
        device: Where the result was computed. None: the first GPU where there is one.

    Returns:
        Plain values. Paths in the command that are absolute or start with ".." are shortened to their last two parts.
        So no machine's folders get into a result.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    return {
        "command": " ".join([Path(sys.argv[0]).name, *(shorten_paths(argument) for argument in sys.argv[1:])]),
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
