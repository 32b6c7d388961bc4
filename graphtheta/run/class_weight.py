"""Class weights of an option: a text, or a file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from graphtheta.errors import ConfigError

__all__ = ["parse_class_weight"]


def parse_class_weight(text: str) -> str | dict[str, Any]:
    """Return the class weights of an option: balanced, NAME=WEIGHT,..., or a TOML or JSON file.

    Raises:
        ConfigError: If the text or the file is wrong.
    """
    if text.endswith((".toml", ".json")):
        return _read(text)
    if "=" not in text:
        return text
    weights: dict[str, Any] = {}
    for item in text.split(","):
        name, _, number = item.rpartition("=")
        try:
            weights[name.strip()] = float(number)
        except ValueError:
            name = ""
        if not name.strip():
            raise ConfigError(
                f"--class-weight: expected NAME=WEIGHT, such as fraud=20,ok=1, got '{item}'. "
                "Correct it."
            )
    return weights


def _read(path: str) -> dict[str, Any]:
    try:
        content = Path(path).read_text()
        found = tomllib.loads(content) if path.endswith(".toml") else json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"--class-weight: {path}: expected a table of weights by class, got an error: "
            f"{reason}. Correct it."
        ) from None
    if not isinstance(found, dict) or any(type(w) not in (int, float) for w in found.values()):
        raise ConfigError(
            f"--class-weight: {path}: expected a table of numbers by class, such as fraud = 20, "
            f"got {found!s:.100}. Correct it."
        )
    return found
