"""`graphtheta serve`: a store, or some parts of it, over gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["serve"]


def serve(
    store: Annotated[Path, typer.Argument(help="The store; only the parts served need be there.")],
    part: Annotated[
        list[int] | None, typer.Option(help="A part to serve; may be given again. Default: all.")
    ] = None,
    bind: Annotated[
        str, typer.Option(help="host:port to listen on; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="PEM file of who signs clients: others are refused.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this host without TLS.")
    ] = False,
    run: Annotated[
        Path | None, typer.Option(help="The --run-dir of a run, to predict with; needs all parts.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of Prometheus metrics, on the same host as --bind.")
    ] = None,
    max_ids: Annotated[int, typer.Option(help="Ids of one request.", min=1)] = 1 << 20,
    max_in_flight: Annotated[
        int, typer.Option(help="Requests that are answered at a time.", min=1)
    ] = 32,
    grace: Annotated[
        float, typer.Option(help="Seconds for calls in flight after SIGTERM.", min=0.0)
    ] = 30.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every call.")] = False,
) -> None:
    """Serve a store until SIGTERM or Ctrl-C: calls in flight may end, new ones are refused.

    The first line of output names the address and the parts. Logs go to standard error, as JSON.

    Example: graphtheta serve store --part 0 --bind 127.0.0.1:7400 --metrics-port 9400
    """
    from graphtheta.engine.server.process import serve_until_stopped
    from graphtheta.engine.server.server import ServerTls
    from graphtheta.engine.wire.limits import Limits
    from graphtheta.errors import ConfigError

    if (tls_cert is None) != (tls_key is None) or (client_ca is not None and tls_cert is None):
        raise ConfigError(
            "serve: expected --tls-cert and --tls-key together, and --client-ca only with them, "
            "got some. Give both."
        )
    tls = None
    if tls_cert is not None and tls_key is not None:
        tls = ServerTls(tls_cert, tls_key, client_ca)
    serve_until_stopped(
        store,
        parts=part,
        bind=bind,
        tls=tls,
        insecure=insecure,
        run_dir=run,
        metrics_port=metrics_port,
        limits=Limits(max_ids=max_ids, max_in_flight=max_in_flight),
        grace_s=grace,
        verbose=verbose,
    )
