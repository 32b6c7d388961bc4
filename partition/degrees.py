"""Degrees of all nodes, counted from a stream of edges."""

from __future__ import annotations

from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.resources import Resources
from graphtheta.partition.stream import EdgeStream, blocks

__all__ = ["count_degrees", "count_keys"]


def count_degrees(
    stream: EdgeStream, resources: Resources, ends: Literal["both", "in", "out"] = "both"
) -> NDArray[np.int64]:
    """Return how many edges start or end (or both) at each node, on every rank; collective.

    A self-loop counts twice in "both". Reads 8 or 16 bytes an edge once, writes 8 bytes at random
    for each end. Memory: 8 bytes a node for each thread.

    Communication:
        One all-reduce of 8 N bytes when there are several ranks.

    Shape:
        Returns (N,) int64.
    """
    threads = resources.threads
    first, last = resources.share(0, stream.num_edges)
    with resources.progress.phase("count degrees", last - first, "edges") as advance:

        def count(thread: int) -> NDArray[np.int64]:
            begin, end = (first + (last - first) * (thread + i) // threads for i in (0, 1))
            degree_N = np.zeros(stream.num_nodes, np.int64)
            for start, stop in blocks(begin, end):
                src, dst = stream.read(start, stop)
                if ends != "in":
                    count_keys(src, degree_N)
                if ends != "out":
                    count_keys(dst, degree_N)
                advance(stop - start)
            return degree_N

        degree_N, *others = resources.map(count, range(threads))
    for other in others:
        degree_N += other
    resources.comm.all_reduce(degree_N, "sum", stage="count degrees")
    return degree_N


@numba.njit(cache=True, nogil=True, boundscheck=False)
def count_keys(keys: NDArray[Any], counts: NDArray[Any]) -> None:  # pragma: no cover - compiled
    """Add 1 to the count of each key, repeated ones as often as they come."""
    for i in range(np.uint64(keys.shape[0])):
        counts[np.uint64(keys[i])] += 1
