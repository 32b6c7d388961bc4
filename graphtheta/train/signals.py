"""Signals that a scheduler or a user sends to end a job, or to have it save a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np

from graphtheta.comm.communicator import Communicator

__all__ = ["SignalRequests", "Stopped", "agree_on", "catch_signals"]

_STOP = (signal.SIGTERM, signal.SIGINT)
_TWICE_S = 1.0  # a launcher may forward Ctrl-C to ranks that the terminal has sent it to already


class Stopped(SystemExit):
    """Exit of all ranks together on SIGTERM or Ctrl-C, after saving a checkpoint.

    Attributes:
        epochs: Number of finished epochs.
        steps: Number of finished steps of the next epoch.
    """

    def __init__(self, epochs: int, number: int = signal.SIGTERM, *, steps: int = 0) -> None:
        super().__init__(128 + number)
        self.epochs, self.steps = epochs, steps


class SignalRequests:
    """Signals that this process has received.

    Args:
        announce: Whether to print on Ctrl-C what happens next.
    """

    def __init__(self, announce: bool = False) -> None:
        self._announce = announce
        self._stop = 0
        self._interrupted_at: float | None = None
        self._num_received = 0
        self._num_handled = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Record a signal; training handles it after one of the next steps.

        Raises:
            KeyboardInterrupt: On a second Ctrl-C.
        """
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._interrupted_at is None:
                self._interrupted_at = now
                if self._announce:  # not by print, which the signal may have interrupted
                    line = "stopping after this step, with a checkpoint; Ctrl-C again: stop now"
                    os.write(2, f"\n{line}\n".encode())
            elif now - self._interrupted_at > _TWICE_S:
                raise KeyboardInterrupt
        if number in _STOP:
            self._stop = number
        self._num_received += 1

    def take(self) -> tuple[bool, int]:
        """Return whether to save now, and the number of the signal to stop on, or 0."""
        received = self._num_received  # a count, so that a signal between these lines is not lost
        save = received > self._num_handled
        self._num_handled = received
        return save, self._stop if save else 0


@contextmanager
def catch_signals(comm: Communicator, *, saves: bool) -> Iterator[SignalRequests]:
    """Context that catches signals in the main thread; in other threads, nothing.

    They are SIGUSR1, SIGTERM and, unless the process ignores it, Ctrl-C.

    Args:
        comm: The workers.
        saves: Whether a checkpoint can be saved. If not, Ctrl-C ends the program immediately.
    """
    requests = SignalRequests(announce=comm.rank == 0)
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    numbers = [signal.SIGUSR1, signal.SIGTERM]
    if saves and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        numbers.append(signal.SIGINT)
    before: dict[int, Any] = {n: signal.signal(n, requests.receive) for n in numbers}
    try:
        yield requests
    except Stopped:
        # May still come, if other ranks got it first.
        before[signal.SIGTERM] = signal.SIG_IGN
        if comm.size > 1:
            before[signal.SIGINT] = signal.SIG_IGN
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agree_on(
    world: Communicator, requests: SignalRequests | None, *, save: bool, stop: bool
) -> tuple[bool, int, str]:
    """Return whether to save, the signal to stop on, and the reason to stop, if any; collective.

    Args:
        world: The workers.
        requests: Signals that this process has received, if they are caught.
        save: Whether this worker wants to save anyway.
        stop: Whether this worker wants to stop without a signal, after a callback.
    """
    by_signal, number = (False, 0) if requests is None else requests.take()
    flags = np.array([save or by_signal, number, stop], np.int8)
    world.all_reduce(flags, "max", stage="signals")
    reason = "signal" if flags[1] else "callback" if flags[2] else ""
    return bool(flags[0]), int(flags[1]), reason
