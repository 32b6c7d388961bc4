"""Names of encoders, and the columns and encodings that a user requests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from graphtheta.data.encode.categorical import Count, Embedding, Hash, Indices, OneHot
from graphtheta.data.encode.encoder import Encoder
from graphtheta.data.encode.numeric import Log, MinMax, Number, Standard
from graphtheta.data.encode.quantile import Quantile
from graphtheta.data.encode.times import Age, Cyclic
from graphtheta.errors import ConfigError

__all__ = ["ENCODERS", "Features", "Requested", "encoder_of", "pieces", "requested"]

ENCODERS: dict[str, type[Encoder]] = {
    kind.name: kind
    for kind in (
        *(Number, Standard, MinMax, Log, Quantile),
        *(OneHot, Hash, Count, Embedding, Indices),
        *(Age, Cyclic),
    )
}

# What a user gives: columns, and how to encode them.
Features = str | Sequence[Any] | Mapping[str, Any]
Requested = tuple[str, Encoder | None]  # a name or glob of columns, and its encoder if it is given

_CALL = re.compile(r"\s*([a-z_][a-z_0-9]*)\s*(?:\(([^()]*)\))?\s*")


def encoder_of(given: Encoder | str, where: str) -> Encoder:
    """Return an encoder that is given as an object, or as a text such as `hash(64)`.

    Args:
        given: The encoder.
        where: Name of the column or option in messages.

    Raises:
        ConfigError: If there is no such encoder, or its arguments are wrong.
    """
    if isinstance(given, Encoder):
        return given
    call = _CALL.fullmatch(given) if isinstance(given, str) else None
    if call is None or call[1] not in ENCODERS:
        raise ConfigError(
            f"{where}: expected an encoding among {', '.join(ENCODERS)}, got {given!r}. "
            "Choose one of these."
        )
    arguments = [argument.strip() for argument in (call[2] or "").split(",") if argument.strip()]
    try:
        return ENCODERS[call[1]].of(arguments)
    except ValidationError as error:
        expected = f"a number {error.errors()[0]['msg'].removeprefix('Input should be ')}"
    except ValueError as error:
        expected = "whole numbers" if "invalid literal" in str(error) else str(error)
    raise ConfigError(
        f"{where}: expected {expected} in the brackets of {call[1]}, got {given!r}. Correct it."
    )


def pieces(text: str) -> list[str]:
    """Return the parts of a text that commas outside of brackets separate."""
    return [piece.strip() for piece in re.split(r",(?![^()]*\))", text)]


def requested(given: Any, existing: Sequence[str], where: str) -> list[Requested]:
    """Return requested columns, as names or globs, each with its encoder if it is given.

    Args:
        given: A text such as `age:standard,f_*`, a mapping from names of columns to encoders, or a
            name and its encoder. A name that exists is that column, also with a comma or colon.
        existing: Names of the columns.
        where: Name of the option in messages.

    Raises:
        ConfigError: If an encoding does not exist.
    """
    if not isinstance(given, str):
        pairs = given.items() if isinstance(given, Mapping) else [given]
        return [
            (str(name), None if encoder is None else encoder_of(encoder, f"{where} {name}"))
            for name, encoder in pairs
        ]
    names = frozenset(existing)
    found: list[Requested] = []
    for piece in [given] if given in names else pieces(given):
        name, colon, encoding = piece.rpartition(":")
        if piece in names or not colon or _is_part_of_name(name, names):
            found.append((piece, None))
        else:
            found.append((name.strip(), encoder_of(encoding, f"{where} {name.strip()}")))
    return found


def _is_part_of_name(name: str, names: frozenset[str]) -> bool:
    """Return whether what is before a colon is only a prefix such as `label`."""
    return name in ("label", "split") and name not in names
