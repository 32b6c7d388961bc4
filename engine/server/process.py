"""Processes that serve: they open what is served, run a server, and drain it on a signal."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphtheta.engine.server.graph import ServerGraph
from graphtheta.engine.server.logs import log_as_json
from graphtheta.engine.server.server import GraphServer, Server, ServerTls
from graphtheta.engine.wire.protocol import Limits
from graphtheta.errors import ConfigError
from graphtheta.partition import open_store
from graphtheta.runtime.tuning import tune
from graphtheta.wording import counted

__all__ = ["Running", "serve_until_stopped", "stop_on_signals"]

_log = logging.getLogger("graphtheta.engine")


def serve_until_stopped(
    path: Path,
    *,
    parts: Sequence[int] | None,
    bind: str,
    tls: ServerTls | None,
    insecure: bool,
    run_dir: Path | None,
    metrics_port: int | None,
    limits: Limits,
    grace_s: float,
    verbose: bool,
) -> None:
    """Serve parts of a store until SIGTERM or SIGINT, then finish the calls in flight.

    Args:
        path: Folder of the store.
        parts: Parts to serve. If None, all parts.
        bind: `host:port` to listen on.
        tls: Certificates. If None, connections are plain text.
        insecure: Whether to allow plain text on other addresses than loopback.
        run_dir: Folder of a run to predict with. If None, the server does not predict.
        metrics_port: Port of the Prometheus metrics. If None, there are none.
        limits: Request limits.
        grace_s: Longest time to finish the calls in flight, in seconds.
        verbose: Whether to log every call.

    Raises:
        ConfigError: If an option is wrong, or a port is in use.
        StoreError: If the store is missing or damaged.
    """
    tune(allocator="server")
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        graph = ServerGraph(open_store(path, parts=()), parts)
        predict_service = None
        if run_dir is not None:
            if len(graph.parts) < graph.store.num_parts:
                raise ConfigError(
                    f"--run: expected all {counted(graph.store.num_parts, 'part')} to "
                    "predict with, got "
                    f"{len(graph.parts)}. Leave out --part."
                )
            # Imports torch, which servers without predictions do not need.
            from graphtheta.engine.server.predict_service import PredictService

            predict_service = PredictService(graph.store, run_dir, limits)
            stack.callback(predict_service.close)
        server = GraphServer(
            graph,
            bind=bind,
            tls=tls,
            insecure=insecure,
            limits=limits,
            predict_service=predict_service,
        )
        shown = ", ".join(map(str, graph.parts))
        event = {"parts": list(graph.parts), "store": graph.store.checksum}
        running = Running(server, bind, metrics_port, grace_s, verbose)
        with running.until_the_end(f"parts {shown} of {path}", event):
            stop.wait()


@dataclass(frozen=True)
class Running:
    """A server that runs in this process.

    Attributes:
        server: The server.
        bind: `host:port` that it was told to listen on.
        metrics_port: Port of the Prometheus metrics. If None, there are none.
        grace_s: Longest time to finish the calls in flight, in seconds.
        verbose: Whether to log every call.
    """

    server: Server
    bind: str
    metrics_port: int | None
    grace_s: float
    verbose: bool

    @contextlib.contextmanager
    def until_the_end(self, what: str, event: Mapping[str, object]) -> Iterator[str]:
        """Context with the address, at whose end the server is drained and closed.

        Args:
            what: What is served, for the first line of output.
            event: The same for the log.
        """
        host = self.bind.rpartition(":")[0]
        address = f"{host}:{self.server.port}"
        event = {"address": address, **event}
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: _log.info("stopped"))
            stack.callback(self.server.close, self.grace_s)
            if self.metrics_port is not None:
                port, scrapes = self.server.metrics.serve(host.strip("[]"), self.metrics_port)
                stack.callback(scrapes.shutdown)
                event["metrics_port"] = port
            log_as_json(verbose=self.verbose)
            gc.freeze()  # what exists now lives until the end: collections need not scan it
            print(f"serving {what} at {address}", flush=True)
            _log.info("serving", extra=event)
            yield address
            _log.info("draining", extra={"grace_s": self.grace_s})


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Context with an event that SIGTERM and SIGINT set."""
    stop, before = threading.Event(), {}
    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
