"""Shared memory that killed MPI jobs left behind.

MPICH removes its files in `/dev/shm` when a job ends. If a rank is killed, they stay, and take some
megabytes of memory each, until the next job removes them.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["remove_mpi_leftovers"]

_SHARED_MEMORY = Path("/dev/shm")
_PATTERN = "mpich_shm_*"
_YOUNG_S = 5.0  # a process may have made a younger file and not mapped it yet
_INITIAL_NAMESPACE = "pid:[4026531836]"  # a constant of Linux


def remove_mpi_leftovers(folder: Path = _SHARED_MEMORY) -> int:
    """Remove MPICH's files of this user that no process has mapped.

    In a container the processes that use a file may be invisible, so nothing is removed there.

    Args:
        folder: Folder of the files.

    Returns:
        Number of files removed.
    """
    removed = 0
    with suppress(OSError):
        if os.readlink("/proc/self/ns/pid") != _INITIAL_NAMESPACE:
            return 0
        limit = time.time() - _YOUNG_S
        files = [(path, path.stat()) for path in folder.glob(_PATTERN)]
        ours = [(p, s.st_ino) for p, s in files if s.st_uid == os.getuid() and s.st_mtime < limit]
        mapped = _mapped_inodes() if ours else set()
        for path, inode in ours:
            if inode not in mapped:
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def _mapped_inodes() -> set[int]:
    """Return the inodes of MPICH's files that processes of this user have mapped.

    A process that hides its maps from its own user is no rank of a job.
    """
    mapped = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # ended, or hidden
            if process.stat().st_uid == os.getuid():
                for line in (process / "maps").read_text(errors="replace").splitlines():
                    if "mpich_shm_" in line:
                        mapped.add(int(line.split()[4]))
    return mapped
