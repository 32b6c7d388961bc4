"""The speed at which this machine streams memory: what kernels bound by memory are held against."""

from __future__ import annotations

import time

import torch

__all__ = ["TRIAD_BYTES", "triad_seconds"]

_FLOATS = 1 << 25  # an array of 128 MiB: three exceed any cache
TRIAD_BYTES = 3 * 4 * _FLOATS


def triad_seconds(runs: int) -> list[float]:
    """Time a = b + s c over arrays of float32 that no cache holds, `TRIAD_BYTES` a run.

    Source: McCalpin, "Memory bandwidth and machine balance in current high performance computers",
    IEEE TCCA Newsletter, 1995.
    """
    a, b, c = (torch.full((_FLOATS,), value) for value in (0.0, 1.0, 2.0))
    found = []
    for run in range(runs + 1):
        start = time.perf_counter()
        torch.add(b, c, alpha=3.0, out=a)
        if run:
            found.append(time.perf_counter() - start)
    return found
