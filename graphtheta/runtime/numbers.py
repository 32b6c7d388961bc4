"""Checks of numbers that a user gives to a Python function."""

from __future__ import annotations

import math
import operator
from numbers import Real

from graphtheta.errors import ConfigError

__all__ = ["need_real", "need_whole"]


def need_whole(number: object, what: str, least: int | None = None) -> int:
    """Return a number as an integer.

    Args:
        number: The given number.
        what: Name of the number in error messages.
        least: Smallest number. If None, any integer.

    Raises:
        ConfigError: If it is not an integer, or is less than `least`.
    """
    try:
        whole = operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"{what}: expected an integer, got {number!r:.100}.") from None
    if least is not None and whole < least:
        raise ConfigError(f"{what}: expected an integer >= {least}, got {whole}.")
    return whole


def need_real(number: object, what: str, *, is_positive: bool) -> float:
    """Return a number as a float.

    Args:
        number: The given number.
        what: Name of the number in error messages.
        is_positive: Whether 0 is too small.

    Raises:
        ConfigError: If it is not a finite number, or is less than 0, or is 0 and may not be.
    """
    real = float(number) if isinstance(number, Real) else math.nan
    if not (0 < real if is_positive else 0 <= real) or real == math.inf:
        sign = ">" if is_positive else ">="
        raise ConfigError(f"{what}: expected a finite number {sign} 0, got {number!r:.100}.")
    return real
