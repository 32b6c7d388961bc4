"""Checks of the arguments of a client: addresses, names of columns and fan-outs."""

from __future__ import annotations

from collections.abc import Iterable

from graphtheta.engine.wire.address import check_address
from graphtheta.errors import ConfigError
from graphtheta.runtime.numbers import need_whole

__all__ = ["check_addresses", "check_fanouts", "check_names"]


def check_addresses(addresses: object) -> list[str]:
    """Return addresses as a list; a text is one address."""
    if isinstance(addresses, str):
        return [check_address(addresses, "connect")]
    if isinstance(addresses, bytes) or not isinstance(addresses, Iterable):
        raise ConfigError(
            f"connect: expected HOST:PORT or a list of them, got {addresses!r:.100}. Give the "
            "addresses of the servers."
        )
    return [check_address(address, "connect") for address in addresses]


def check_names(names: object, what: str) -> list[str]:
    """Return names as a list.

    Args:
        names: The given names.
        what: What is named, and by which call.
    """
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        remedy = f"Write [{names!r:.100}]" if isinstance(names, str) else "Give a list"
        raise ConfigError(f"{what}: expected a list of names, got {names!r:.100}. {remedy}.")
    found = list(names)
    for name in found:
        if not isinstance(name, str):
            raise ConfigError(f"{what}: expected names as texts, got {name!r:.100}. Correct it.")
    return found


def check_fanouts(fanouts: object) -> list[int | None]:
    """Return the fan-outs of the layers as a list."""
    if isinstance(fanouts, str | bytes) or not isinstance(fanouts, Iterable):
        raise ConfigError(
            f"subgraph: expected a list with a fan-out for each layer, got {fanouts!r:.100}. Write "
            f"[{fanouts!r:.100}] for one layer."
        )
    return [each if each is None else need_whole(each, "fan-out") for each in fanouts]
