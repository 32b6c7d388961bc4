"""Folders where GraphTheta keeps files between runs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from graphtheta.errors import ConfigError

__all__ = ["cache_folder", "is_private", "private_cache"]


def cache_folder() -> Path:
    """Return the cache folder: GRAPHTHETA_CACHE, or ~/.cache/graphtheta if that is not set.

    Raises:
        ConfigError: If GRAPHTHETA_CACHE is not set and the user has no home directory.
    """
    folder = os.environ.get("GRAPHTHETA_CACHE")
    try:
        return Path(folder) if folder else Path.home() / ".cache" / "graphtheta"
    except RuntimeError:
        raise ConfigError(
            "cache: expected a home directory for ~/.cache/graphtheta, got none. Set "
            "GRAPHTHETA_CACHE to a folder for the cache."
        ) from None


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


def private_cache(name: str) -> Path | None:
    """Return the folder `name` of the cache, or None if it cannot be made or is not private."""
    try:
        folder = cache_folder() / name
    except ConfigError:
        return None
    return folder if is_private(folder) else None
