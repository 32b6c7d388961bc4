"""Files and folders that are written under a temporary name and renamed when complete.

The temporary name is hidden and in the same folder, so that the rename stays on one file system
and is atomic. It depends on the final name only: what a killed process left is taken over by the
next one that writes the same path. Before the rename, content is written through to the disk, so
that a crash of the machine leaves no empty file under the final name. Never imports torch.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphtheta.errors import GraphThetaError, StoreError
from graphtheta.runtime.lock import FileLock

__all__ = [
    "atomic_file",
    "atomic_folder",
    "clear_folder",
    "disk_errors",
    "lock_folder",
    "partial_path",
    "refuse_occupied",
    "remove_leftovers",
    "rename_durably",
    "sync",
    "sync_all",
]

_log = logging.getLogger(__name__)

_LOCK = "lock"
_CUT_OFF = re.compile("requested and .* written")  # by numpy's tofile, which has no error number
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


def partial_path(path: Path) -> Path:
    """Return the absolute path `.NAME.partial` in the folder of `path`."""
    path = path.absolute()
    return path.with_name(f".{path.name}.partial")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write a file to, and rename it to `path` when the block succeeds.

    An existing file is replaced. If the block raises, the temporary file is removed and `path` is
    left as it was. Two processes may not write the same path at the same time.
    """
    path = path.absolute()
    partial = partial_path(path)
    try:
        yield partial
        rename_durably(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


@contextmanager
def atomic_folder(
    path: Path | str, what: str = "a folder", error: type[GraphThetaError] = StoreError
) -> Iterator[Path]:
    """Yield a new temporary folder, and rename it to `path` when the block succeeds.

    Missing parents are created. The temporary folder is in `partial_path(path)`, which is locked,
    and removed at the end.

    Args:
        path: A directory that does not exist yet, or is empty.
        what: Description of what is written.
        error: Type of the exceptions.

    Raises:
        StoreError, or the given `error`: If `path` is occupied, or another process writes it, or
            the block raises an OSError.
    """
    path = Path(path)
    refuse_occupied(path, error)
    absolute = path.absolute()
    place = partial_path(absolute)
    new = place / "new"
    with disk_errors(path, what, error), lock_folder(place, path, error):
        try:
            clear_folder(place)  # of a killed process
            new.mkdir()
            yield new
            refuse_occupied(path, error)
            sync_all(new)
            rename_durably(new, absolute)
        except BaseException:
            # Rename first: another rank that still creates files under the old name then fails,
            # instead of adding to the folder that is being removed.
            with suppress(OSError):
                new.rename(place / "removed")
            raise
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def lock_folder(
    folder: Path, path: Path, error: type[GraphThetaError] = StoreError
) -> Iterator[None]:
    """Lock a folder, which is created if missing, with a file `lock` in it.

    A folder that it has created is removed if it is empty at the end.

    On a file system without locks a warning is logged instead.

    Args:
        folder: The folder.
        path: Path that the user has given for what is written there, for messages.
        error: Type of the exception.

    Raises:
        StoreError, or the given `error`: If another process has locked the folder.
        OSError: If the folder cannot be created.
    """
    is_new = not folder.exists()
    try:
        try:
            lock = FileLock(folder / _LOCK)
        except BlockingIOError:
            raise error(
                f"{path}: expected no other run that writes it, got one in progress (it holds "
                f"{folder / _LOCK}). Wait for it to finish, or choose another path."
            ) from None
        with lock:
            if not lock.held:
                _log.warning(
                    "%s: its file system has no locks. Start no second run that writes the same.",
                    path,
                )
            yield
    finally:
        if is_new:  # nothing could be written to it, on a full disk for example
            with suppress(OSError):
                folder.rmdir()


def clear_folder(folder: Path) -> None:
    """Remove everything in a folder, except its lock."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` that a killed process left, but none that are in use."""
    place = partial_path(path)
    if place.is_dir():
        with suppress(StoreError, OSError), lock_folder(place, path):
            shutil.rmtree(place)


def rename_durably(source: Path, target: Path) -> None:
    """Rename a file or folder so that it is under its new name even after a crash of the machine.

    A file is written through to the disk first; for a folder, the caller does that.
    """
    if source.is_file():
        sync(source)
    os.replace(source, target)
    sync(target.parent)


def sync_all(folder: Path) -> None:
    """Write a folder and all its files through to the disk."""
    for directory, _, files in os.walk(folder):
        for name in files:
            sync(Path(directory, name))
        sync(Path(directory))


def sync(path: Path) -> None:
    """Write a file, or the entries of a folder, through to the disk.

    Raises:
        OSError: If the disk is full, or broken.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:  # the file system cannot, for a folder for example
            raise
    finally:
        os.close(handle)


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
        if caught.errno is None and _CUT_OFF.search(reason):
            reason = f"no space left on device ({reason})"
        where = f" at {caught.filename}" if caught.filename else ""
        raise error(
            f"{path}: expected to write {what}, got {reason}{where}. "
            "Choose a path with enough space and write permission."
        ) from None


def refuse_occupied(path: Path, error: type[GraphThetaError] = StoreError) -> None:
    """Refuse a path where something exists, except an empty directory.

    If the process that made it was killed while it removed its temporary files, they are removed.

    Raises:
        StoreError, or the given `error`: If the path is a file or a directory that is not empty.
    """
    if path.is_mount():
        raise error(
            f"{path}: expected a new path or an empty directory, got a mount point, which cannot "
            "be renamed. Choose a folder in it."
        )
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        remove_leftovers(path)
        raise error(
            f"{path}: expected a new path or an empty directory, got "
            f"{'a directory that is not empty' if path.is_dir() else 'a file'}. "
            "Remove it, or choose another path."
        )
