"""Folders where GraphTheta keeps files between runs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["cache_folder", "is_private"]


def cache_folder() -> Path:
    """Return the cache folder: GRAPHTHETA_CACHE, or ~/.cache/graphtheta if that is not set."""
    folder = os.environ.get("GRAPHTHETA_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "graphtheta"


def is_private(folder: Path) -> bool:
    """Return whether code can be loaded from a folder, which is created if it does not exist.

    It can if the folder belongs to this user, and other users may not write to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = folder.stat()
    except OSError:
        return False
    others = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder.is_dir() and about.st_uid == os.getuid() and not others
