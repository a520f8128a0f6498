"""Writing files and folders so that a failed run never damages what was there."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


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
