"""Connection to one server: a gRPC channel with deadlines and retries.

All calls may be repeated: they only read, or the service counts them once. A call is retried, with
growing pauses, while the server is unreachable, busy or stopping, until the call's deadline. A call
that fails in the middle of a response starts again from the beginning.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.experimental

from graphtheta.engine.wire.protocol import MESSAGE_BYTES, STORE_KEY, error_of
from graphtheta.errors import CallTimeout, ConfigError, Unreachable
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.proto.v1 import parameters_pb2

__all__ = ["Connection", "Tls"]

Result = TypeVar("Result")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_random = random.Random()  # not the global one, whose state a trainer watches
_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.use_local_subchannel_pool", 1),
    # The calling thread reads the response itself, at half the cost of passing it between threads.
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
]

_PATHS = {
    method.name: f"/{service.full_name}/{method.name}"
    for file in (messages.DESCRIPTOR, parameters_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
}


@dataclass(frozen=True)
class Tls:
    """TLS certificates of a client, as PEM files.

    Attributes:
        ca: Certificate authority of the servers. If None, the system's authorities.
        cert: Certificate of the client, for servers that require one.
        key: Private key of `cert`.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            ConfigError: If a file cannot be read.
        """
        files = (self.ca, self.key, self.cert)
        try:
            return grpc.ssl_channel_credentials(*(f and Path(f).read_bytes() for f in files))
        except OSError as error:
            raise ConfigError(
                f"tls: expected PEM files, got {error.filename}: {error.strerror}. Name others."
            ) from None


class Connection:
    """Connection to one server. It can be shared between threads.

    Args:
        address: `host:port` of the server.
        tls: Certificates. If None, the connection is plain text.

    Raises:
        ConfigError: If a certificate cannot be read.

    Attributes:
        address: `host:port` of the server.
        store: Checksum of the store that calls expect. Empty until it is known.
    """

    def __init__(self, address: str, tls: Tls | None) -> None:
        self.address, self.store = address, ""
        if tls is None:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, tls.credentials(), _OPTIONS)

    def stream(self, method: str, request: Any, deadline: float) -> list[bytes]:
        """Return the bytes of each message of a response, as `read` gets them."""
        return self.read(method, request, deadline, list)

    def read(
        self, method: str, request: Any, deadline: float, read: Callable[[Iterator[bytes]], Result]
    ) -> Result:
        """Call a method of the service, and return what a function makes of its response.

        A method that returns a single message is called in the same way.

        Args:
            method: Name of the method.
            request: Message to send.
            deadline: `time.monotonic()` by which the response must have arrived.
            read: Called with the messages of the response, as they arrive; again if the call is
                repeated.

        Raises:
            GraphThetaError: If the call fails; `STATUSES` lists the exception for each status code.
        """
        call = self._channel.unary_stream(_PATHS[method], type(request).SerializeToString)
        found: Result = self._retry(lambda **options: read(call(request, **options)), deadline)
        return found

    def upload(
        self, method: str, messages: Callable[[], Iterator[bytes]], deadline: float
    ) -> bytes:
        """Send a stream of messages, and return the bytes of the response.

        Args:
            method: Name of the method.
            messages: Function that returns the messages, which is called for every attempt.
            deadline: `time.monotonic()` by which the response must have arrived.

        Raises:
            GraphThetaError: If the call fails; `STATUSES` lists the exception for each status code.
        """
        call = self._channel.stream_unary(_PATHS[method])
        received: bytes = self._retry(lambda **options: call(messages(), **options), deadline)
        return received

    def _retry(self, call: Callable[..., Any], deadline: float) -> Any:
        for pause in _pauses():
            try:
                timeout = deadline - time.monotonic()
                if timeout <= 0:
                    raise CallTimeout(f"{self.address}: expected a response in time, got none.")
                metadata = ((STORE_KEY, self.store),) if self.store else ()
                return call(timeout=timeout, metadata=metadata)
            except grpc.RpcError as error:
                failure = error_of(error.code(), f"{self.address}: {error.details()}")
                if error.code() == grpc.StatusCode.CANCELLED:
                    failure = Unreachable(
                        f"{self.address}: expected a whole response, got a part: the server "
                        "cancelled the call in favour of others. Request less at a time or in "
                        "parallel."
                    )
            except ValueError as error:  # another thread closed the channel
                raise Unreachable(f"{self.address}: {error}") from None
            if not isinstance(failure, Unreachable) or time.monotonic() + pause >= deadline:
                raise failure
            time.sleep(pause)
        raise AssertionError("pauses never end")

    def close(self) -> None:
        """Cancel calls in flight and close the channel."""
        self._channel.close()


def _pauses() -> Iterator[float]:
    """Yield the pauses between retries in seconds: growing, and random so that clients spread."""
    pause = _FIRST_PAUSE_S
    while True:
        yield pause * _random.uniform(0.5, 1.0)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
