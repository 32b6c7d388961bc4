"""Files and folders that are written under a temporary name and renamed when complete.

The temporary name is hidden and in the same folder, so that the rename stays on one file system
and is atomic. Never imports torch.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphtheta.errors import GraphThetaError, StoreError

__all__ = ["atomic_file", "atomic_folder", "disk_errors", "partial_path", "refuse_occupied"]


def partial_path(path: Path, token: str = "") -> Path:
    """Return the absolute path `.NAME.partial-TOKEN` in the folder of `path`.

    Args:
        path: The final path.
        token: Distinguishes concurrent writers of the same path. Without a token the name is always
            the same, so that a later run finds the files of an interrupted one.
    """
    path = path.absolute()
    return path.with_name(f".{path.name}.partial{token and '-'}{token}")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write a file to, and rename it to `path` when the block succeeds.

    An existing file is replaced. If the block raises, the temporary file is removed and `path` is
    left as it was.
    """
    path = path.absolute()
    partial = partial_path(path, secrets.token_hex(8))
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a new temporary folder, and rename it to `path` when the block succeeds.

    Missing parents are created. If the block raises, the temporary folder is removed.

    Args:
        path: A directory that does not exist yet, or is empty.

    Raises:
        StoreError: If `path` is occupied, or the block raises an OSError.
    """
    path = Path(path)
    refuse_occupied(path)
    absolute = path.absolute()
    partial = partial_path(absolute, secrets.token_hex(8))
    with disk_errors(path, "a folder"):
        try:
            partial.mkdir(parents=True)
            yield partial
            refuse_occupied(path)
            partial.rename(absolute)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def disk_errors(
    path: Path | str, what: str, error: type[GraphThetaError] = StoreError
) -> Iterator[None]:
    """Convert an OSError of the block into an exception with a message of one line.

    Args:
        path: Path that the block writes to.
        what: Description of what it writes.
        error: Type of the new exception.

    Raises:
        StoreError, or the given `error`: If the block raises an OSError.
    """
    try:
        yield
    except OSError as caught:
        reason = (caught.strerror or str(caught)).splitlines()[0]
        where = f" at {caught.filename}" if caught.filename else ""
        raise error(
            f"{path}: expected to write {what}, got {reason}{where}. "
            "Choose a path with enough space and write permission."
        ) from None


def refuse_occupied(path: Path, error: type[GraphThetaError] = StoreError) -> None:
    """Refuse a path where something exists, except an empty directory.

    Raises:
        StoreError, or the given `error`: If the path is a file or a directory that is not empty.
    """
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise error(
            f"{path}: expected a new path or an empty directory, got "
            f"{'a directory that is not empty' if path.is_dir() else 'a file'}. "
            "Remove it, or choose another path."
        )
