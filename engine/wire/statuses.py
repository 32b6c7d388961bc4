"""Which gRPC status each of our exceptions is, in both directions."""

from __future__ import annotations

import grpc

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
    WrongServer,
)

__all__ = ["STATUSES", "error_of", "status_of"]

_Code = grpc.StatusCode

# The first line that fits counts; in the other direction, too.
STATUSES: dict[type[GraphThetaError], grpc.StatusCode] = {
    UnknownNode: _Code.NOT_FOUND,
    ConfigError: _Code.INVALID_ARGUMENT,
    GraphFormatError: _Code.INVALID_ARGUMENT,
    LimitExceeded: _Code.RESOURCE_EXHAUSTED,
    WrongServer: _Code.FAILED_PRECONDITION,
    Unreachable: _Code.UNAVAILABLE,
    CallTimeout: _Code.DEADLINE_EXCEEDED,
    StoreError: _Code.DATA_LOSS,
    EngineError: _Code.INTERNAL,
}


def status_of(error: BaseException) -> grpc.StatusCode:
    """Return the status that an exception becomes on the wire."""
    for kind, code in STATUSES.items():
        if isinstance(error, kind):
            return code
    return _Code.INTERNAL


def error_of(code: grpc.StatusCode, message: str) -> GraphThetaError:
    """Return the exception that a status is for a caller."""
    for kind, known in STATUSES.items():
        if known == code:
            return kind(message)
    return EngineError(f"{message} ({code.name})")
