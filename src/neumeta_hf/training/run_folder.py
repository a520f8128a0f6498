"""The folder of a run: one run at a time, tidied up after a kill, and what in it can be gone on with."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from neumeta_hf.data.config import GENERATED
from neumeta_hf.errors import CheckpointError, RecipeError
from neumeta_hf.files import partial_path, recover, remove_folder

LOCK = ".neumeta_hf.lock"
RECIPE, LOG, FACTS = "recipe.yaml", "log.jsonl", "training.json"
STATE, PRETRAIN_STATE = "state", "state-pretrain"
REFERENCE, PRETRAINED, BEST, LAST = "reference", "pretrained", "best", "last"
FAMILY = "family"
"""What the files of the family are called while they are written."""

_OF_THE_RUN = (STATE, PRETRAIN_STATE, BEST, LAST, PRETRAINED)
_WRITTEN = (RECIPE, FACTS, STATE, PRETRAIN_STATE, REFERENCE, PRETRAINED, BEST, LAST, FAMILY, GENERATED)


@contextlib.contextmanager
def locked(output: Path) -> Iterator[Callable[[], None]]:
    """Keep other runs out of a folder while in the block; the system frees it if this process dies.

    Args:
        output: The folder; made if it is not there, and removed again if it stays empty.

    Yields:
        A function that raises if the folder is no longer the one that was locked; to be called before writing.

    Raises:
        RecipeError: Another run is going on in the folder.
        OSError: The folder cannot be made or written to.
    """
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    path = output / LOCK
    lock = FileLock(path)
    mine = None

    def is_mine() -> bool:
        with contextlib.suppress(OSError):
            return mine is not None and os.path.samestat(path.lstat(), mine)
        return False

    def check() -> None:
        if not is_mine():
            raise CheckpointError(
                f"{output} was removed or replaced while the run was going on in it, and nothing more is written there."
            )

    try:
        output.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise RecipeError(
                f"output_dir={output}: another run is going on in it. Wait until it ends, or name another folder."
            ) from error
        mine = path.lstat()
        yield check
    finally:
        if is_mine():  # removed before it is freed: whoever has opened it already sees that it is gone
            with contextlib.suppress(OSError):
                path.unlink()
        lock.release()
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def leftovers() -> set[str]:
    """List the half-written files that a killed run may have left."""
    return {LOCK, *(partial_path(name).name for name in _WRITTEN)}


def tidy_up(output: Path) -> None:
    """Bring back what a run was replacing when it was killed, and remove what it had half written.

    Args:
        output: The folder.

    Raises:
        OSError: The folder cannot be written to.
    """
    for name in _WRITTEN:
        recover(output / name)


def remove_state(output: Path) -> None:
    """Remove what a run that has ended well needs no more: its states, and the networks that it chose from.

    Args:
        output: The folder, whose family or reference is complete.

    Raises:
        OSError: One of them cannot be removed.
    """
    for name in _OF_THE_RUN:  # the states first: without them nobody goes on from the rest
        remove_folder(output / name)


def is_finished(output: Path) -> bool:
    """Tell whether a run has ended well, and what it would go on from was removed.

    Args:
        output: Its folder.

    Returns:
        Whether there is its result and no state.
    """
    there = {name for name in (FACTS, REFERENCE, STATE, "config.json") if os.path.lexists(output / name)}
    return there == {FACTS, REFERENCE, "config.json"}


def what_is_left(output: Path) -> str | None:
    """Find what a run that was stopped goes on from.

    Args:
        output: Its folder.

    Returns:
        Words that follow "goes on from"; None: nothing was written.
    """
    for name, words in ((STATE, "the state in"), (REFERENCE, "the reference in"), (PRETRAIN_STATE, "the state in")):
        if (output / name).is_dir():
            return f"{words} {output / name}"
    return "the start" if (output / RECIPE).is_file() else None
