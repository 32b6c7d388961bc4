"""What client and server agree on, and what a server allows a request and all of them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COLUMN", "MESSAGE_BYTES", "PROTOCOL_VERSION", "STORE_KEY", "Limits"]

PROTOCOL_VERSION = 1
STORE_KEY = "graphtheta-store"  # metadata: the checksum of the store that a call means
COLUMN = "column:"  # before the names of the graph's own columns in answers
MESSAGE_BYTES = 64 << 20  # of one message, both ways


@dataclass(frozen=True)
class Limits:
    """Limits of a server. A request in flight holds its ids and about 2 MiB of its answer.

    Attributes:
        max_ids: Ids of one request.
        max_fanout: Edges to draw of one node.
        max_in_flight: Requests that are answered at a time; more are told to come back.
        max_seconds: Longest deadline of a call.
    """

    max_ids: int = 1 << 20
    max_fanout: int = 1 << 16
    max_in_flight: int = 32
    max_seconds: float = 3600.0
