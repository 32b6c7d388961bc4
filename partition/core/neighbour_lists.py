"""Neighbour lists of an undirected graph in memory (CSR), built from a stream of edges.

A counting sort builds them in two passes over the edges. They take 8 bytes per edge and 8 per node,
which is also the peak while they are built.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream, chunk_ranges

__all__ = ["NeighbourLists", "build_neighbour_lists", "neighbour_list_bytes"]


class NeighbourLists(NamedTuple):
    """Neighbours of each node: every edge is in the lists of both endpoints; no self-loops.

    Shape:
        indptr: (N + 1,) int64. neighbours: (A,) int32, or int64 from 2^31 nodes on.
    """

    indptr: NDArray[np.int64]
    neighbours: NDArray[Any]


def neighbour_list_bytes(num_nodes: int, num_edges: int) -> int:
    """Return the bytes of neighbour lists, which are also the peak while they are built."""
    return 8 * num_nodes + 2 * _key_type(num_nodes).itemsize * num_edges


def build_neighbour_lists(
    stream: EdgeStream,
    resources: Resources,
    *,
    nodes_N: NDArray[np.bool_] | None = None,
    simple: bool = False,
) -> NeighbourLists:
    """Return the neighbours of nodes; not collective.

    Unless `simple` is set, neighbours are in the order of edges and repeat for parallel edges.

    Args:
        stream: Edges of the graph, read twice.
        resources: Threads, which sort lists, and progress.
        nodes_N: Mask of the nodes that get a list; the lists of the others are empty. If None, all
            nodes get one.
        simple: Whether to sort each list and remove repeated neighbours.

    Shape:
        nodes_N: (N,) bool.
    """
    num_nodes, num_edges = stream.num_nodes, stream.num_edges
    # starts[v + 1] is where the next neighbour of v is written. When all lists are full, that is
    # where the list of v ends, so starts[v] is where it begins.
    starts = np.zeros(num_nodes + 2, np.int64)
    mask = np.empty(0, np.bool_) if nodes_N is None else nodes_N
    with resources.progress.phase("build neighbour lists", 2 * num_edges, "edges") as advance:
        for first, last in chunk_ranges(0, num_edges):
            _count(*stream.read(first, last), mask, starts)
            advance(last - first)
        np.cumsum(starts, out=starts)
        neighbours = np.empty(int(starts[-1]), _key_type(num_nodes))
        for first, last in chunk_ranges(0, num_edges):
            _fill(*stream.read(first, last), mask, starts, neighbours)
            advance(last - first)
    indptr = starts[:-1]
    if simple:
        bounds = _even_bounds(indptr, min(resources.threads, num_nodes))
        ranges = itertools.pairwise(bounds)
        resources.map(lambda nodes: _sort_lists(indptr, neighbours, *nodes), ranges)
        neighbours = neighbours[: _keep_distinct(indptr, neighbours)]
    return NeighbourLists(indptr, neighbours)


def _key_type(num_nodes: int) -> np.dtype[Any]:
    return np.dtype(np.int32 if num_nodes < 2**31 else np.int64)


def _even_bounds(indptr: NDArray[np.int64], count: int) -> list[int]:
    """Split nodes into `count` ranges with about equally many neighbours; return the bounds."""
    targets = [int(indptr[-1]) * i // count for i in range(1, count)]
    inner = np.searchsorted(indptr, targets).tolist()
    return [0, *(min(bound, indptr.shape[0] - 1) for bound in inner), indptr.shape[0] - 1]


@jit
def _count(
    src: NDArray[Any], dst: NDArray[Any], mask: NDArray[np.bool_], starts: NDArray[np.int64]
) -> None:
    all_nodes = mask.shape[0] == 0
    two = np.uint64(2)
    for i in range(np.uint64(src.shape[0])):
        u, v = np.uint64(src[i]), np.uint64(dst[i])
        if u != v:
            if all_nodes or mask[u]:
                starts[u + two] += 1
            if all_nodes or mask[v]:
                starts[v + two] += 1


@jit
def _fill(
    src: NDArray[Any],
    dst: NDArray[Any],
    mask: NDArray[np.bool_],
    starts: NDArray[np.int64],
    neighbours: NDArray[Any],
) -> None:
    all_nodes = mask.shape[0] == 0
    one = np.uint64(1)
    for i in range(np.uint64(src.shape[0])):
        u, v = np.uint64(src[i]), np.uint64(dst[i])
        if u != v:
            if all_nodes or mask[u]:
                neighbours[np.uint64(starts[u + one])] = v
                starts[u + one] += 1
            if all_nodes or mask[v]:
                neighbours[np.uint64(starts[v + one])] = u
                starts[v + one] += 1


@jit
def _sort_lists(indptr: NDArray[np.int64], neighbours: NDArray[Any], first: int, last: int) -> None:
    for v in range(first, last):
        if indptr[v + 1] - indptr[v] > 1:
            neighbours[indptr[v] : indptr[v + 1]].sort()


@jit
def _keep_distinct(indptr: NDArray[np.int64], neighbours: NDArray[Any]) -> int:
    kept = np.uint64(0)
    start = np.uint64(0)
    for v in range(np.uint64(indptr.shape[0] - 1)):
        stop = np.uint64(indptr[v + np.uint64(1)])
        for i in range(start, stop):
            if i == start or neighbours[i] != neighbours[i - np.uint64(1)]:
                neighbours[kept] = neighbours[i]
                kept += np.uint64(1)
        start = stop
        indptr[v + np.uint64(1)] = kept
    return int(kept)
