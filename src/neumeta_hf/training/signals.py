"""Ctrl-C and SIGTERM during a run: the step that is under way ends, and its state is written."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

_CAUGHT = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While entered, says when the process is to stop, and stops it where nothing would be lost.

    Attributes:
        received: Number of the signal that came last, on this process or another of the run; None: there was none.
    """

    def __init__(self):
        self.received: int | None = None
        self._deferring = 0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        # Elsewhere than in the main thread Python has no handlers, and its caller minds the signals.
        if threading.current_thread() is threading.main_thread():
            for number in _CAUGHT:
                before = signal.getsignal(number)
                if before not in (None, signal.SIG_IGN):  # as under nohup
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While in the block, the first signal is only noted; the block is to look at `received`."""
        self._deferring += 1
        try:
            yield
        finally:
            self._deferring -= 1

    @contextlib.contextmanager
    def undeferred(self) -> Iterator[None]:
        """While in the block, inside of `deferred`, a signal stops it, and so does one that came before."""
        deferring, self._deferring = self._deferring, 0
        try:
            self.stop()
            yield
        finally:
            self._deferring = deferring

    def stop(self) -> None:
        """End the process as the signal asks for, if there was one.

        Raises:
            KeyboardInterrupt: It was SIGINT.
            SystemExit: It was another one; with its exit code, such as 143.
        """
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise SystemExit(128 + self.received)

    @property
    def name(self) -> str:
        """Of the signal that came last, such as "SIGTERM"."""
        return "" if self.received is None else signal.Signals(self.received).name

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A process that was forked from this one, such as one that loads data, has nothing to save.
            signal.signal(number, self._before.get(number, signal.SIG_DFL))
            os.kill(os.getpid(), number)
            return
        is_first = self.received is None
        self.received = number
        if self._deferring and is_first:
            logger.warning("%s: stopping after this step; once more to stop at once.", self.name)
        else:
            self.stop()
