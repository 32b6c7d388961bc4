"""The C allocator's settings for training: hold what lives, and do not pay for each page of it.

Left alone, glibc takes large blocks from a heap that it cuts in pieces, so that a step that needs
110 MB comes to hold 300, or maps them page by page, which costs more than what is computed on them.
Here every block of 4 MiB or more is a mapping of its own, which goes back to the kernel when it
is freed, on pages of 2 MiB where the kernel has them: one fault each instead of 512. Smaller
blocks are kept for the next step.

Never imports torch.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["ask_for_huge_pages", "is_left_to_system", "tune_allocator"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_NEVER = -1
_GROWTH = 1 << 20  # bytes by which the heap grows at least
_LARGE = 4 << 20


def ask_for_huge_pages() -> None:
    """Let torch ask the kernel for huge pages; it looks when it makes its first tensor.

    Nothing is changed where somebody has chosen, as for `tune_allocator`.
    """
    if not _has_been_chosen():
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def tune_allocator(mapped: int = _LARGE, arenas: int | None = None) -> bool:
    """Tell glibc which blocks to map and which to keep, for the whole process, from now on.

    Nothing is changed where another allocator is preloaded, or where `GLIBC_TUNABLES`, a
    `MALLOC_...` variable or `GRAPHTHETA_MALLOC=system` says that somebody has chosen.

    Args:
        mapped: Bytes of the smallest block that is a mapping of its own, at most 32 MiB.
        arenas: Heaps that threads share: each keeps what it once held. None: eight a core.

    Returns:
        Whether the allocator was told.
    """
    if _has_been_chosen() or sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    settings = {_M_MMAP_THRESHOLD: mapped, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: _GROWTH}
    if arenas is not None:
        settings[_M_ARENA_MAX] = arenas
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(settings[name])) == 1 for name in settings)


def is_left_to_system() -> bool:
    """Whether `GRAPHTHETA_MALLOC=system` asks for memory as it comes."""
    return os.environ.get("GRAPHTHETA_MALLOC") == "system"


def _has_been_chosen() -> bool:
    return is_left_to_system() or any(
        name in ("GLIBC_TUNABLES", "LD_PRELOAD") or (name.startswith("MALLOC_") and name[-1] == "_")
        for name in os.environ
    )
