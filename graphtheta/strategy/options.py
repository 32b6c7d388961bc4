"""Options of strategies that count something."""

from __future__ import annotations

import numpy as np

from graphtheta.errors import ConfigError

__all__ = ["check_count", "is_count"]


def is_count(value: object, least: int) -> bool:
    """Return whether an option is an integer of at least `least`, of 64 bits."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_integer and least <= int(value) < 1 << 63  # type: ignore[call-overload]


def check_count(value: object, least: int, name: str, where: str) -> None:
    """Raise a ConfigError if an option is no integer of at least `least`."""
    if not is_count(value, least):
        raise ConfigError(f"{where}: expected {name} >= {least}, got {value!r}. Give an integer.")
