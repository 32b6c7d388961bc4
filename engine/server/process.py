"""A server as a process: it opens, says where it listens, and drains when it is told to end."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from graphtheta.engine.server.graph import ServerGraph
from graphtheta.engine.server.logs import log_as_json
from graphtheta.engine.server.server import GraphServer, ServerTls
from graphtheta.engine.wire.limits import Limits
from graphtheta.errors import ConfigError
from graphtheta.partition import open_store
from graphtheta.runtime.malloc import tune_allocator

__all__ = ["serve_until_stopped"]

_log = logging.getLogger("graphtheta.engine")
_ARENAS = 2


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
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        path: The store.
        parts: Those to serve; None: all.
        bind: `host:port`.
        tls: Certificates.
        insecure: Whether plain text may leave this host.
        run_dir: A run to predict with; None: none.
        metrics_port: For Prometheus; None: none.
        limits: What requests may ask for.
        grace_s: Seconds that calls in flight have to end.
        verbose: Whether every call is logged.

    Raises:
        ConfigError: If an option is wrong, or a port is taken.
        StoreError: If the store is missing or damaged.
    """
    # Pieces of answers are large blocks, made over and over, by whichever thread is free: heaps of
    # each thread would all come to hold the largest.
    if tune_allocator(arenas=_ARENAS):
        pa.set_memory_pool(pa.system_memory_pool())
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_on_signals(stop))
        graph = ServerGraph(open_store(path, parts=()), parts)
        scoring = None
        if run_dir is not None:
            if len(graph.parts) < graph.store.num_parts:
                raise ConfigError(
                    f"--run: expected all {graph.store.num_parts} parts to predict with, got "
                    f"{len(graph.parts)}. Leave out --part."
                )
            from graphtheta.engine.server.predict_service import (
                PredictService,  # torch, where it is needed
            )

            scoring = PredictService(graph.store, run_dir, limits)
            stack.callback(scoring.close)
        server = GraphServer(
            graph, bind=bind, tls=tls, insecure=insecure, limits=limits, scoring=scoring
        )
        host = bind.rpartition(":")[0]
        said: dict[str, object] = {"address": f"{host}:{server.port}", "parts": list(graph.parts)}
        try:
            if metrics_port is not None:
                port, scrapes = server.metrics.serve(host.strip("[]"), metrics_port)
                stack.callback(scrapes.shutdown)
                said["metrics_port"] = port
            log_as_json(verbose=verbose)
            gc.freeze()  # what is there now stays: calls need not have it looked through
            shown = ", ".join(map(str, graph.parts))
            print(f"serving parts {shown} of {path} at {said['address']}", flush=True)
            _log.info("serving", extra=said | {"store": graph.store.checksum})
            stop.wait()
            _log.info("draining", extra={"grace_s": grace_s})
        finally:
            server.close(grace_s)
        _log.info("stopped")


@contextlib.contextmanager
def _on_signals(stop: threading.Event) -> Iterator[None]:
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, lambda *_: stop.set())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
