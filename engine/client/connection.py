"""The way to one server: a channel, deadlines, and trying again.

Every call only reads, so it is tried again, with growing pauses, for as long as its deadline allows
and the server is away, busy or stopping: also after it broke in the middle of an answer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.experimental

from graphtheta.engine.wire.limits import MESSAGE_BYTES, STORE_KEY
from graphtheta.engine.wire.statuses import error_of
from graphtheta.errors import CallTimeout, ConfigError, Unreachable
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.proto.v1.graph_pb2_grpc import GraphStub

__all__ = ["Connection", "Tls"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.use_local_subchannel_pool", 1),
    # The caller reads its own answer: half the work of handing it over from another thread.
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
]

_PATHS = {
    method.name: f"/{service.full_name}/{method.name}"
    for service in messages.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


@dataclass(frozen=True)
class Tls:
    """PEM files of a client: who signs servers (None: the system's), its certificate and key."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            ConfigError: If one cannot be read.
        """
        files = (self.ca, self.key, self.cert)
        try:
            return grpc.ssl_channel_credentials(*(f and Path(f).read_bytes() for f in files))
        except OSError as error:
            raise ConfigError(
                f"tls: expected PEM files, got {error.filename}: {error.strerror}. Name others."
            ) from None


class Connection:
    """Calls to one server; threads may share it.

    Args:
        address: `host:port`.
        tls: Certificates; None: plain text.

    Raises:
        ConfigError: If a certificate cannot be read.

    Attributes:
        address: As given.
        store: Checksum of the store that calls mean, once it is known.
    """

    def __init__(self, address: str, tls: Tls | None) -> None:
        self.address, self.store = address, ""
        if tls is None:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, tls.credentials(), _OPTIONS)
        self._stub = GraphStub(self._channel)

    def call(self, method: str, request: Any, until: float) -> Any:
        """Return the answer to a call that has one message.

        Args:
            method: Of the graph service.
            request: Its message.
            until: `time.monotonic()` by which the answer is there.

        Raises:
            GraphThetaError: As `graphtheta.engine.wire.statuses` says.
        """
        call = getattr(self._stub, method)
        return self._try(call, request, until, lambda answer: answer)

    def stream(self, method: str, request: Any, until: float) -> list[bytes]:
        """Return all pieces of an answer, as they came; as `call` otherwise."""
        call = self._channel.unary_stream(_PATHS[method], type(request).SerializeToString)
        return self._try(call, request, until, list)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End calls in flight, and the connection."""
        self._channel.close()

    def _try(self, call: Any, request: Any, until: float, take: Any) -> Any:
        for pause in _pauses():
            try:
                timeout = until - time.monotonic()
                if timeout <= 0:
                    raise CallTimeout(f"{self.address}: expected an answer in time, got none.")
                metadata = ((STORE_KEY, self.store),) if self.store else ()
                return take(call(request, timeout=timeout, metadata=metadata))
            except grpc.RpcError as error:
                failed = error_of(error.code(), f"{self.address}: {error.details()}")
            except ValueError as error:  # the channel was closed by another thread
                raise Unreachable(f"{self.address}: {error}") from None
            if not isinstance(failed, Unreachable) or time.monotonic() + pause >= until:
                raise failed
            time.sleep(pause)
        raise AssertionError("pauses never end")


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE_S
    while True:
        yield pause * random.uniform(0.5, 1.0)  # callers of one server do not come back at once
        pause = min(2 * pause, _LONGEST_PAUSE_S)
