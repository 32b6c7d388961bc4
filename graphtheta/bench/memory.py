"""Memory of a process, from the kernel's own books.

Never imports torch, whose libraries would count.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["anonymous_bytes", "forget_peak", "peak_bytes", "release_memory", "resident_bytes"]


def release_memory() -> None:
    """Give what this process has freed back to the system, where the allocator can."""
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def resident_bytes(pid: int | None = None) -> int:
    """Return what is resident now of a process; None: of this one."""
    return _status("VmRSS", pid)


def anonymous_bytes(pid: int | None = None) -> int:
    """Return what is resident now and in no file, which the system cannot take back."""
    return _status("RssAnon", pid)


def peak_bytes(pid: int | None = None) -> int:
    """Return the most that was resident since the start, or since `forget_peak`."""
    return _status("VmHWM", pid)


def forget_peak(pid: int | None = None) -> None:
    """Let the peak start anew from what is resident now."""
    Path(f"/proc/{pid or os.getpid()}/clear_refs").write_text("5")


def _status(name: str, pid: int | None) -> int:
    path = Path(f"/proc/{pid or os.getpid()}/status")
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path}: no {name}")
