"""Degrees of all nodes, counted from a stream of edges."""

from __future__ import annotations

from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream, chunk_ranges

__all__ = ["count_degrees", "count_keys"]

_UINT32_LIMIT = 2**32


def count_degrees(
    stream: EdgeStream, resources: Resources, ends: Literal["both", "in", "out"] = "both"
) -> NDArray[np.int64]:
    """Return how many edges start or end (or both) at each node, on every rank; collective.

    A self-loop counts twice in "both". Reads 8 or 16 bytes an edge once, writes 4 bytes at random
    for each end. Memory: 4 bytes a node for each thread (8 from 2^31 edges on), and 8 for the sum.

    Communication:
        One all-reduce of 8 N bytes when there are several ranks.

    Shape:
        Returns (N,) int64.
    """
    threads = resources.threads
    kind = (
        np.uint32 if 2 * stream.num_edges < _UINT32_LIMIT else np.int64
    )  # the smaller, the faster
    first, last = resources.share(0, stream.num_edges)
    with resources.progress.phase("count degrees", last - first, "edges") as advance:

        def count(thread: int) -> NDArray[Any]:
            begin, end = (first + (last - first) * (thread + i) // threads for i in (0, 1))
            count_N = np.zeros(stream.num_nodes, kind)
            for start, stop in chunk_ranges(begin, end):
                src, dst = stream.read(start, stop)
                if ends != "in":
                    count_keys(src, count_N)
                if ends != "out":
                    count_keys(dst, count_N)
                advance(stop - start)
            return count_N

        counts = resources.map(count, range(threads))
    degree_N = counts[0].astype(np.int64)
    for count_N in counts[1:]:
        degree_N += count_N
    resources.comm.all_reduce(degree_N, "sum", stage="count degrees")
    return degree_N


@numba.njit(cache=True, nogil=True, boundscheck=False)
def count_keys(keys: NDArray[Any], counts: NDArray[Any]) -> None:  # pragma: no cover - compiled
    """Add 1 to the count of each key, repeated ones as often as they come."""
    for i in range(np.uint64(keys.shape[0])):
        counts[np.uint64(keys[i])] += 1
