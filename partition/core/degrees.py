"""Node degrees, counted from a stream of edges."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream, chunk_ranges

__all__ = ["count_degrees", "count_keys"]


def count_degrees(
    stream: EdgeStream, resources: Resources, kind: Literal["total", "in"] = "total"
) -> NDArray[np.int64]:
    """Return the in-degree or the total degree of every node, on every rank; collective.

    A self-loop counts twice in the total degree. Reads 8 or 16 bytes per edge once, writes 4 bytes
    at random for each endpoint. Memory: 4 bytes per node for each thread (8 from 2^31 edges on),
    and 8 for the sum.

    Communication:
        One all-reduce of 8 N bytes if there are several ranks.

    Shape:
        Returns (N,) int64.
    """
    threads = resources.threads
    dtype = np.uint32 if 2 * stream.num_edges < 1 << 32 else np.int64  # uint32 is faster
    first, last = resources.share(0, stream.num_edges)
    with resources.progress.phase("count degrees", last - first, "edges") as advance:

        def count(thread: int) -> NDArray[Any]:
            begin, end = (first + (last - first) * (thread + i) // threads for i in (0, 1))
            count_N = np.zeros(stream.num_nodes, dtype)
            for start, stop in chunk_ranges(begin, end):
                src, dst = stream.read(start, stop)
                count_keys(dst, count_N)
                if kind == "total":
                    count_keys(src, count_N)
                advance(stop - start)
            return count_N

        counts = resources.map(count, range(threads))
    degree_N = counts[0].astype(np.int64)
    for count_N in counts[1:]:
        degree_N += count_N
    resources.comm.all_reduce(degree_N, "sum", stage="count degrees")
    return degree_N


@jit
def count_keys(keys: NDArray[Any], counts: NDArray[Any]) -> None:
    """Add 1 to the count of a key each time it occurs."""
    for i in range(np.uint64(keys.shape[0])):
        counts[np.uint64(keys[i])] += 1
