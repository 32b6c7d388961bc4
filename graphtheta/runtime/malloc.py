"""Settings of the C allocator and of torch's huge pages; `graphtheta.runtime.tuning` applies them.

By default, glibc takes large blocks from a heap that fragments: a step that needs 110 MB may come
to hold 300 MB. With the settings here, each block of 4 MiB or more is a mapping of its own, which
goes back to the kernel when it is freed. Such a block is on pages of 2 MiB where the kernel has
them, which takes one page fault instead of 512. Smaller blocks are kept for the next step.

Never imports torch.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["chosen_by", "is_left_to_system", "request_huge_pages", "set_malloc"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_NEVER = -1
_GROWTH = 1 << 20  # least bytes by which the heap grows
_LARGE = 4 << 20


def request_huge_pages() -> str:
    """Make torch request huge pages for large tensors, by an environment variable.

    torch reads the variable when it allocates its first tensor. A value set by the user stays.

    Returns:
        The value of THP_MEM_ALLOC_ENABLE.
    """
    return os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def set_malloc(mapped: int = _LARGE, arenas: int | None = None) -> bool:
    """Set for the whole process which blocks glibc maps and how much freed memory it keeps.

    Args:
        mapped: Bytes from which on a block is a mapping of its own, at most 32 MiB.
        arenas: Number of heaps that the threads share. Each heap keeps the memory it once held. If
            None, glibc's default of eight per core.

    Returns:
        Whether the allocator took the settings; False if it is not glibc.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    settings = {_M_MMAP_THRESHOLD: mapped, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: _GROWTH}
    if arenas is not None:
        settings[_M_ARENA_MAX] = arenas
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(settings[name])) == 1 for name in settings)


def is_left_to_system() -> bool:
    """Return whether `GRAPHTHETA_MALLOC=system` asks for memory without any of our settings."""
    return os.environ.get("GRAPHTHETA_MALLOC") == "system"


def chosen_by() -> str:
    """Return the environment variable by which the user configures the allocator, or "".

    It is GRAPHTHETA_MALLOC=system, LD_PRELOAD (another allocator), GLIBC_TUNABLES or a variable of
    glibc such as MALLOC_ARENA_MAX_.
    """
    if is_left_to_system():
        return "GRAPHTHETA_MALLOC=system"
    names = sorted(os.environ)
    of_glibc = [name for name in names if name.startswith("MALLOC_") and name.endswith("_")]
    return next((n for n in ("GLIBC_TUNABLES", "LD_PRELOAD", *of_glibc) if n in os.environ), "")
