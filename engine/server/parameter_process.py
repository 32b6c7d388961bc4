"""The process of `graphtheta parameters`: a run, its host, its server and its snapshots."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from graphtheta.comm.communicator import Communicator
from graphtheta.engine.server.parameter_service import ParameterServer
from graphtheta.engine.server.process import Running, stop_on_signals
from graphtheta.engine.server.server import ServerTls
from graphtheta.engine.wire.protocol import Limits
from graphtheta.errors import ConfigError
from graphtheta.run.config import RunConfig
from graphtheta.run.run import start_run
from graphtheta.train.elastic.host import ParameterHost
from graphtheta.train.run_dir import RunDirectory
from graphtheta.train.signals import Stopped
from graphtheta.train.trainer import Trainer

__all__ = ["serve_parameters"]

_POLL_S = 0.2  # between two looks at the signals


def serve_parameters(
    config: RunConfig,
    comm: Communicator,
    *,
    bind: str,
    tls: ServerTls | None,
    insecure: bool,
    lease_s: float,
    metrics_port: int | None,
    limits: Limits,
    grace_s: float,
    verbose: bool,
    show: Callable[[Trainer], Any],
) -> Mapping[str, Any]:
    """Serve the parameters of a run until training is over, and return its summary.

    Args:
        config: Configuration of the run.
        comm: This process, which is the only worker.
        bind: `host:port` to listen on.
        tls: Certificates. If None, connections are plain text.
        insecure: Whether to allow plain text on other addresses than loopback.
        lease_s: Seconds that a group has for a piece of work.
        metrics_port: Port of the Prometheus metrics. If None, there are none.
        limits: Request limits.
        grace_s: Longest time to finish the calls in flight, and for groups to get the result.
        verbose: Whether to log every call.
        show: Called with the trainer of the run before it is served.

    Raises:
        ConfigError: If an option is wrong, the run directory is in use, a port is taken, or
            training has failed.
        Stopped: On SIGTERM or SIGINT, after a snapshot.
    """
    if comm.size > 1:
        raise ConfigError(
            f"parameters: expected one process, got a job of {comm.size}. Start it without "
            "mpiexec, and the groups with it: mpiexec -n N graphtheta train ... --parameters"
        )
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        trainer = start_run(config, comm, resume=True)
        host = ParameterHost(
            trainer, config.epochs, delay=config.delay, lease_s=lease_s, config=config.record()
        )
        stack.callback(host.close)
        server = ParameterServer(host, bind=bind, tls=tls, insecure=insecure, limits=limits)
        show(trainer)
        running = Running(server, bind, metrics_port, grace_s, verbose)
        event = {"run": str(config.run_dir), "store": host.terms().terms["store"]}
        with running.until_the_end(f"the parameters of {config.run_dir}", event) as address:
            files = RunDirectory(config.run_dir, resume=True)
            files.write_service(address)
            stack.callback(files.write_service, None)
            summary = None
            while summary is None and not stop.is_set():
                summary = host.wait(_POLL_S)
                host.snapshot_if_due()
            if summary is not None:
                host.wait_for_groups(grace_s)
                return summary
            host.snapshot()
        raise Stopped(len(trainer.history.loss))
