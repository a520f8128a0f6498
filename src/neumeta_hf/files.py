"""Writing files and folders so that a failed run never damages what was there."""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

# How a path begins that means something on one machine alone: absolute, on Windows too, or from somebody's home folder,
# or out of the working folder. The slashes of a Hub id, a fraction or a web address are none.
_BEGINNING = (
    r"(?:file://|(?<![\w.~/\\$%]))"
    r"(?:/?[A-Za-z]:[/\\]|/(?=[^/\s])|(?:\.\.[/\\])+|~[\w.-]*[/\\]|(?:\$\w+|\$\{\w+\}|%\w+%)[/\\]|\\\\[^\s\\]+\\)"
)
_FOREIGN_PATH = re.compile(_BEGINNING + r"[^\s'\",;:{}\[\]()]*")
_QUOTED_PATH = re.compile(rf"(?<=')({_BEGINNING}[^']*)(?=')|(?<=\")({_BEGINNING}[^\"]*)(?=\")")
_BEGINS_AS_PATH = re.compile(_BEGINNING)
_NO_NAME = re.compile(r"|\.\.?|~.*|file:|[A-Za-z]:|\$.*|%.*%")
"""Parts of a path that name nothing: what comes before a folder's name, or stands for one."""


@contextlib.contextmanager
def write_beside(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes the place of `path` when the block ends well.

    Args:
        path: The file to write or replace; its folder must exist.

    Yields:
        The path to write to; it keeps the suffix. It is removed when the block raises, and `path` stays as it was.

    Raises:
        OSError: The folder does not exist, or the block has written nothing.
    """
    path = Path(path)
    beside = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def write_folder_beside(folder: str | Path) -> Iterator[Path]:
    """A fresh folder beside another that takes its place when the block ends well.

    Args:
        folder: The folder to write or replace, by one process at a time; the folder that it lies in must exist.

    Yields:
        The folder to write into, empty. It is removed when the block raises, and `folder` stays as it was.

    Raises:
        OSError: The folder that both lie in does not exist or cannot be written to; `folder` is as it was.
    """
    folder = Path(folder)
    # The same name every time: what a process that was killed left there goes when the next one writes.
    beside = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        replace_folder(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def replace_folder(beside: str | Path, folder: str | Path) -> None:
    """Put a finished folder in the place of another, or of none.

    Args:
        beside: The finished folder, on the same file system.
        folder: What it becomes; what was there is kept until the new one is in place, and comes back if that fails.

    Raises:
        OSError: `beside` is no folder, or one of the two cannot be moved; `folder` is as it was.
    """
    beside, folder = Path(beside), Path(folder)
    if not beside.is_dir():
        raise NotADirectoryError(f"{beside} is no folder: {folder} stays as it is.")
    if not folder.exists():
        beside.rename(folder)
        return
    # No file system swaps two folders in one portable step: a machine that stops here leaves the old one hidden beside.
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    folder.rename(old)
    try:
        beside.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def shorten_paths(text: str, *, keep: int = 2) -> str:
    """A value that may name a machine's folders, without them.

    Args:
        text: An argument of a command, or a value of a recipe or of another file.
        keep: How many of the last parts of a path are kept.

    Returns:
        The text, with paths that mean something on one machine alone shortened to their last parts.
    """
    key, equals, value = text.rpartition("=")
    if _BEGINS_AS_PATH.match(value):  # whole, for paths with spaces
        return f"{shorten_paths(key, keep=keep)}{equals}{_last_parts(value, keep)}"
    for pattern in (_QUOTED_PATH, _FOREIGN_PATH):
        text = pattern.sub(lambda found: _last_parts(found[0], keep), text)
    return text


def _last_parts(path: str, keep: int) -> str:
    return "/".join(_without_home(_parts(path))[-keep:]) or "~"


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", path) if not _NO_NAME.fullmatch(part)]


def _without_home(parts: list[str]) -> list[str]:
    """Without the folder whose name is a person's."""
    home = _parts(os.path.expanduser("~"))
    if home and parts[: len(home)] == home:
        return parts[len(home) :]
    return parts[2:] if parts[:1] in (["home"], ["Users"]) else parts
