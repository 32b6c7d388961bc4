"""Folders that are there whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphtheta.errors import StoreError
from graphtheta.partition.store.store import refuse_occupied

__all__ = ["atomic_folder", "disk_errors"]


@contextmanager
def disk_errors(path: Path, what: str) -> Iterator[None]:
    """Say in one line what the file system refused.

    Args:
        path: Where something is written.
        what: What it is.

    Raises:
        StoreError: Where the block raises an OSError.
    """
    try:
        yield
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        raise StoreError(
            f"{path}: expected to write {what}, got {error.strerror or error}{where}. "
            "Name a place with space and permission."
        ) from None


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Give a new hidden folder beside `path`, and rename it to `path` when the block ends well.

    One process writes. Missing parents are made; on any failure the hidden folder is removed.

    Args:
        path: A directory that does not exist yet, or is empty.

    Raises:
        StoreError: If there is something at `path` already, or the disk refuses.
    """
    path = Path(path)
    refuse_occupied(path)
    absolute = path.absolute()
    partial = absolute.with_name(f".{absolute.name}.partial-{secrets.token_hex(8)}")
    with disk_errors(path, "a folder"):
        try:
            partial.mkdir(parents=True)
            yield partial
            refuse_occupied(path)
            partial.rename(absolute)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
