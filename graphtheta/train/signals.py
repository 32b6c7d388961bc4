"""Signals that a scheduler sends before it ends a job."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["SignalRequests", "Stopped", "catch_signals"]


class Stopped(SystemExit):
    """Exit of all ranks together on SIGTERM, after saving a checkpoint.

    Attributes:
        epochs: Number of finished epochs.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.epochs = epochs


class SignalRequests:
    """Signals that this process has received."""

    def __init__(self) -> None:
        self._stop = False
        self._num_received = 0
        self._num_handled = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Record a signal; training handles it at the end of the epoch."""
        self._stop |= number == signal.SIGTERM
        self._num_received += 1

    def take(self) -> tuple[bool, bool]:
        """Return whether to save now (SIGUSR1 or SIGTERM since the last call), and to stop."""
        received = self._num_received  # a count, so that a signal between these lines is not lost
        save = received > self._num_handled
        self._num_handled = received
        return save, save and self._stop


@contextmanager
def catch_signals() -> Iterator[SignalRequests]:
    """Context that catches SIGUSR1 and SIGTERM in the main thread; in other threads, nothing."""
    requests = SignalRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before: dict[int, Any] = {
        number: signal.signal(number, requests.receive)
        for number in (signal.SIGUSR1, signal.SIGTERM)
    }
    try:
        yield requests
    except Stopped:
        before[signal.SIGTERM] = signal.SIG_IGN  # may still come, if other ranks got it first
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
