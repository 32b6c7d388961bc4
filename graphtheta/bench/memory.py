"""Memory of this process, from the kernel's own books.

Never imports torch, whose libraries would count.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["forget_peak", "peak_bytes", "resident_bytes"]

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Return what is resident now, after what was freed is given back to the system."""
    if hasattr(trim := ctypes.CDLL(None), "malloc_trim"):
        trim.malloc_trim(0)
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the most that was resident since the start, or since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak start anew from what is resident now."""
    Path(f"/proc/{os.getpid()}/clear_refs").write_text("5")


def _status(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS}: no {name}")
