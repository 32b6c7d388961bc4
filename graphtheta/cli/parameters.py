"""`graphtheta parameters`: serve the parameters of a run to groups of workers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from graphtheta.cli.terminal.help import flag, option
from graphtheta.cli.terminal.run_options import with_run_options
from graphtheta.cli.terminal.tls import server_tls
from graphtheta.cli.train import result_line, run_lines
from graphtheta.run.resolve import resolve
from graphtheta.train.signals import Stopped

__all__ = ["parameters"]


@with_run_options
def parameters(
    options: dict[str, Any],
    *,
    config: Annotated[Path | None, option("FILE", panel="Run")] = None,
    bind: Annotated[str, option("HOST:PORT", panel="Service")] = "127.0.0.1:0",
    lease_seconds: Annotated[float, option("FLOAT", min=0.1, panel="Service")] = 60.0,
    tls_cert: Annotated[Path | None, option("FILE", panel="Service")] = None,
    tls_key: Annotated[Path | None, option("FILE", panel="Service")] = None,
    client_ca: Annotated[Path | None, option("FILE", panel="Service")] = None,
    insecure: Annotated[bool, flag("--insecure", panel="Service")] = False,
    metrics_port: Annotated[
        int | None, option("INTEGER", default="no metrics", panel="Service")
    ] = None,
    max_in_flight: Annotated[int, option("INTEGER", min=1, panel="Service")] = 128,
    grace: Annotated[float, option("FLOAT", min=0, panel="Service")] = 30.0,
    verbose: Annotated[bool, flag("--verbose", panel="Service")] = False,
) -> None:
    """Serve the parameters of a run, which groups of workers train together.

    Groups join with graphtheta train INPUT --parameters HOST:PORT, leave and return at any time.
    The command ends when training is over. Started again with the same options, it continues from
    the last snapshot in --run-dir, which is saved every --checkpoint-seconds and on SIGTERM.

    Args:
        options: Options of the run that were given, by field name.
        config: TOML file of these options, such as the config.toml of another run. Options on the
            command line take precedence.
        bind: Address to listen on. Port 0 selects a free port. Addresses other than loopback need
            TLS or --insecure.
        lease_seconds: Seconds that a group has for a micro-batch or an evaluation. After that,
            another group may compute it, too.
        tls_cert: Certificate of the service (PEM). Enables TLS.
        tls_key: Private key of --tls-cert (PEM).
        client_ca: Certificate authority of the groups (PEM). Groups without a certificate of this
            authority are refused.
        insecure: Allow plain text, without TLS, on addresses other than loopback.
        metrics_port: Port of the Prometheus metrics, on the host of --bind. Port 0 selects a free
            port.
        max_in_flight: Largest number of calls answered at the same time. A group has one call at a
            time; further ones wait.
        grace: Seconds to finish the calls in flight after SIGTERM or Ctrl-C, and at the end.
        verbose: Log every call, not only failed ones.

    Example:
      graphtheta parameters store --run-dir runs/gcn --micro-batches 4 --bind 127.0.0.1:7500
      mpiexec -n 2 graphtheta train store --parameters 127.0.0.1:7500
    """
    run = resolve(options, file=config, resume=True)
    tls = server_tls(tls_cert, tls_key, client_ca)

    from graphtheta.cli.worker import start_worker

    comm, _ = start_worker(run.threads, timeout=run.timeout, allocator="training")

    from graphtheta.engine.server.parameter_process import serve_parameters
    from graphtheta.engine.wire.protocol import Limits

    try:
        summary = serve_parameters(
            run,
            comm,
            bind=bind,
            tls=tls,
            insecure=insecure,
            lease_s=lease_seconds,
            metrics_port=metrics_port,
            limits=Limits(max_in_flight=max_in_flight),
            grace_s=grace,
            verbose=verbose,
            show=lambda trainer: [print(line, flush=True) for line in run_lines(trainer, run)],
        )
    except Stopped:
        print("saved a snapshot; the same command continues", file=sys.stderr, flush=True)
        raise
    print(result_line(summary))
    print(f"wrote the run to {run.run_dir}")
