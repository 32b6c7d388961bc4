"""Signals a scheduler sends before it takes the machine back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["SignalRequests", "Stopped", "catch_signals"]


class Stopped(SystemExit):
    """SIGTERM came: all ranks have saved a checkpoint and end together.

    Attributes:
        epochs: Epochs done.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.epochs = epochs


class SignalRequests:
    """What signals have asked of this process."""

    def __init__(self) -> None:
        self._stop = False
        self._came = 0
        self._answered = 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; training looks between epochs."""
        self._stop |= number == signal.SIGTERM
        self._came += 1

    def take(self) -> tuple[bool, bool]:
        """Return whether to save now (SIGUSR1 or SIGTERM since the last call), and to stop."""
        came = self._came  # counted, so that one that comes between these lines is not lost
        asked = came > self._answered
        self._answered = came
        return asked, asked and self._stop


@contextmanager
def catch_signals() -> Iterator[SignalRequests]:
    """Catch SIGUSR1 and SIGTERM inside, in the main thread; elsewhere nothing is caught."""
    requests = SignalRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before: dict[int, Any] = {
        number: signal.signal(number, requests.note) for number in (signal.SIGUSR1, signal.SIGTERM)
    }
    try:
        yield requests
    except Stopped:
        before[signal.SIGTERM] = signal.SIG_IGN  # it may still come to ranks that others told
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
