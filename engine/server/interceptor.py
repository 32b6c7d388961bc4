"""Server interceptor: checks each call, turns exceptions into statuses, counts and logs.

Calls to other services, such as health, pass unchecked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import xxhash

from graphtheta.engine.server.metrics import Metrics
from graphtheta.engine.server.slots import Slot, Slots
from graphtheta.engine.wire.chunks import encode_chunk, encode_end
from graphtheta.engine.wire.protocol import STORE_KEY, Limits, status_of
from graphtheta.errors import ConfigError, GraphThetaError, WrongServer

__all__ = ["Interceptor"]

_log = logging.getLogger("graphtheta.engine")
_OURS = "/graphtheta."  # prefix of the methods that are checked
_QUIET = (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED)  # logged only when verbose
_DETAILS = 500  # characters of a status message: with its encoding, it must fit into 8 KiB


class Interceptor(grpc.ServerInterceptor):
    """Interceptor that checks the deadline, the store and the number of calls in flight.

    It sends exceptions as gRPC statuses, and counts and logs every call.

    Args:
        checksum: Checksum of the store that is served.
        limits: Request limits of the server.
        metrics: Metrics to update.
    """

    def __init__(self, checksum: str, limits: Limits, metrics: Metrics) -> None:
        self._checksum, self._limits, self._metrics = checksum, limits, metrics
        self._slots = Slots(limits)

    def intercept_service(
        self, continuation: Callable[[Any], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = continuation(details)
        if handler is None or not details.method.startswith(_OURS):
            return handler
        method = details.method.rpartition("/")[2]
        store = dict(details.invocation_metadata or ()).get(STORE_KEY)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler, method, store), handler.request_deserializer
            )
        if handler.stream_unary is not None:  # its messages are read as bytes, without a copy
            return grpc.stream_unary_rpc_method_handler(self._upload(handler, method, store))
        return grpc.unary_stream_rpc_method_handler(
            self._stream(handler, method, store), handler.request_deserializer
        )

    # Messages are serialised here, so that their bytes can be counted.

    def _unary(self, handler: Any, method: str, store: Any) -> Callable[..., bytes]:
        def call(request: Any, context: grpc.ServicerContext) -> bytes:
            with self._observe(method, store, context) as (_, sent):
                data: bytes = handler.response_serializer(handler.unary_unary(request, context))
                sent(len(data))
            return data

        return call

    def _upload(self, handler: Any, method: str, store: Any) -> Callable[..., bytes]:
        def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            with self._observe(method, store, context) as (_, sent):
                data: bytes = handler.response_serializer(handler.stream_unary(requests, context))
                sent(len(data))
            return data

        return call

    def _stream(self, handler: Any, method: str, store: Any) -> Callable[..., Iterator[bytes]]:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            with self._observe(method, store, context) as (slot, sent):
                digest = xxhash.xxh3_64()
                for chunk in handler.unary_stream(request, context):
                    if not context.is_active():  # the caller is gone, or the deadline has passed
                        return
                    data = chunk if isinstance(chunk, bytes) else encode_chunk(chunk)
                    del chunk  # need not stay in memory while the client reads
                    digest.update(data)
                    sent(len(data))
                    slot.sending_since = time.monotonic()
                    yield data
                    slot.sending_since = None
                yield encode_end(digest.intdigest())

        return call

    @contextmanager
    def _observe(
        self, method: str, store: Any, context: grpc.ServicerContext
    ) -> Iterator[tuple[Slot, Callable[[int], None]]]:
        """Check a call before it runs; afterwards send its status, and count and log it.

        Yields the slot of the call, and a function that adds to the number of bytes sent.
        """
        started, size, code = time.perf_counter(), 0, grpc.StatusCode.OK

        def sent(num_bytes: int) -> None:
            nonlocal size
            size += num_bytes

        message = ""
        self._metrics.in_flight.inc()
        stack = ExitStack()
        try:
            slot = stack.enter_context(self._slots.take(context))
            self._check(store, context)
            yield slot, sent
            if not context.is_active():
                code = grpc.StatusCode.CANCELLED
        except GraphThetaError as error:
            code, message = status_of(error), error.shorten(str(error), _DETAILS)
        except GeneratorExit:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception:
            code, message = grpc.StatusCode.INTERNAL, "server: internal error. See its log."
            _log.exception("internal error", extra={"method": method, "peer": context.peer()})
        finally:
            stack.close()
            self._metrics.in_flight.dec()
            seconds = time.perf_counter() - started
            self._metrics.count(method, code.name, seconds, size)
            level = logging.DEBUG if code in _QUIET else logging.WARNING
            if _log.isEnabledFor(level):
                _log.log(
                    level,
                    "call",
                    extra={
                        "method": method,
                        "status": code.name,
                        "peer": context.peer(),
                        "seconds": round(seconds, 6),
                        "bytes": size,
                        "reason": message,
                    },
                )
        if message:
            context.abort(code, message)

    def _check(self, store: Any, context: grpc.ServicerContext) -> None:
        if not context.time_remaining() <= self._limits.max_seconds:
            raise ConfigError(
                f"call: expected a deadline of at most {self._limits.max_seconds:g} s, got "
                "none or a later one. Set one."
            )
        if store is not None and store != self._checksum:
            raise WrongServer(
                f"call: expected the store {self._checksum}, which is served here, got {store}. "
                "Connect again: another store is served now."
            )
