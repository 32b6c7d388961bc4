"""gRPC servers: their port, TLS, services and shutdown."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from graphtheta.engine.server.graph import ServerGraph
from graphtheta.engine.server.graph_service import GraphService
from graphtheta.engine.server.interceptor import Interceptor
from graphtheta.engine.server.metrics import Metrics
from graphtheta.engine.wire.address import check_address
from graphtheta.engine.wire.protocol import MESSAGE_BYTES, Limits
from graphtheta.errors import ConfigError
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.proto.v1.graph_pb2_grpc import (
    add_GraphServicer_to_server,
    add_ScoringServicer_to_server,
)

if TYPE_CHECKING:  # imports torch, which servers without predictions do not need
    from graphtheta.engine.server.predict_service import PredictService

__all__ = ["GraphServer", "Server", "ServerTls"]

_log = logging.getLogger("graphtheta.engine")
_SPARE_THREADS = 4  # answer health checks while the others are busy
_SERVICES = messages.DESCRIPTOR.services_by_name


@dataclass(frozen=True)
class ServerTls:
    """TLS certificates of a server, as PEM files.

    Attributes:
        cert: Certificate of the server.
        key: Private key of `cert`.
        client_ca: Certificate authority of the clients. If None, clients need no certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Read the files.

        Raises:
            ConfigError: If a file cannot be read.
        """
        pair = (_read(self.key, "--tls-key"), _read(self.cert, "--tls-cert"))
        ca = None if self.client_ca is None else _read(self.client_ca, "--client-ca")
        return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)


class Server:
    """gRPC server that runs in background threads until `close`.

    Args:
        services: Services by their full name: functions that add them to a gRPC server.
        checksum: Checksum of the store that is served.
        bind: `host:port` to listen on. Port 0 selects a free port.
        tls: Certificates. If None, connections are plain text.
        insecure: Whether to allow plain text on other addresses than loopback.
        limits: Request limits. If None, the defaults of `Limits`.

    Raises:
        ConfigError: If plain text would leave this host, or the address is wrong or in use.

    Attributes:
        port: Port that the server listens on.
        metrics: Prometheus metrics.
    """

    def __init__(
        self,
        services: Mapping[str, Callable[[grpc.Server], None]],
        checksum: str,
        *,
        bind: str = "127.0.0.1:0",
        tls: ServerTls | None = None,
        insecure: bool = False,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        check_address(bind, "--bind")
        if tls is None and not insecure and not _is_loopback(bind):
            raise ConfigError(
                f"--bind: expected a loopback address without TLS, got {bind}. Give --tls-cert and "
                "--tls-key, or --insecure to let anyone read the graph."
            )
        self.metrics = Metrics()
        self._threads = ThreadPoolExecutor(limits.max_in_flight + _SPARE_THREADS, "graphtheta-call")
        self._server = grpc.server(
            self._threads,
            interceptors=[Interceptor(checksum, limits, self.metrics)],
            options=[
                ("grpc.so_reuseport", 0),  # a second server on the same port is an error
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.max_send_message_length", MESSAGE_BYTES),
                ("grpc.keepalive_time_ms", 30_000),  # detects clients that have disappeared
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        for add in services.values():
            add(self._server)
        self._health = health.HealthServicer(experimental_non_blocking=True)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*services, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.port = self._bind(bind, tls)
        self._server.start()
        for name in ("", *services):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def close(self, grace_s: float = 30.0) -> None:
        """Refuse new calls, wait up to `grace_s` seconds for those in flight, and stop."""
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
                f"--bind: expected a free address of this host and a certificate that matches "
                f"its key, got {bind}. Choose another."
            )
        return int(port)


class GraphServer(Server):
    """Server of parts of a store.

    Args:
        graph: The open parts.
        predict_service: Prediction service. If None, the server does not predict.
        limits: Request limits. If None, the defaults of `Limits`.
        options: Address and certificates, as for `Server`.
    """

    def __init__(
        self,
        graph: ServerGraph,
        *,
        predict_service: PredictService | None = None,
        limits: Limits | None = None,
        **options: Any,
    ) -> None:
        limits = limits or Limits()
        predicted_type = "" if predict_service is None else predict_service.node_type or ""
        service = GraphService(
            graph, limits, predicts=predict_service is not None, predicted_type=predicted_type
        )
        services = {_SERVICES["Graph"].full_name: partial(add_GraphServicer_to_server, service)}
        if predict_service is not None:
            add = partial(add_ScoringServicer_to_server, predict_service)
            services[_SERVICES["Scoring"].full_name] = add
        super().__init__(services, graph.store.checksum, limits=limits, **options)


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
