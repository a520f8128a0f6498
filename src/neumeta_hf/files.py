"""Writing files and folders so that a failed run never damages what was there."""

import contextlib
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

# An absolute path, or one that leaves the working folder, anywhere in an argument; the slashes of a Hub id, a fraction
# or a web address are none.
_FOREIGN_PATH = re.compile(r"(?:file://|(?<![\w.~/]))(?:/(?!/)|(?:\.\./)+|~/)[^\s'\",;:{}\[\]()]*")


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


def shorten_paths(text: str) -> str:
    """A value that may name a machine's folders, without them.

    Args:
        text: An argument of a command, or a value of a recipe.

    Returns:
        The text, with absolute paths, and those that start with "..", shortened to their last two parts.
    """
    key, equals, value = text.rpartition("=")
    if Path(value).is_absolute():  # whole, for paths with spaces
        return f"{key}{equals}{_last_parts(value)}"
    return _FOREIGN_PATH.sub(lambda found: _last_parts(found[0]), text)


def _last_parts(path: str) -> str:
    return "/".join([part for part in re.split(r"[/\\]", path) if part not in ("", "..", "~", "file:")][-2:])
