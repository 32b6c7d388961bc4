"""TLS options of the commands that serve and of those that connect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphtheta.errors import ConfigError

if TYPE_CHECKING:
    from graphtheta.engine.client.connection import Tls
    from graphtheta.engine.server.server import ServerTls

__all__ = ["client_tls", "server_tls"]


def server_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
    """Return the certificates of a server, or None for plain text.

    Raises:
        ConfigError: If only some of the options are given.
    """
    from graphtheta.engine.server.server import ServerTls

    if (cert is None) != (key is None) or (client_ca is not None and cert is None):
        raise ConfigError(
            "serve: expected --tls-cert and --tls-key together, and --client-ca only with them, "
            "got only some of these. Give --tls-cert and --tls-key."
        )
    return None if cert is None or key is None else ServerTls(cert, key, client_ca)


def client_tls(ca: Path | None, cert: Path | None, key: Path | None) -> Tls | None:
    """Return the certificates of a client, or None for plain text.

    Raises:
        ConfigError: If only one of certificate and key is given.
    """
    from graphtheta.engine.client.connection import Tls

    if (cert is None) != (key is None):
        raise ConfigError(
            "--tls-cert: expected it together with --tls-key, got one of the two. Give both."
        )
    return None if ca is None and cert is None else Tls(ca, cert, key)
