"""Slots of the calls in flight: how many there are, and who gives one up for a call that waits."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
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

    If all slots are taken when a call arrives, the call is refused, and its client tries again.
    Until then, another call gives up its slot: one whose client has not read the last message for
    `Limits.send_seconds`, or one of a connection that has more than half of the slots, if the new
    call is of another. Of several, it is the one that has waited longest for its client.

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
        slot, most = Slot(context, context.peer()), self._limits.max_in_flight
        with self._lock:
            is_full = len(self._taken) >= most
            if not is_full:
                self._taken.add(slot)
            leaving = self._who_leaves(slot.peer) if is_full else None
        if leaving is not None:
            _log.warning("unread", extra={"peer": leaving.peer})
            leaving.context.cancel()
        if is_full:
            raise Unreachable(
                f"server: expected at most {most} calls in flight, got more. Try again."
            )
        try:
            yield slot
        finally:
            with self._lock:
                self._taken.discard(slot)

    def _who_leaves(self, peer: str) -> Slot | None:
        """Return the call that gives up its slot for a call of a connection, if one has to."""
        calls = Counter(slot.peer for slot in self._taken)
        share = max((self._limits.max_in_flight + 1) // 2, calls[peer])
        latest = time.monotonic() - self._limits.send_seconds
        sending = [(slot.sending_since, slot) for slot in self._taken]
        waiting = [(since, slot) for since, slot in sending if since is not None]
        for since, slot in sorted(waiting, key=lambda pair: pair[0]):
            if since < latest or calls[slot.peer] > share:
                slot.sending_since = None  # the next call chooses another
                return slot
        return None
