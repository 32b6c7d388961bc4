"""Neighbours of nodes in memory, for partitioners that look at a node's neighbourhood at once.

Built by a counting sort in two passes over the edges: 8 bytes an edge and 8 a node, and no more at
the peak.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream, chunk_ranges

__all__ = [
    "SMALLER_METHODS",
    "NeighbourLists",
    "build_neighbour_lists",
    "neighbour_list_bytes",
    "place_on_rank_zero",
]

SMALLER_METHODS = "Take ldg or lpa, which need 8 bytes an edge over all ranks, or node-hash or dbh."

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@dataclass(frozen=True, slots=True)
class NeighbourLists:
    """An undirected graph: every edge at both of its ends, no self-loops.

    Shape:
        indptr: (N + 1,) int64. neighbours: (A,) int32, int64 from 2^31 nodes on.
    """

    indptr: NDArray[np.int64]
    neighbours: NDArray[Any]


def neighbour_list_bytes(num_nodes: int, num_edges: int) -> int:
    """Return the bytes of a topology, which are those at the peak of building it, too."""
    return 8 * num_nodes + 2 * _key_type(num_nodes).itemsize * num_edges


def build_neighbour_lists(
    stream: EdgeStream,
    resources: Resources,
    *,
    rows_N: NDArray[np.bool_] | None = None,
    simple: bool = False,
) -> NeighbourLists:
    """Return the neighbours of nodes; not collective.

    Neighbours stand in the order of edges, and as often as there are edges, unless `simple`.

    Args:
        stream: The edges, read twice.
        resources: Threads, which sort rows, and progress.
        rows_N: Nodes whose neighbours are wanted, the others get none; None: all.
        simple: Whether neighbours ascend and none stands twice.

    Shape:
        rows_N: (N,) bool.
    """
    num_nodes, num_edges = stream.num_nodes, stream.num_edges
    # Row v begins at starts[v + 1], and ends there when it is filled: then it begins at starts[v].
    starts = np.zeros(num_nodes + 2, np.int64)
    wanted = np.empty(0, np.bool_) if rows_N is None else rows_N
    with resources.progress.phase("build topology", 2 * num_edges, "edges") as advance:
        for first, last in chunk_ranges(0, num_edges):
            _count(*stream.read(first, last), wanted, starts)
            advance(last - first)
        np.cumsum(starts, out=starts)
        neighbours = np.empty(int(starts[-1]), _key_type(num_nodes))
        for first, last in chunk_ranges(0, num_edges):
            _fill(*stream.read(first, last), wanted, starts, neighbours)
            advance(last - first)
    indptr = starts[:-1]
    if simple:
        bounds = _even_bounds(indptr, min(resources.threads, num_nodes))
        ranges = itertools.pairwise(bounds)
        resources.map(lambda rows: _sort_rows(indptr, neighbours, *rows), ranges)
        neighbours = neighbours[: _keep_distinct(indptr, neighbours)]
    return NeighbourLists(indptr, neighbours)


def place_on_rank_zero(
    stream: EdgeStream,
    resources: Resources,
    name: str,
    bytes_an_edge: int,
    remedy: str,
    place: Callable[[NeighbourLists], NDArray[np.int32]],
) -> NDArray[np.int32]:
    """Return the parts of all nodes, computed by rank 0 from the whole simple topology; collective.

    Args:
        stream: The edges.
        resources: Ranks, threads for the topology, and the memory limit.
        name: Who wants that.
        bytes_an_edge: What it needs for each pair of neighbours, beside the topology.
        remedy: What to do if that is too much.
        place: From a topology to the part of each node; called on rank 0 only.

    Communication:
        Broadcasts of 8 and 4 N bytes when there are several ranks.

    Raises:
        PartitionError: If it would not fit the memory limit.

    Shape:
        Returns (N,) int32.
    """
    comm = resources.comm
    topology_needs = neighbour_list_bytes(stream.num_nodes, stream.num_edges)
    resources.check_memory(topology_needs, f"the topology for {name}", remedy)
    pairs = np.zeros(1, np.int64)
    lists = None
    if comm.rank == 0:
        lists = build_neighbour_lists(stream, resources, simple=True)
        pairs[0] = lists.neighbours.shape[0] // 2
    if comm.size > 1:  # before anything is refused, so that all ranks refuse alike
        comm.broadcast(pairs, stage="broadcast size of topology")
    needs = topology_needs + bytes_an_edge * int(pairs[0]) + 64 * stream.num_nodes
    resources.check_memory(needs, f"{name} at {pairs[0]:,} pairs of neighbours", remedy)
    parts_N = np.empty(stream.num_nodes, np.int32)
    if lists is not None:
        parts_N[:] = place(lists)
    if comm.size > 1:
        comm.broadcast(parts_N, stage="broadcast parts")
    return parts_N


def _key_type(num_nodes: int) -> np.dtype[Any]:
    return np.dtype(np.int32 if num_nodes < 2**31 else np.int64)


def _even_bounds(indptr: NDArray[np.int64], pieces: int) -> list[int]:
    """Return where to cut rows into ranges of about as many neighbours."""
    targets = [int(indptr[-1]) * i // pieces for i in range(1, pieces)]
    inner = np.searchsorted(indptr, targets).tolist()
    return [0, *(min(bound, indptr.shape[0] - 1) for bound in inner), indptr.shape[0] - 1]


@_jit
def _count(
    src: NDArray[Any], dst: NDArray[Any], wanted: NDArray[np.bool_], starts: NDArray[np.int64]
) -> None:  # pragma: no cover - compiled
    every = wanted.shape[0] == 0
    two = np.uint64(2)
    for i in range(np.uint64(src.shape[0])):
        u, v = np.uint64(src[i]), np.uint64(dst[i])
        if u != v:
            if every or wanted[u]:
                starts[u + two] += 1
            if every or wanted[v]:
                starts[v + two] += 1


@_jit
def _fill(
    src: NDArray[Any],
    dst: NDArray[Any],
    wanted: NDArray[np.bool_],
    starts: NDArray[np.int64],
    neighbours: NDArray[Any],
) -> None:  # pragma: no cover - compiled
    every = wanted.shape[0] == 0
    one = np.uint64(1)
    for i in range(np.uint64(src.shape[0])):
        u, v = np.uint64(src[i]), np.uint64(dst[i])
        if u != v:
            if every or wanted[u]:
                neighbours[np.uint64(starts[u + one])] = v
                starts[u + one] += 1
            if every or wanted[v]:
                neighbours[np.uint64(starts[v + one])] = u
                starts[v + one] += 1


@_jit
def _sort_rows(
    indptr: NDArray[np.int64], neighbours: NDArray[Any], first: int, last: int
) -> None:  # pragma: no cover - compiled
    for v in range(first, last):
        if indptr[v + 1] - indptr[v] > 1:
            neighbours[indptr[v] : indptr[v + 1]].sort()


@_jit
def _keep_distinct(
    indptr: NDArray[np.int64], neighbours: NDArray[Any]
) -> int:  # pragma: no cover - compiled
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
