"""Slots of the calls in flight: how many there are, and who gives one up for a call that waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from graphtheta.engine.wire.protocol import Limits
from graphtheta.errors import Unreachable

__all__ = ["Slot", "Slots"]

_log = logging.getLogger("graphtheta.engine")


@dataclass(eq=False)
class Slot:
    """Slot of one call.

    Attributes:
        context: The call.
        peer: Connection of the client.
        sending_since: `time.monotonic()` at which the message that the client is to read was sent.
            None while the server computes.
    """

    context: grpc.ServicerContext
    peer: str
    sending_since: float | None = None


class Slots:
    """Slots of a server's calls.

    A connection may take half of the slots. If all slots are taken when a call arrives, the call
    that has waited longest for its client to read is cancelled, if that is longer than
    `Limits.send_seconds`. The new call is refused, and gets the slot when the client retries it.

    Args:
        limits: Limits of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken: set[Slot] = set()
        self._lock = threading.Lock()

    @contextmanager
    def take(self, context: grpc.ServicerContext) -> Iterator[Slot]:
        """Take a slot for a call while the context is active.

        Raises:
            Unreachable: If no slot is free.
        """
        slot = Slot(context, context.peer())
        most, share = self._limits.max_in_flight, (self._limits.max_in_flight + 1) // 2
        with self._lock:
            from_peer = sum(other.peer == slot.peer for other in self._taken)
            unread = self._longest_unread() if len(self._taken) >= most else None
            if from_peer < share and len(self._taken) < most:
                self._taken.add(slot)
        if slot not in self._taken:
            if unread is not None:
                _log.warning("unread", extra={"peer": unread.peer})
                unread.context.cancel()
            allowed = f"{most} calls" if from_peer < share else f"{share} calls of one connection"
            raise Unreachable(f"server: expected at most {allowed} in flight, got more. Try again.")
        try:
            yield slot
        finally:
            with self._lock:
                self._taken.discard(slot)

    def _longest_unread(self) -> Slot | None:
        """Return the call that has waited longest for its client, if that is too long."""
        waiting = [slot for slot in self._taken if slot.sending_since is not None]
        slot = min(waiting, key=lambda slot: slot.sending_since or 0.0, default=None)
        latest = time.monotonic() - self._limits.send_seconds
        is_late = slot is not None and (slot.sending_since or latest) < latest
        return slot if is_late else None
