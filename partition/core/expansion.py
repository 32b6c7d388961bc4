"""Neighbourhood expansion: grow one part after another over the edges of nodes of low degree.

A part consists of a core and a boundary around it. In each step, the boundary node with the fewest
neighbours outside the part joins the core, and those neighbours join the boundary.

Edges between two nodes of high degree are left out. A node of high degree has no list of
neighbours: it never joins a core, and it counts as a boundary node of every part.

Source:
    Zhang, Wei, Liu, Tang, Li, "Graph edge partitioning via neighborhood heuristic", KDD 2017 (NE);
    Mayer, Jacobsen, "Hybrid edge partitioner", SIGMOD 2021 (NE++).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.replica_bitset import add_replica, words_per_node

__all__ = ["UnassignedEdges", "expansion_bytes"]


def expansion_bytes(num_nodes: int, num_edges: int, num_entries: int) -> int:
    """Return the bytes that `UnassignedEdges` needs.

    Args:
        num_nodes: Number of nodes (N).
        num_edges: Number of edges with an endpoint of low degree.
        num_entries: Sum of the low degrees.
    """
    width = _entry_type(num_edges).itemsize
    return 8 * num_nodes + 5 * 4 * num_nodes + 2 * width * num_entries + 4 * num_edges


def _entry_type(num_edges: int) -> np.dtype[Any]:
    return np.dtype(np.int32 if num_edges < 1 << 31 else np.int64)


class UnassignedEdges:
    """Lists of the edges of each node of low degree that have no part yet.

    Args:
        degree_N: Degrees of all nodes; a self-loop counts twice.
        highest: Highest low degree.
        num_edges: Number of edges with an endpoint of low degree that will be added.
    """

    def __init__(self, degree_N: NDArray[np.int64], highest: int, num_edges: int) -> None:
        self._degree, self._highest = degree_N, highest
        num_nodes = degree_N.shape[0]
        assert num_nodes < 1 << 31, "links have room for the nodes"
        # Where each list begins; its length shrinks as edges get parts.
        self._begin = np.empty(num_nodes, np.int64)
        entries = _list_begins(degree_N, highest, self._begin)
        self._length = np.zeros(num_nodes, np.int32)
        self._entries = np.empty((entries, 2), _entry_type(num_edges))
        self._part = np.full(num_edges, -1, np.int32)
        self._added = 0

    def add(self, src: NDArray[Any], dst: NDArray[Any]) -> None:
        """Append edges; those between two nodes of high degree are skipped."""
        self._added = _add(
            src,
            dst,
            self._degree,
            self._highest,
            self._begin,
            self._length,
            self._entries,
            self._added,
        )

    def expand(
        self,
        loads_P: NDArray[np.int64],
        replicas: NDArray[np.uint64],
        first_seed: int,
    ) -> NDArray[np.int32]:
        """Assign all edges; a part gets at most their mean, rounded up. Call this once.

        Args:
            loads_P: Number of edges of each part, 0 at first; updated in place.
            replicas: Parts of each node; updated in place.
            first_seed: Node from which the first part grows, or the next node that has edges.

        Returns:
            The part of each edge that was not skipped, in the order added.
        """
        assert self._added == self._part.shape[0], "as many edges as announced"
        num_nodes = self._degree.shape[0]
        links = np.empty((num_nodes, 3), np.int32)  # columns _NEXT, _PREVIOUS and _BUCKET
        _expand(
            self._begin,
            self._length,
            self._entries,
            self._degree,
            self._highest,
            self._part,
            loads_P,
            -(-self._part.shape[0] // loads_P.shape[0]),
            replicas,
            np.uint64(words_per_node(loads_P.shape[0])),
            np.full(num_nodes, -1, np.int32),
            links,
            np.empty(self._highest + 1, np.int32),
            first_seed,
        )
        return self._part


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _list_begins(
    degree_N: NDArray[np.int64], highest: int, begin_N: NDArray[np.int64]
) -> int:  # pragma: no cover - compiled
    total = 0
    for node in range(degree_N.shape[0]):
        begin_N[node] = total
        if degree_N[node] <= highest:
            total += degree_N[node]
    return total


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _add(
    src: NDArray[Any],
    dst: NDArray[Any],
    degree_N: NDArray[np.int64],
    highest: int,
    begin_N: NDArray[np.int64],
    length_N: NDArray[np.int32],
    entries: NDArray[Any],
    edge: int,
) -> int:  # pragma: no cover - compiled
    for i in range(np.uint64(src.shape[0])):
        u, v = np.uint64(src[i]), np.uint64(dst[i])
        low_u, low_v = degree_N[u] <= highest, degree_N[v] <= highest
        if low_u:
            entry = np.uint64(begin_N[u] + length_N[u])
            entries[entry, 0], entries[entry, 1] = v, edge
            length_N[u] += 1
        if low_v:
            entry = np.uint64(begin_N[v] + length_N[v])
            entries[entry, 0], entries[entry, 1] = u, edge
            length_N[v] += 1
        edge += low_u | low_v
    return edge


# Boundary nodes are in buckets by their number of neighbours outside the part. A bucket is a doubly
# linked list, so that a node changes buckets in a few writes.
_NEXT, _PREVIOUS, _BUCKET = 0, 1, 2


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
def _insert(
    node: int, bucket: int, links: NDArray[np.int32], heads: NDArray[np.int32]
) -> None:  # pragma: no cover - compiled
    after = heads[bucket]
    links[node, _NEXT], links[node, _PREVIOUS], links[node, _BUCKET] = after, -1, bucket
    if after >= 0:
        links[after, _PREVIOUS] = node
    heads[bucket] = node


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
def _remove(
    node: int, links: NDArray[np.int32], heads: NDArray[np.int32]
) -> None:  # pragma: no cover - compiled
    after, before = links[node, _NEXT], links[node, _PREVIOUS]
    if after >= 0:
        links[after, _PREVIOUS] = before
    if before >= 0:
        links[before, _NEXT] = after
    else:
        heads[links[node, _BUCKET]] = after


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _join(
    node: int,
    core: int,
    part: int,
    begin_N: NDArray[np.int64],
    length_N: NDArray[np.int32],
    entries: NDArray[Any],
    degree_N: NDArray[np.int64],
    highest: int,
    part_E: NDArray[np.int32],
    loads_P: NDArray[np.int64],
    quota: int,
    replicas: NDArray[np.uint64],
    words: np.uint64,
    in_part_N: NDArray[np.int32],
    links: NDArray[np.int32],
    heads: NDArray[np.int32],
) -> int:  # pragma: no cover - compiled
    # Add a node to the boundary, and assign its edges with nodes of the part. Return the lowest
    # bucket that a node was put into.
    in_part_N[node] = part
    begin, kept = begin_N[node], 0
    lowest = highest
    for i in range(begin, begin + length_N[node]):
        other, edge = entries[i, 0], entries[i, 1]
        if part_E[edge] >= 0:
            continue
        is_high = degree_N[other] > highest
        if (is_high or in_part_N[other] == part) and loads_P[part] < quota:
            part_E[edge] = part
            loads_P[part] += 1
            add_replica(replicas, words, np.uint64(node), np.uint64(part))
            add_replica(replicas, words, np.uint64(other), np.uint64(part))
            if not (is_high or other == node or other == core):
                bucket = links[other, _BUCKET] - 1
                _remove(other, links, heads)
                _insert(other, bucket, links, heads)
                lowest = min(lowest, bucket)
        else:
            entries[begin + kept, 0], entries[begin + kept, 1] = other, edge
            kept += 1
    length_N[node] = kept
    _insert(node, kept, links, heads)
    return min(lowest, kept)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _expand(
    begin_N: NDArray[np.int64],
    length_N: NDArray[np.int32],
    entries: NDArray[Any],
    degree_N: NDArray[np.int64],
    highest: int,
    part_E: NDArray[np.int32],
    loads_P: NDArray[np.int64],
    quota: int,
    replicas: NDArray[np.uint64],
    words: np.uint64,
    in_part_N: NDArray[np.int32],
    links: NDArray[np.int32],
    heads: NDArray[np.int32],
    first_seed: int,
) -> None:  # pragma: no cover - compiled
    num_nodes, num_parts = degree_N.shape[0], loads_P.shape[0]
    passed = 0  # nodes, from the first seed on, that have no edges left
    for part in range(num_parts):
        heads[:] = -1
        bucket = heads.shape[0]
        while loads_P[part] < quota:
            while bucket < heads.shape[0] and heads[bucket] < 0:
                bucket += 1
            if bucket == heads.shape[0]:
                while passed < num_nodes and length_N[(first_seed + passed) % num_nodes] == 0:
                    passed += 1
                if passed == num_nodes:
                    return
                seed = (first_seed + passed) % num_nodes
                bucket = _join(
                    seed, -1, part, begin_N, length_N, entries, degree_N, highest, part_E,
                    loads_P, quota, replicas, words, in_part_N, links, heads,
                )  # fmt: skip
                continue
            core = int(heads[bucket])
            _remove(core, links, heads)
            begin = begin_N[core]
            for i in range(begin, begin + length_N[core]):
                other, edge = int(entries[i, 0]), int(entries[i, 1])
                if part_E[edge] >= 0:
                    continue
                if loads_P[part] < quota and in_part_N[other] != part and other != core:
                    joined = _join(
                        other, core, part, begin_N, length_N, entries, degree_N, highest, part_E,
                        loads_P, quota, replicas, words, in_part_N, links, heads,
                    )  # fmt: skip
                    bucket = min(bucket, joined)
                if part_E[edge] < 0:
                    # The part is full before this core node is done: its remaining edges go to
                    # the next part that has room.
                    to = part
                    while loads_P[to] >= quota:
                        to = (to + 1) % num_parts
                    part_E[edge] = to
                    loads_P[to] += 1
                    add_replica(replicas, words, np.uint64(core), np.uint64(to))
                    add_replica(replicas, words, np.uint64(other), np.uint64(to))
            length_N[core] = 0
