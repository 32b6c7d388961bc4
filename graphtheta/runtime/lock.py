"""Exclusive locks between processes, which the kernel releases when a process ends, also by a kill.

Never imports torch.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["FileLock"]

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class FileLock:
    """Exclusive lock of a file that holds nothing else; a context manager.

    The file is created with its folder, and is removed when the lock is released. A file that a
    killed process left is not locked.

    Args:
        path: The file.
        wait: Whether to wait if the lock is held.

    Attributes:
        held: Whether the lock is held; False on a file system without locks.

    Raises:
        BlockingIOError: If the lock is held elsewhere, in this process or in another, and `wait` is
            False.
        OSError: If the file cannot be created.
    """

    def __init__(self, path: Path, *, wait: bool = False) -> None:
        self._path = path
        file, self.held = self._lock(wait)
        while not _is_file_at(path, file):  # the holder before us has removed it
            file.close()
            file, self.held = self._lock(wait)
        self._file = file

    def _lock(self, wait: bool) -> tuple[BinaryIO, bool]:
        file = self._open()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return file, True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return file, False
            file.close()
            raise

    def _open(self) -> BinaryIO:
        for _ in range(10):  # the holder before us may be removing the folder
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                return self._path.open("ab")
        return self._path.open("ab")

    def release(self) -> None:
        """Remove the file and release the lock; nothing the second time.

        If the folder was removed meanwhile, the file may be that of the next holder, and stays.
        """
        if not self._file.closed:
            try:
                with suppress(OSError):
                    if _is_file_at(self._path, self._file):
                        self._path.unlink()
            finally:
                self._file.close()

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _is_file_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
