"""The protocol shared by client and server: constants, request limits, and status codes."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import xxhash

from graphtheta.errors import (
    CallTimeout,
    ConfigError,
    EngineError,
    GraphFormatError,
    GraphThetaError,
    LimitExceeded,
    StoreError,
    UnknownNode,
    Unreachable,
    VersionGone,
    WrongServer,
)
from graphtheta.proto.v1.graph_pb2 import HandshakeReply

__all__ = [
    "COLUMN",
    "MESSAGE_BYTES",
    "PARAMETERS_VERSION",
    "PROTOCOL_VERSION",
    "STATUSES",
    "STORE_KEY",
    "Limits",
    "error_of",
    "reply_checksum",
    "status_of",
]

PROTOCOL_VERSION = 2  # 2: responses end with a checksum
PARAMETERS_VERSION = 1  # of the protocol of the parameter service
STORE_KEY = "graphtheta-store"  # metadata key: checksum of the store that a call expects
COLUMN = "column:"  # prefix of the graph's own columns in responses
MESSAGE_BYTES = 64 << 20  # largest message in either direction

_Code = grpc.StatusCode

# Status code of each exception. In both directions the first matching entry applies.
STATUSES: dict[type[GraphThetaError], grpc.StatusCode] = {
    UnknownNode: _Code.NOT_FOUND,
    ConfigError: _Code.INVALID_ARGUMENT,
    GraphFormatError: _Code.INVALID_ARGUMENT,
    LimitExceeded: _Code.RESOURCE_EXHAUSTED,
    WrongServer: _Code.FAILED_PRECONDITION,
    Unreachable: _Code.UNAVAILABLE,
    CallTimeout: _Code.DEADLINE_EXCEEDED,
    StoreError: _Code.DATA_LOSS,
    VersionGone: _Code.ABORTED,
    EngineError: _Code.INTERNAL,
}


@dataclass(frozen=True)
class Limits:
    """Request limits of a server.

    A request in flight takes the memory of its ids and of a few chunks of its response.

    Attributes:
        max_ids: Largest number of ids in a request.
        max_fanout: Largest number of edges to draw for each node.
        max_in_flight: Largest number of requests in flight; further ones get `UNAVAILABLE`. A
            connection that has more than half of them gives them up for those of others.
        max_seconds: Longest deadline of a call, in seconds.
        send_seconds: Time in seconds that a client has to read a chunk of a response while other
            requests wait. After it, the request is cancelled.
    """

    max_ids: int = 1 << 20
    max_fanout: int = 1 << 16
    max_in_flight: int = 32
    max_seconds: float = 3600.0
    send_seconds: float = 5.0


def reply_checksum(reply: HandshakeReply) -> int:
    """Return the checksum of a reply to the handshake, which covers all its other fields."""
    covered = HandshakeReply()
    covered.CopyFrom(reply)
    covered.ClearField("checksum")
    return xxhash.xxh3_64_intdigest(covered.SerializeToString(deterministic=True))


def status_of(error: BaseException) -> grpc.StatusCode:
    """Return the status code that a server sends for an exception."""
    for kind, code in STATUSES.items():
        if isinstance(error, kind):
            return code
    return _Code.INTERNAL


def error_of(code: grpc.StatusCode, message: str) -> GraphThetaError:
    """Return the exception that a client raises for a status code."""
    for kind, known in STATUSES.items():
        if known == code:
            return kind(message)
    return EngineError(f"{message} ({code.name})")
