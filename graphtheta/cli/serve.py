"""`graphtheta serve`: serve a store, or some parts of it, over gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["serve"]


def serve(
    store: Annotated[
        Path, typer.Argument(help="Folder of the store. Only the served parts need to be there.")
    ],
    part: Annotated[
        list[int] | None,
        typer.Option(
            metavar="INDEX", help="Part to serve. Repeat for several parts. By default, all parts."
        ),
    ] = None,
    bind: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Address to listen on. Port 0 selects a free port. Addresses other than loopback "
            "need TLS or --insecure.",
        ),
    ] = "127.0.0.1:0",
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificate of the server (PEM). Enables TLS."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Private key of --tls-cert (PEM).")
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Certificate authority of the clients (PEM). Clients without a certificate of "
            "this authority are refused.",
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Allow plain text, without TLS, on addresses other than loopback."
        ),
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Run folder (--run-dir of graphtheta train) of a model to predict with. All parts "
            "must be served.",
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            help="Port of the Prometheus metrics, on the host of --bind. Port 0 selects a free "
            "port. By default, there are no metrics.",
        ),
    ] = None,
    max_ids: Annotated[
        int, typer.Option(metavar="COUNT", help="Largest number of ids in a request.", min=1)
    ] = 1 << 20,
    max_in_flight: Annotated[
        int,
        typer.Option(
            metavar="COUNT",
            help="Largest number of requests answered at the same time. Clients retry the others.",
            min=1,
        ),
    ] = 32,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Time to finish the calls in flight after SIGTERM or Ctrl-C.",
            min=0.0,
        ),
    ] = 30.0,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log every call, not only failed ones.")
    ] = False,
) -> None:
    """Serve a store over gRPC until SIGTERM or Ctrl-C.

    The first line of output contains the served parts and the address. Logs are lines of JSON on
    standard error.

    Example: graphtheta serve store --part 0 --bind 127.0.0.1:7400 --metrics-port 9400
    """
    from graphtheta.engine.server.process import serve_until_stopped
    from graphtheta.engine.server.server import ServerTls
    from graphtheta.engine.wire.protocol import Limits
    from graphtheta.errors import ConfigError

    if (tls_cert is None) != (tls_key is None) or (client_ca is not None and tls_cert is None):
        raise ConfigError(
            "serve: expected --tls-cert and --tls-key together, and --client-ca only with them, "
            "got only some of these. Give --tls-cert and --tls-key."
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
