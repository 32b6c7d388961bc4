"""Temporary folders that the next run of the same user removes if their process was killed.

Never imports torch.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphtheta.runtime.atomic import disk_errors
from graphtheta.runtime.lock import FileLock

__all__ = ["scratch_folder"]


@contextmanager
def scratch_folder(parent: Path | str | None = None) -> Iterator[Path]:
    """Yield a new folder for temporary files, and delete it afterwards.

    A locked file next to it shows that it is in use. Folders of killed processes on this host are
    deleted first.

    Args:
        parent: Folder to make it in. If None, that of `tempfile`: $TMPDIR, or /tmp.

    Raises:
        StoreError: If it cannot be made, or the block raises an OSError.
    """
    with disk_errors(parent or "TMPDIR", "temporary files"):
        parent = Path(parent or tempfile.gettempdir())
        prefix = f"graphtheta-{platform.node()}-"
        for old in parent.glob(f"{prefix}*.lock"):
            _remove_if_unused(old)
        folder, lock = _locked(parent, prefix)
        with lock:
            try:
                folder.mkdir(mode=0o700)
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def _locked(parent: Path, prefix: str) -> tuple[Path, FileLock]:
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(8)}"
        with suppress(BlockingIOError):  # another process takes the new file for unused
            return folder, FileLock(_lock_of(folder))


def _remove_if_unused(lock_file: Path) -> None:
    with suppress(OSError):
        if lock_file.lstat().st_uid == os.getuid():
            with FileLock(lock_file) as lock:
                if lock.held:
                    shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
