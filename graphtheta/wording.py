"""Numbers in messages: counts with their noun, sizes in bytes, and rows of a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["call_text", "counted", "format_bytes", "number_text", "rows_text", "some"]


def call_text(options: object) -> str:
    """Return an object with its public attributes, for a `__repr__` like that of a dataclass."""
    values = {n: v for n, v in vars(options).items() if not n.startswith("_")}
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            values[name] = value.tolist() if value.size <= 8 else f"<array of {value.shape}>"
    shown = (f"{name}={value!r}" for name, value in values.items())
    return f"{type(options).__name__}({', '.join(shown)})"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, for example "1 part" or "1,024 parts".

    Args:
        number: How many.
        noun: Noun in the singular.
        plural: The plural, if it is not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def number_text(number: float) -> str:
    """Return an integer with all of its digits, and another number with six."""
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def format_bytes(num_bytes: float) -> str:
    """Return a number of bytes as text, for example "1.50 GB"."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= size:
            return f"{num_bytes / size:.2f} {unit}"
    return counted(round(num_bytes), "byte")


def rows_text(rows: Sequence[int] | NDArray[np.integer[Any]]) -> str:
    """Return rows of a table as text, for example "rows 3, 17 (...)", which says how they count.

    Args:
        rows: At least one row, counted from 0.
    """
    noun = "row" if len(rows) == 1 else "rows"
    return f"{noun} {some(rows, len(rows))} (counted from 0, without a header line)"


def some(items: Iterable[object], count: int) -> str:
    """Return a text with up to three of `count` items, such as "3, 17, 20, ... (12 in all)"."""
    shown = [repr(i) if isinstance(i, str) else str(i) for i in itertools.islice(items, 3)]
    return ", ".join(shown) + (f", ... ({count:,} in all)" if count > 3 else "")
