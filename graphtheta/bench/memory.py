"""Memory of a process, as the kernel counts it.

Never imports torch, whose libraries would be counted.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["anonymous_bytes", "peak_bytes", "release_memory", "reset_peak", "resident_bytes"]


def release_memory() -> None:
    """Return memory that this process has freed to the system, if the allocator can."""
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def resident_bytes(pid: int | None = None) -> int:
    """Return the resident memory of a process. If None, of this one."""
    return _status("VmRSS", pid)


def anonymous_bytes(pid: int | None = None) -> int:
    """Return the resident memory that is not backed by files, which the kernel cannot drop."""
    return _status("RssAnon", pid)


def peak_bytes(pid: int | None = None) -> int:
    """Return the largest resident memory since the start or the last `reset_peak`."""
    return _status("VmHWM", pid)


def reset_peak(pid: int | None = None) -> None:
    """Reset the peak to the memory that is resident now."""
    Path(f"/proc/{pid or os.getpid()}/clear_refs").write_text("5")


def _status(name: str, pid: int | None) -> int:
    path = Path(f"/proc/{pid or os.getpid()}/status")
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path}: no {name}")
