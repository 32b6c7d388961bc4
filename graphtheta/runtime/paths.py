"""Folders of this user where GraphTheta keeps files between runs."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return where stores made on the spot are kept: $GRAPHTHETA_CACHE or ~/.cache/graphtheta."""
    given = os.environ.get("GRAPHTHETA_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "graphtheta"
