"""Prometheus metrics of a server."""

from __future__ import annotations

from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from graphtheta.engine.wire.address import check_port
from graphtheta.errors import ConfigError

__all__ = ["Metrics"]

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Metrics of one server, in a registry of its own since a process may run several servers.

    Attributes:
        registry: Registry of the metrics.
        in_flight: Number of calls in flight.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.in_flight = Gauge(
            "graphtheta_calls_in_flight", "Calls being answered.", registry=self.registry
        )
        self._calls = Counter(
            "graphtheta_calls", "Calls answered.", ["method", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "graphtheta_call_seconds",
            "Time from a call's arrival to its last byte.",
            ["method"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._bytes = Counter(
            "graphtheta_sent_bytes", "Bytes of responses.", ["method"], registry=self.registry
        )

    def count(self, method: str, status: str, seconds: float, sent: int) -> None:
        """Count one call.

        Args:
            method: Method of the call.
            status: Name of the call's status.
            seconds: Duration of the call.
            sent: Bytes of the response.
        """
        self._calls.labels(method, status).inc()
        self._seconds.labels(method).observe(seconds)
        self._bytes.labels(method).inc(sent)

    def serve(self, host: str, port: int) -> tuple[int, WSGIServer]:
        """Start an HTTP server for Prometheus in a thread.

        Returns:
            The port, and the server to `shutdown()` at the end.

        Raises:
            ConfigError: If the port is taken, or is not a port.
        """
        check_port(port, "--metrics-port")
        try:
            server, _ = start_http_server(port, host, registry=self.registry)
        except OSError as error:
            raise ConfigError(
                f"--metrics-port: expected a free port, got {port}: {error.strerror}. Choose "
                "another."
            ) from None
        return server.server_port, server
