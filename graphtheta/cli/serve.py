"""`graphtheta serve`: serve a store, or some parts of it, over gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from graphtheta.cli.terminal.help import argument, flag, option
from graphtheta.cli.terminal.tls import server_tls

__all__ = ["serve"]


def serve(
    store: Annotated[Path, argument("STORE")],
    part: Annotated[list[int] | None, option("INTEGER", default="all parts")] = None,
    bind: Annotated[str, option("HOST:PORT")] = "127.0.0.1:0",
    tls_cert: Annotated[Path | None, option("FILE")] = None,
    tls_key: Annotated[Path | None, option("FILE")] = None,
    client_ca: Annotated[Path | None, option("FILE")] = None,
    insecure: Annotated[bool, flag("--insecure")] = False,
    run: Annotated[Path | None, option("PATH")] = None,
    metrics_port: Annotated[int | None, option("INTEGER", default="no metrics")] = None,
    max_ids: Annotated[int, option("INTEGER", min=1)] = 1 << 20,
    max_in_flight: Annotated[int, option("INTEGER", min=1)] = 32,
    grace: Annotated[float, option("FLOAT", min=0)] = 30.0,
    verbose: Annotated[bool, flag("--verbose")] = False,
) -> None:
    """Serve a store over gRPC until SIGTERM or Ctrl-C.

    The first line of output contains the served parts and the address. Logs are lines of JSON on
    standard error.

    Args:
        store: Directory of the store. Only the served parts need to be there.
        part: Number of a part to serve. Repeat the option for several.
        bind: Address to listen on. Port 0 selects a free port. Addresses other than loopback need
            TLS or --insecure.
        tls_cert: Certificate of the server (PEM). Enables TLS.
        tls_key: Private key of --tls-cert (PEM).
        client_ca: Certificate authority of the clients (PEM). Clients without a certificate of this
            authority are refused.
        insecure: Allow plain text, without TLS, on addresses other than loopback.
        run: Directory of a run (--run-dir of graphtheta train) whose model predicts. All parts
            must be served.
        metrics_port: Port of the Prometheus metrics, on the host of --bind. Port 0 selects a free
            port.
        max_ids: Largest number of ids in a request.
        max_in_flight: Largest number of requests answered at the same time. Clients retry the
            others.
        grace: Seconds to finish the calls in flight after SIGTERM or Ctrl-C.
        verbose: Log every call, not only failed ones.

    Example:
      graphtheta serve store --part 0 --bind 127.0.0.1:7400 --metrics-port 9400
    """
    from graphtheta.engine.server.process import serve_until_stopped
    from graphtheta.engine.wire.protocol import Limits

    serve_until_stopped(
        store,
        parts=part,
        bind=bind,
        tls=server_tls(tls_cert, tls_key, client_ca),
        insecure=insecure,
        run_dir=run,
        metrics_port=metrics_port,
        limits=Limits(max_ids=max_ids, max_in_flight=max_in_flight),
        grace_s=grace,
        verbose=verbose,
    )
