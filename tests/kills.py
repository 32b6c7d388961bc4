"""Stop a command at its k-th file operation, and leave the files as a kill there would.

From that operation on, every operation in the watched folder raises `Killed`, also those of
handlers and other threads that would clean up. So no process has to be started and killed.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Killed", "Watch", "refuse_locks", "watch_files"]

_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link")
_IGNORED = "/events/"  # TensorBoard writes in a thread of its own, to a new file in each run


class Killed(BaseException):
    """Raised where the process would have been killed."""


@dataclass
class Watch:
    """File operations in a folder.

    Attributes:
        folder: The folder.
        kill_at: Number of the operation to stop at, from 1. If 0, operations are only counted.
        torn: Whether to stop in the middle of an operation that opens a file to write.
        count: Number of operations so far.
        killed: Whether the operation was reached.
    """

    folder: Path
    kill_at: int = 0
    torn: bool = False
    count: int = 0
    killed: bool = False

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        path = _changed(event, args)
        if path is None or not path.startswith(f"{self.folder}/") or _IGNORED in path:
            return
        self.count += 1
        if self.killed:
            raise Killed
        if self.count == self.kill_at:
            if self.torn and event == "open":
                with open(path, "ab" if args[2] & os.O_APPEND else "wb") as file:
                    file.write(b'{"ep')
            self.killed = True
            raise Killed


def refuse_locks(patch: pytest.MonkeyPatch, code: int) -> None:
    """Let every lock fail with an error code, as on a file system without locks."""

    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    patch.setattr(fcntl, "flock", flock)


_watch: Watch | None = None
_has_hook = False
_lock = threading.Lock()  # threads count together, and none gets past a kill
_own = threading.local()  # whether this thread's operations are those of the watch itself


@contextmanager
def watch_files(folder: Path, kill_at: int = 0, *, torn: bool = False) -> Iterator[Watch]:
    """Watch the file operations in a folder within a block."""
    global _watch, _has_hook
    if not _has_hook:
        sys.addaudithook(_hook)  # it stays until the process ends
        _has_hook = True
    _watch = Watch(folder, kill_at, torn)
    try:
        yield _watch
    finally:
        _watch = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if (event == "open" or event in _CHANGES) and not getattr(_own, "active", False):
        watch = _watch
        if watch is not None:
            _own.active = True
            try:
                with _lock:
                    watch.see(event, args)
            finally:
                _own.active = False


def _changed(event: str, args: tuple[Any, ...]) -> str | None:
    """Return the absolute path that an operation changes, or None if it changes none."""
    if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        return None
    if not isinstance(args[0], str | os.PathLike):
        return None
    folder = next((a for a in args[1:] if isinstance(a, int) and a > 2), None)
    if event in ("os.remove", "os.rmdir") and folder is not None and args[-1] == folder:
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), args[0])  # dir_fd
    return os.path.abspath(args[0])
