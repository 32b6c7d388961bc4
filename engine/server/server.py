"""A server: its port, its credentials, its services, and how it ends."""

from __future__ import annotations

import ipaddress
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from graphtheta.engine.server.graph import ServerGraph
from graphtheta.engine.server.graph_service import GraphService
from graphtheta.engine.server.interceptor import Interceptor
from graphtheta.engine.server.metrics import Metrics
from graphtheta.engine.wire.limits import MESSAGE_BYTES, Limits
from graphtheta.errors import ConfigError
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.proto.v1.graph_pb2_grpc import (
    ScoringServicer,
    add_GraphServicer_to_server,
    add_ScoringServicer_to_server,
)

__all__ = ["GraphServer", "ServerTls"]

_log = logging.getLogger("graphtheta.engine")
_SPARE_THREADS = 4  # so that health is answered when all places are taken
_SERVICES = messages.DESCRIPTOR.services_by_name


@dataclass(frozen=True)
class ServerTls:
    """PEM files of a server's certificate and key, and of who signs its clients' (None: anyone)."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Read the files.

        Raises:
            ConfigError: If one cannot be read.
        """
        pair = (_read(self.key, "--tls-key"), _read(self.cert, "--tls-cert"))
        ca = None if self.client_ca is None else _read(self.client_ca, "--client-ca")
        return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)


class GraphServer:
    """A server of parts of a store; `close` ends it.

    Args:
        graph: The open parts.
        bind: `host:port`; port 0 takes a free one.
        tls: Certificates; None: plain text.
        insecure: Whether plain text may leave this host.
        limits: What requests may ask for.
        scoring: The scoring service; None: none.

    Raises:
        ConfigError: If plain text would leave this host, or the address is wrong or taken.

    Attributes:
        port: The port it listens on.
        metrics: Its counts.
    """

    def __init__(
        self,
        graph: ServerGraph,
        *,
        bind: str = "127.0.0.1:0",
        tls: ServerTls | None = None,
        insecure: bool = False,
        limits: Limits | None = None,
        scoring: ScoringServicer | None = None,
    ) -> None:
        limits = limits or Limits()
        if tls is None and not insecure and not _is_loopback(bind):
            raise ConfigError(
                f"--bind: expected a loopback address without TLS, got {bind}. Give --tls-cert and "
                "--tls-key, or --insecure to let anyone read the graph."
            )
        self.metrics = Metrics()
        self._threads = ThreadPoolExecutor(limits.max_in_flight + _SPARE_THREADS, "graphtheta-call")
        self._server = grpc.server(
            self._threads,
            interceptors=[Interceptor(graph.store.checksum, limits, self.metrics)],
            options=[
                ("grpc.so_reuseport", 0),  # a second server on a port is a mistake
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.max_send_message_length", MESSAGE_BYTES),
                ("grpc.keepalive_time_ms", 30_000),  # notices clients that vanished
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        service = GraphService(graph, limits, predicts=scoring is not None)
        add_GraphServicer_to_server(service, self._server)
        names = [_SERVICES["Graph"].full_name]
        if scoring is not None:
            add_ScoringServicer_to_server(scoring, self._server)
            names.append(_SERVICES["Scoring"].full_name)
        self._health = health.HealthServicer(experimental_non_blocking=True)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.port = self._bind(bind, tls)
        self._server.start()
        for name in ("", *names):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def close(self, grace_s: float = 30.0) -> None:
        """Refuse new calls, let those in flight end within `grace_s` seconds, and stop."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()
        self._threads.shutdown()

    def _bind(self, bind: str, tls: ServerTls | None) -> int:
        try:
            if tls is None:
                port = self._server.add_insecure_port(bind)
            else:
                port = self._server.add_secure_port(bind, tls.credentials())
        except RuntimeError:
            port = 0
        if not port:
            self._server.stop(None)
            raise ConfigError(
                f"--bind: expected a free address of this host and a certificate that fits its "
                f"key, got {bind}. Choose another."
            )
        return int(port)


def _is_loopback(bind: str) -> bool:
    host = bind.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or bind.startswith("unix:")


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{option}: expected a PEM file, got {path}: {error.strerror}. Name another."
        ) from None
