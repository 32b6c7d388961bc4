"""The C allocator's settings for training.

By default glibc gives every tensor of more than a few megabytes fresh pages from the kernel and
returns them when it is freed; the next step then pays for the same pages again, one fault each
4 KiB. On graphs of a million edges that is more than half of a step. Told to keep what was freed,
a step takes its buffers from the last one's.

Never imports torch.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = -1
_GROWTH = 1 << 20  # bytes by which the heap grows at least


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next tensor; once is enough, for the whole process.

    Nothing is changed where another allocator is preloaded, or where `GLIBC_TUNABLES`, a
    `MALLOC_...` variable or `GRAPHTHETA_MALLOC=system` says that somebody has chosen.

    Returns:
        Whether the allocator was told.
    """
    chosen = os.environ.get("GRAPHTHETA_MALLOC") == "system" or any(
        name in ("GLIBC_TUNABLES", "LD_PRELOAD") or (name.startswith("MALLOC_") and name[-1] == "_")
        for name in os.environ
    )
    if chosen or sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROWTH))
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)
