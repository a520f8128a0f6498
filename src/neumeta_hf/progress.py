"""Progress of what takes long: a bar on a terminal, a line a minute in a file, nothing where it was switched off."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 60.0


class _Switch:
    is_on = True


def show_progress(shown: bool) -> None:
    """Switch all progress of this library on or off, in this process.

    Args:
        shown: Whether there is any; at first there is.
    """
    _Switch.is_on = shown


def progress_is_shown() -> bool:
    """Tell whether progress is shown at all."""
    return _Switch.is_on


def on_terminal() -> bool:
    """Tell whether the standard error is seen as it is written, on a terminal or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class _Lines:
    """What a bar is in a file: a line at most every minute, and one at the end.

    Args:
        items: What is gone through; None where `update` counts.
        total: How many there are.
        initial: How many of them are done.
        description: What is going on.
        unit: Unit of the count.
        leave: Whether there is a line at the end; if not, there is one only after a minute.
    """

    def __init__(
        self, items: Iterable[Any] | None, *, total: int, initial: int, description: str, unit: str, leave: bool
    ):
        self.items = items
        self.total = total
        self.count = self.initial = initial
        self.description = description
        self.unit = unit
        self.leave = leave
        self.postfix: dict[str, Any] = {}
        self.is_open = True
        self.started = self.said = time.perf_counter()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self.items or ():
                yield item
                self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, number: int = 1) -> None:
        self.count += number
        if time.perf_counter() - self.said >= _SECONDS_BETWEEN_LINES:
            self._say()

    def set_postfix(self, values: Mapping[str, Any], refresh: bool = True) -> None:
        self.postfix = dict(values)

    def close(self) -> None:
        if self.is_open and self.leave:
            self._say()
        self.is_open = False

    def _say(self) -> None:
        self.said = time.perf_counter()
        line = tqdm.format_meter(
            self.count,
            self.total,
            self.said - self.started,
            prefix=self.description,
            unit=self.unit,
            initial=self.initial,
            postfix=", ".join(f"{name}={value}" for name, value in self.postfix.items()),
            bar_format="{desc}: {n_fmt} of {total_fmt}{unit} in {elapsed}, {remaining} to go{postfix}",
        )
        with contextlib.suppress(OSError, ValueError):  # a closed or full log must not end what it tells of
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - as tqdm does


Bar = tqdm | _Lines
"""Iterable, or counted with `update`; a context that ends it, and `set_postfix` for what else is worth seeing."""


def progress_bar(
    items: Any = None,
    *,
    total: int | None = None,
    initial: int = 0,
    description: str,
    unit: str = " steps",
    shown: bool = True,
    leave: bool = True,
) -> Bar:
    """Show how far something is.

    Args:
        items: Something with a length, which is gone through. None: `update` is called for each of `total`.
        total: How many there are; None: the length of `items`.
        initial: How many of them were done before.
        description: What is going on.
        unit: Unit of the count, a space before it.
        shown: Whether to show this one, where progress is shown.
        leave: Whether it stays on screen when it is done.

    Returns:
        A bar or what stands for it.
    """
    total = len(items) if total is None else total
    is_silent = not (shown and _Switch.is_on)
    if is_silent or on_terminal():
        return tqdm(items, desc=description, total=total, initial=initial, unit=unit, leave=leave, disable=is_silent)
    return _Lines(items, total=total, initial=initial, description=description, unit=unit, leave=leave)
