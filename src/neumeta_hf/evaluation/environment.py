"""Where and with what a result was measured."""

import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("neumeta_hf", "torch", "transformers", "accelerate", "datasets", "diffusers", "evaluate", "huggingface_hub")


def environment_facts() -> dict[str, Any]:
    """Versions, device, date and command, for a result file.

    Returns:
        Plain values. Absolute paths in the command are shortened to their last two parts, so that no machine's folders
        get into a result.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "command": " ".join([Path(sys.argv[0]).name, *(_shortened(argument) for argument in sys.argv[1:])]),
        "date": datetime.date.today().isoformat(),
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _shortened(argument: str) -> str:
    key, equals, value = argument.rpartition("=")
    if not Path(value).is_absolute() and not value.startswith(".."):
        return argument
    return f"{key}{equals}{'/'.join(Path(value).parts[-2:])}"
