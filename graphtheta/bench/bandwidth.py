"""Memory bandwidth of this machine, the upper bound of kernels that are limited by memory."""

from __future__ import annotations

import time

import torch

__all__ = ["TRIAD_BYTES", "triad_seconds"]

_FLOATS = 1 << 25  # 128 MiB per array, more than the caches hold
TRIAD_BYTES = 3 * 4 * _FLOATS


def triad_seconds(runs: int) -> list[float]:
    """Return the seconds of each run of the STREAM triad, a = b + s c, which moves `TRIAD_BYTES`.

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
