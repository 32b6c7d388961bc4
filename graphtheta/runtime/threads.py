"""Number of threads of a rank, for torch and Numba.

Numba's default threading layer aborts the process if two threads run parallel kernels at the same
time. TBB does not, but Numba finds it only if `libtbb` is loaded before the first kernel, so every
function here that uses Numba loads it first.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import ConfigError

__all__ = [
    "core_mask",
    "cpu_quota",
    "fair_threads",
    "load_tbb",
    "numba_threads",
    "set_numba_threads",
    "set_threads",
    "thread_share",
]

_CORES = 4096  # more than any host has
_CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")


def core_mask() -> NDArray[np.int32]:
    """Return 1 for each core that this process may run on, and 0 for the others.

    Shape:
        Returns (4096,) int32, the same length on every host.
    """
    mask = np.zeros(_CORES, np.int32)
    if hasattr(os, "sched_getaffinity"):
        mask[[core % _CORES for core in os.sched_getaffinity(0)]] = 1
    else:
        mask[: os.cpu_count() or 1] = 1
    return mask


def cpu_quota(path: Path = _CGROUP_CPU) -> float | None:
    """Return the number of cores that the control group allows, or None if it has no limit."""
    try:
        quota, period = path.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no control group, or "max"
        return None


def thread_share(mask: NDArray[np.int32], users: NDArray[np.int32], host_ranks: int) -> float:
    """Return the share of the host's cores that a rank may use, as a fraction of cores.

    A core that n ranks may run on counts 1/n for each of them. This is right for bound ranks, which
    have different masks, and for unbound ones, which have the same.

    Args:
        mask: `core_mask()` of this rank.
        users: Number of ranks on this host that may run on each core.
        host_ranks: Number of ranks on this host.
    """
    share = float((mask / np.maximum(users, 1)).sum())
    quota = cpu_quota()
    return share if quota is None else min(share, quota / host_ranks)


def fair_threads(mask: NDArray[np.int32], users: NDArray[np.int32], host_ranks: int) -> int:
    """Return the number of threads that a rank should use, at least 1.

    OMP_NUM_THREADS and SLURM_CPUS_PER_TASK take precedence over `thread_share`, in this order.

    Raises:
        ConfigError: If one of them is not a whole number.
    """
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        text = os.environ.get(name, "").split(",")[0]  # OpenMP allows a list, by nesting level
        if text:
            if not text.isdigit() or int(text) < 1:
                raise ConfigError(f"{name}: expected a whole number >= 1, got {text!r}. Unset it.")
            return int(text)
    return max(1, int(thread_share(mask, users, host_ranks) + 1e-6))


@functools.cache
def load_tbb() -> bool:
    """Load the TBB library so that Numba finds it, and return whether it exists."""
    for name in (f"{sys.prefix}/lib/libtbb.so.12", "libtbb.so.12"):
        try:
            ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
            return True
        except OSError:
            continue
    return False


def numba_threads() -> int:
    """Return the number of threads that Numba kernels called from this thread use."""
    load_tbb()
    import numba  # takes half a second, which only ranks that compute need

    return int(numba.get_num_threads())


def set_numba_threads(threads: int) -> None:
    """Set the number of threads of Numba kernels called from this thread, up to what Numba has."""
    load_tbb()
    import numba

    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # set at run time
    numba.set_num_threads(max(1, min(threads, most)))


def set_threads(threads: int) -> None:
    """Set the number of threads of torch and of Numba in this process, and OMP_NUM_THREADS.

    This does not import torch, which reads OMP_NUM_THREADS when it is imported later.
    """
    if threads < 1:
        raise ConfigError(f"threads: expected a whole number >= 1, got {threads}.")
    set_numba_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
