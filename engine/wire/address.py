"""Checks of network addresses, which gRPC takes modulo 65,536 or fails to find without a reason."""

from __future__ import annotations

from graphtheta.errors import ConfigError

__all__ = ["check_address", "check_port"]

_LARGEST_PORT = 65_535


def check_address(address: object, where: str) -> str:
    """Return an address, which is `host:port` or the path of a socket, `unix:PATH`.

    Args:
        address: The given address.
        where: Option or function that the address was given to.

    Raises:
        ConfigError: If it is not an address.
    """
    if isinstance(address, str) and address.startswith("unix:"):
        return address
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    if not isinstance(address, str) or not host:
        got = f"{address!r}, without a port" if isinstance(address, str) and address else address
        raise ConfigError(
            f"{where}: expected HOST:PORT, got {got!s:.100}. Give a host and a port, such as "
            "127.0.0.1:7400."
        )
    check_port(int(port) if port.isascii() and port.isdecimal() else port, where)
    return address


def check_port(port: object, where: str) -> None:
    """Raise a ConfigError if a port is not an integer from 0 to 65,535."""
    if not isinstance(port, int) or not 0 <= port <= _LARGEST_PORT:
        raise ConfigError(
            f"{where}: expected a port from 0 to {_LARGEST_PORT:,}, got {port!s:.100}. Correct it."
        )
