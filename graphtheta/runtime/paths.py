"""Folder where GraphTheta keeps files between runs."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return the cache folder: GRAPHTHETA_CACHE, or ~/.cache/graphtheta if that is not set."""
    folder = os.environ.get("GRAPHTHETA_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "graphtheta"
