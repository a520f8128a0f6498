"""The run's log: one JSON object a line, in a file that needs no package to read."""

import errno
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, get_available_trackers, on_main_process

from neumeta_hf.errors import RecipeError


class JSONLTracker(GeneralTracker):
    """Appends every logged set of values to a file, as an Accelerate tracker beside the others.

    A line is written whole or not at all: half a line that a machine left when it stopped is cut off, and where the
    disk is full the file stays as it was.

    Args:
        path: The file; it is created, and continued where it exists. A link is not followed.
    """

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self._file: os.stat_result | None = None

    @property
    def tracker(self) -> Path:
        return self.path

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._append({"recipe": values})

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs) -> None:
        self._append({"step": step, **values})

    @on_main_process
    def finish(self) -> None:
        pass

    def _append(self, entry: dict[str, Any]) -> None:
        line = (json.dumps({"time": round(time.time(), 3), **entry}) + "\n").encode()
        if self.path.is_symlink():
            raise OSError(errno.ELOOP, "is a link, and no log is written through links", str(self.path))
        # Once begun it is not made anew: a folder that was removed stays removed, and another run's log is not ours.
        create = os.O_CREAT if self._file is None else 0
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | create, 0o666)
        try:
            status = os.fstat(descriptor)
            if self._file is None:
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(errno.EINVAL, "is no file", str(self.path))
                self._file = status
                _cut_half_line(descriptor)
            elif not os.path.samestat(status, self._file):
                raise OSError(errno.ESTALE, "was replaced while the run was going on", str(self.path))
            size = os.fstat(descriptor).st_size
            try:
                while line:
                    line = line[os.write(descriptor, line) :]
            except OSError as error:
                os.ftruncate(descriptor, size)
                raise OSError(error.errno, error.strerror, str(self.path)) from error
        finally:
            os.close(descriptor)


def _cut_half_line(descriptor: int) -> None:
    with open(os.dup(descriptor), "rb") as file:
        content = file.read()
    if (whole := content.rfind(b"\n") + 1) < len(content):
        os.ftruncate(descriptor, whole)


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
