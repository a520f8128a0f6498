"""The run's log: one JSON object a line, in a file that needs no package to read."""

import json
import time
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, get_available_trackers, on_main_process

from neumeta_hf.errors import RecipeError


class JSONLTracker(GeneralTracker):
    """Appends every logged set of values to a file, as an Accelerate tracker beside the others.

    Args:
        path: The file; it is created, and continued where it exists.
    """

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    @property
    def tracker(self) -> Path:
        return self.path

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._append({"recipe": values})

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs) -> None:
        self._append({"step": step, **values})

    @on_main_process
    def finish(self) -> None:
        pass

    def _append(self, entry: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **entry}) + "\n")


def check_trackers(names: list[str]) -> None:
    """Refuse trackers that Accelerate would silently leave out.

    Args:
        names: Accelerate's names of trackers.

    Raises:
        RecipeError: A tracker is unknown or its package is not installed.
    """
    available = [str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()]
    for name in names:
        if name not in available:
            raise RecipeError(
                f"trackers={names}: {name!r} is not installed here or unknown to Accelerate (available: "
                f"{', '.join(available) or 'none'}). Install its package, or drop it: log.jsonl is always written."
            )
