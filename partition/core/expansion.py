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

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import inline_jit, jit
from graphtheta.partition.core.replica_bitset import Replicas, add_replica

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
        low_N = np.where(degree_N <= highest, degree_N, 0)
        self._begin = np.cumsum(low_N) - low_N
        self._length = np.zeros(num_nodes, np.int32)
        self._entries = np.empty((int(low_N.sum()), 2), _entry_type(num_edges))
        self._part = np.full(num_edges, -1, np.int32)
        self._added = 0

    def add(self, src: NDArray[Any], dst: NDArray[Any]) -> None:
        """Append edges; those between two nodes of high degree are skipped."""
        lists = self._begin, self._length, self._entries
        self._added = _add(src, dst, self._degree, self._highest, *lists, self._added)

    def expand(
        self, loads_P: NDArray[np.int64], replicas: Replicas, first_seed: int
    ) -> NDArray[np.int32]:
        """Assign all edges; a part gets at most their mean, rounded up. Call this once.

        Args:
            loads_P: Number of edges of each part, 0 at first; updated in place.
            replicas: Parts of all nodes; updated in place.
            first_seed: Node from which the first part grows, or the next node that has edges.

        Returns:
            The part of each edge that was not skipped, in the order added.
        """
        assert self._added == self._part.shape[0], "as many edges as announced"
        num_nodes = self._degree.shape[0]
        growth = _Growth(
            self._begin,
            self._length,
            self._entries,
            self._degree,
            self._highest,
            self._part,
            loads_P,
            -(-self._part.shape[0] // loads_P.shape[0]),
            replicas,
            np.full(num_nodes, -1, np.int32),
            np.empty((num_nodes, 3), np.int32),
            np.empty(self._highest + 1, np.int32),
        )
        _expand(growth, first_seed)
        return self._part


class _Growth(NamedTuple):
    """State of the growth of parts.

    Boundary nodes are in buckets by their number of neighbours outside the part. A bucket is a
    doubly linked list, so that a node changes buckets in a few writes.
    """

    begin_N: NDArray[np.int64]  # of the lists
    length_N: NDArray[np.int32]
    entries: NDArray[Any]  # neighbour and edge
    degree_N: NDArray[np.int64]
    highest: int  # low degree
    part_E: NDArray[np.int32]
    loads_P: NDArray[np.int64]
    quota: int  # edges of a part
    replicas: Replicas
    in_part_N: NDArray[np.int32]  # last part in whose core or boundary a node was
    links_N3: NDArray[np.int32]  # columns _NEXT, _PREVIOUS and _BUCKET
    heads: NDArray[np.int32]  # first node of each bucket, or -1


_NEXT, _PREVIOUS, _BUCKET = 0, 1, 2


@jit
def _add(
    src: NDArray[Any],
    dst: NDArray[Any],
    degree_N: NDArray[np.int64],
    highest: int,
    begin_N: NDArray[np.int64],
    length_N: NDArray[np.int32],
    entries: NDArray[Any],
    edge: int,
) -> int:
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


@inline_jit
def _insert(node: int, bucket: int, growth: _Growth) -> None:
    links, heads = growth.links_N3, growth.heads
    after = heads[bucket]
    links[node, _NEXT], links[node, _PREVIOUS], links[node, _BUCKET] = after, -1, bucket
    if after >= 0:
        links[after, _PREVIOUS] = node
    heads[bucket] = node


@inline_jit
def _remove(node: int, growth: _Growth) -> None:
    links, heads = growth.links_N3, growth.heads
    after, before = links[node, _NEXT], links[node, _PREVIOUS]
    if after >= 0:
        links[after, _PREVIOUS] = before
    if before >= 0:
        links[before, _NEXT] = after
    else:
        heads[links[node, _BUCKET]] = after


@inline_jit
def _assign(edge: int, node: int, other: int, part: int, growth: _Growth) -> None:
    growth.part_E[edge] = part
    growth.loads_P[part] += 1
    add_replica(growth.replicas, np.uint64(node), np.uint64(part))
    add_replica(growth.replicas, np.uint64(other), np.uint64(part))


@jit
def _join(node: int, core: int, part: int, growth: _Growth) -> int:
    # Add a node to the boundary, and assign its edges with nodes of the part. Return the lowest
    # bucket that a node was put into.
    entries = growth.entries
    growth.in_part_N[node] = part
    begin, kept = growth.begin_N[node], 0
    lowest = growth.highest
    for i in range(begin, begin + growth.length_N[node]):
        other, edge = entries[i, 0], entries[i, 1]
        if growth.part_E[edge] >= 0:
            continue
        is_high = growth.degree_N[other] > growth.highest
        inside = is_high or growth.in_part_N[other] == part
        if inside and growth.loads_P[part] < growth.quota:
            _assign(edge, node, other, part, growth)
            if not (is_high or other == node or other == core):
                bucket = growth.links_N3[other, _BUCKET] - 1
                _remove(other, growth)
                _insert(other, bucket, growth)
                lowest = min(lowest, bucket)
        else:
            entries[begin + kept, 0], entries[begin + kept, 1] = other, edge
            kept += 1
    growth.length_N[node] = kept
    _insert(node, kept, growth)
    return min(lowest, kept)


@jit
def _expand(growth: _Growth, first_seed: int) -> None:
    loads_P, quota, heads = growth.loads_P, growth.quota, growth.heads
    length_N, num_nodes, num_parts = growth.length_N, growth.length_N.shape[0], loads_P.shape[0]
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
                bucket = _join((first_seed + passed) % num_nodes, -1, part, growth)
                continue
            core = int(heads[bucket])
            _remove(core, growth)
            begin = growth.begin_N[core]
            for i in range(begin, begin + length_N[core]):
                other, edge = int(growth.entries[i, 0]), int(growth.entries[i, 1])
                if growth.part_E[edge] >= 0:
                    continue
                if loads_P[part] < quota and growth.in_part_N[other] != part and other != core:
                    bucket = min(bucket, _join(other, core, part, growth))
                if growth.part_E[edge] < 0:
                    # The part is full before this core node is done: its remaining edges go to
                    # the next part that has room.
                    to = part
                    while loads_P[to] >= quota:
                        to = (to + 1) % num_parts
                    _assign(edge, core, other, to, growth)
            length_N[core] = 0
