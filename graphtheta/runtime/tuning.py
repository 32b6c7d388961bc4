"""Process-wide settings for speed: one function that applies them, one variable that forbids them.

The command line calls `tune`. A program that imports GraphTheta keeps its settings unless it calls
`tune` itself: importing `graphtheta`, opening a shard and training change nothing of the process.

Never imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graphtheta.runtime.malloc import chosen_by, request_huge_pages, set_malloc
from graphtheta.runtime.threads import set_threads

__all__ = ["Setting", "is_tuning_off", "tune"]

_KERNEL_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ALLOCATORS: Mapping[str, Mapping[str, int]] = {
    "training": {},
    # Memory of answers below 32 MiB is reused: fresh pages would take a third of the fetching time.
    "client": {"mapped": 32 << 20},
    # Answers are large buffers, allocated by whichever thread is free. With a heap for each thread,
    # every heap would grow to the size of the largest answer.
    "server": {"arenas": 2},
}


@dataclass(frozen=True, slots=True)
class Setting:
    """Report on one setting.

    Attributes:
        topic: Name of the setting.
        applied: Whether it is in effect.
        detail: What was set, or why it was not.
    """

    topic: str
    applied: bool
    detail: str


def is_tuning_off() -> bool:
    """Return whether `GRAPHTHETA_TUNING=off` forbids every process-wide setting."""
    return os.environ.get("GRAPHTHETA_TUNING") == "off"


def tune(
    *,
    allocator: Literal["training", "client", "server"] | None = "training",
    threads: int | None = None,
) -> list[Setting]:
    """Apply process-wide settings that make training faster.

    Call it once, before torch allocates its first tensor. It sets

    - THP_MEM_ALLOC_ENABLE=1 in the environment, so that torch requests huge pages;
    - the C allocator (glibc), so that freed blocks of 4 MiB or more go back to the kernel and
      smaller ones are kept;
    - the number of threads of torch and Numba, and OMP_NUM_THREADS, if `threads` is given.

    The first two are not changed if the user has configured the allocator, by
    GRAPHTHETA_MALLOC=system, LD_PRELOAD, GLIBC_TUNABLES or a variable of glibc such as
    MALLOC_ARENA_MAX_. `GRAPHTHETA_TUNING=off` turns all of it off.

    Args:
        allocator: Use of the process that the C allocator is set for: training; fetching from a
            graph server, which keeps blocks of up to 32 MiB; or serving, which shares two heaps
            between all threads and makes Arrow use the C allocator. If None, do not set it.
        threads: Number of threads. If None, do not set it.

    Returns:
        What was set, and what was not and why.

    Raises:
        ConfigError: If `threads` is less than 1.
    """
    settings = [_tune_huge_pages()]
    if allocator is not None:
        settings.append(_tune_allocator(allocator))
    if threads is not None:
        settings.append(_tune_threads(threads))
    return settings


def _tune_huge_pages() -> Setting:
    topic, reason = "huge pages", _reason_for_memory()
    if reason:
        return Setting(topic, False, reason)
    value = request_huge_pages()
    kernel = _kernel_huge_pages()
    if value != "1" or kernel == "never":
        why = f"{_KERNEL_HUGE_PAGES} is never" if value == "1" else "it was set before"
        return Setting(topic, False, f"THP_MEM_ALLOC_ENABLE={value}, but {why}")
    return Setting(topic, True, f"THP_MEM_ALLOC_ENABLE={value}")


def _tune_allocator(use: str) -> Setting:
    topic, reason = "allocator", _reason_for_memory()
    if reason:
        return Setting(topic, False, reason)
    if not set_malloc(**_ALLOCATORS[use]):
        return Setting(topic, False, "the C library is not glibc")
    if use == "server":
        import pyarrow as pa

        pa.set_memory_pool(pa.system_memory_pool())
    return Setting(topic, True, f"set for {use}")


def _tune_threads(threads: int) -> Setting:
    if is_tuning_off():
        return Setting("threads", False, "GRAPHTHETA_TUNING=off")
    set_threads(threads)
    return Setting("threads", True, f"{threads} for torch and Numba each")


def _reason_for_memory() -> str:
    """Return why the memory of this process is not to be tuned, or ""."""
    if is_tuning_off():
        return "GRAPHTHETA_TUNING=off"
    name = chosen_by()
    return f"{name} is set" if name else ""


def _kernel_huge_pages(path: Path = _KERNEL_HUGE_PAGES) -> str:
    """Return "always", "madvise" or "never", or "" if it is unknown."""
    try:
        return path.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return ""
