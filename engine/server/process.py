"""The process of `graphtheta serve`: opens the parts, runs the server, drains it on a signal."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from graphtheta.engine.server.graph import ServerGraph
from graphtheta.engine.server.logs import log_as_json
from graphtheta.engine.server.server import GraphServer, ServerTls
from graphtheta.engine.wire.protocol import Limits
from graphtheta.errors import ConfigError
from graphtheta.partition import open_store
from graphtheta.runtime.tuning import tune
from graphtheta.wording import counted

__all__ = ["serve_until_stopped"]

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
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_set_on_signals(stop))
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
        host = bind.rpartition(":")[0]
        address = f"{host}:{server.port}"
        event: dict[str, object] = {"address": address, "parts": list(graph.parts)}
        try:
            if metrics_port is not None:
                port, scrapes = server.metrics.serve(host.strip("[]"), metrics_port)
                stack.callback(scrapes.shutdown)
                event["metrics_port"] = port
            log_as_json(verbose=verbose)
            gc.freeze()  # what exists now lives until the end: collections need not scan it
            shown = ", ".join(map(str, graph.parts))
            print(f"serving parts {shown} of {path} at {address}", flush=True)
            _log.info("serving", extra=event | {"store": graph.store.checksum})
            stop.wait()
            _log.info("draining", extra={"grace_s": grace_s})
        finally:
            server.close(grace_s)
        _log.info("stopped")


@contextlib.contextmanager
def _set_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set an event on SIGTERM and SIGINT while the context is active."""
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, lambda *_: stop.set())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
