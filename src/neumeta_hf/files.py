"""Writing files and folders so that a failed run never damages what was there."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

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
    """Give a temporary path in the same folder, which replaces `path` when the block ends well.

    Args:
        path: The file to write or replace, by one process at a time; its folder must exist.

    Yields:
        The path to write to; it keeps the suffix. It is removed when the block raises, and `path` stays as it was.

    Raises:
        OSError: The folder does not exist, or the block has written nothing.
    """
    path = Path(path)
    beside = partial_path(path)
    _remove(beside)
    try:
        yield beside
        _sync(beside)
        beside.replace(path)
        _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            _remove(beside)


@contextlib.contextmanager
def write_folder_beside(folder: str | Path) -> Iterator[Path]:
    """Give a fresh folder beside another, which replaces it when the block ends well.

    Args:
        folder: The folder to write or replace, by one process at a time; the folder that it lies in must exist.

    Yields:
        The folder to write into, empty. It is removed when the block raises, and `folder` stays as it was.

    Raises:
        OSError: The folder that both lie in does not exist or cannot be written to, or the disk is full; `folder` is
            as it was.
    """
    folder = Path(folder)
    with _fresh_folder(folder) as beside:
        yield beside
        replace_folder(beside, folder)


@contextlib.contextmanager
def write_files_beside(folder: str | Path, name: str) -> Iterator[Path]:
    """Give a fresh folder inside another; its files replace that one's, one by one, when the block ends well.

    A machine that stops in between leaves some files old and some new.

    Args:
        folder: Holds the files to write or replace, and others, which stay; it must exist.
        name: Name of what is written, which the fresh folder is called after.

    Yields:
        The folder to write into, empty. It is removed when the block raises, and the files in `folder` stay.

    Raises:
        OSError: `folder` does not exist or cannot be written to, or the disk is full.
    """
    folder = Path(folder)
    with _fresh_folder(folder / name) as beside:
        yield beside
        files = sorted(beside.iterdir())
        for file in files:
            _sync(file)
        for file in files:
            file.replace(folder / file.name)
        _sync(folder)


def replace_folder(beside: str | Path, folder: str | Path) -> None:
    """Put a finished folder in the place of another, or of none.

    Args:
        beside: The finished folder, on the same file system.
        folder: What it becomes; what was there is kept until the new one is in place, and comes back if that fails. A
            link is replaced itself, whatever it points to.

    Raises:
        OSError: `beside` is not a folder, or one of the two cannot be moved; `folder` is as it was.
    """
    beside, folder = Path(beside), Path(folder)
    if beside.is_symlink() or not beside.is_dir():
        raise NotADirectoryError(f"{beside} is no folder: {folder} stays as it is.")
    # The bits before the name: a machine that loses power must not come back with a name for a half-written folder.
    for root, _, names in os.walk(beside):
        for name in names:
            _sync(Path(root, name))
        _sync(Path(root))
    _settle(folder)
    if os.path.lexists(folder):
        # No file system swaps two folders in one portable step: `recover` brings back what a machine left hidden here.
        folder.rename(_old(folder))
    try:
        beside.rename(folder)
    finally:
        _settle(folder)
    _sync(folder.parent)


def recover(path: str | Path) -> None:
    """Tidy up after a process that was killed while it wrote a file or folder with a function of this module.

    Args:
        path: What was to be written. If it was just being replaced, what was there before comes back.

    Raises:
        OSError: What was left cannot be moved or removed.
    """
    path = Path(path)
    _settle(path)
    _remove(partial_path(path))


def remove_folder(folder: str | Path) -> None:
    """Remove a folder with all that is in it, at once for whoever looks for it; a link goes itself.

    Args:
        folder: The folder; nothing happens where there is none.

    Raises:
        OSError: It cannot be removed. What is left of it has a hidden name, which `recover` removes.
    """
    folder = Path(folder)
    if os.path.lexists(folder):
        beside = partial_path(folder)
        _remove(beside)
        folder.rename(beside)
        _sync(folder.parent)
        _remove(beside)


def partial_path(path: str | Path) -> Path:
    """Name the place where a file or folder is written before it is complete.

    Args:
        path: The file or folder.

    Returns:
        A hidden path beside it, the same every time, so that what killed processes leave does not pile up.
    """
    path = Path(path)
    return path.with_name(f".{path.stem}.partial{path.suffix}")


@contextlib.contextmanager
def _fresh_folder(folder: Path) -> Iterator[Path]:
    beside = partial_path(folder)
    recover(folder)
    beside.mkdir()
    try:
        yield beside
    except SafetensorError as error:  # what its writer makes of a full disk
        raise OSError(f"{folder} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            _remove(beside)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _settle(folder: Path) -> None:
    """Leave one of a folder and its former self: the former one if the new one has not come."""
    old = _old(folder)
    if not os.path.lexists(old):
        return
    if os.path.lexists(folder):
        with contextlib.suppress(OSError):
            _remove(old)
    else:
        old.rename(folder)


def _remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link, and never what a link points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names in a folder."""
    if path.is_dir():
        # Not every system and file system has this for folders; where it lacks, names reach the disk a little later.
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def shorten_paths(text: str, *, keep: int = 2) -> str:
    """Remove a machine's folders from a value that may name them.

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
