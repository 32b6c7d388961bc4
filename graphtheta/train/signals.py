"""Signals a scheduler sends before it takes the machine back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Requests", "listening"]


class Requests:
    """What signals have asked of this process since it was last looked at.

    Attributes:
        checkpoint: SIGUSR1 came: save, and go on.
        stop: SIGTERM came: save, and end.
    """

    def __init__(self) -> None:
        self.checkpoint = False
        self.stop = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; training looks between epochs."""
        self.stop |= number == signal.SIGTERM
        self.checkpoint = True


@contextmanager
def listening() -> Iterator[Requests]:
    """Catch SIGUSR1 and SIGTERM inside, in the main thread; elsewhere nothing is caught."""
    requests = Requests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before: dict[int, Any] = {
        number: signal.signal(number, requests.note) for number in (signal.SIGUSR1, signal.SIGTERM)
    }
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
