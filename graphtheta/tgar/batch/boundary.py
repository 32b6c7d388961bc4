"""Boundary of a batch: the nodes within a few in-hops, which the batch may read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.exchange.rows import RoutePositions, send_positions
from graphtheta.shard.shard import Shard

__all__ = ["Boundary"]

_STAGE = "prepare boundary"
_NONE = np.zeros(0, np.int64)


class Boundary:
    """Search for the nodes within a few in-hops of given nodes, by all workers together.

    The array of marks is kept from one search to the next, and cleared after each.

    Args:
        shard: The graph.
        comm: Communicator of the workers.
    """

    def __init__(self, shard: Shard, comm: Communicator) -> None:
        self._edges, self._comm = shard.in_edges, comm
        self._num_masters, self._route = shard.num_masters, shard.plan.mirrors
        self._positions = RoutePositions(self._route, shard.num_masters)
        self._marked = np.zeros(shard.num_masters + shard.num_mirrors, np.uint8)

    @contextmanager
    def around(self, replicas: NDArray[np.int64], hops: int) -> Iterator[NDArray[np.uint8]]:
        """Mark nodes and everything within `hops` in-hops of them, while the context lasts.

        Args:
            replicas: Local ids of the nodes, each once, with every replica that this worker holds.
            hops: Number of hops, at least 0; collective if positive.

        Shape:
            Yields (L,) uint8: 1 for marked replicas. All replicas of a node are marked or none.

        Communication:
            Per hop, the positions of newly reached mirrors, and of all mirrors of newly reached
            masters: 4 bytes each, to plan peers.
        """
        marked = [replicas]
        try:
            self._marked[replicas] = 1
            for _ in range(hops):
                marked.append(self._mark_one_hop(marked[-1]))
            yield self._marked
        finally:
            for replicas in marked:
                self._marked[replicas] = 0

    def _mark_one_hop(self, replicas: NDArray[np.int64]) -> NDArray[np.int64]:
        """Mark the sources of the nodes' in-edges; return the replicas that are newly marked."""
        edges, num_masters, marked = self._edges, self._num_masters, self._marked
        rows = replicas[replicas < edges.num_rows]
        bound = int((edges.indptr[rows + 1] - edges.indptr[rows]).sum())
        found = np.empty(min(bound, len(marked)), np.int64)
        found = found[: _mark_sources(rows, edges.indptr, edges.other, marked, found)]
        own, mirrors = found[found < num_masters], np.sort(found[found >= num_masters])
        masters = self._masters_of(mirrors - num_masters)
        masters = masters[marked[masters] == 0]
        marked[masters] = 1
        others = num_masters + self._mirrors_of(np.concatenate([own, masters]))
        others = others[marked[others] == 0]
        marked[others] = 1
        return np.concatenate([found, masters, others])

    def _masters_of(self, mirrors: NDArray[np.int64]) -> NDArray[np.int64]:
        """Send mirrors to their owners; return the masters received, ascending; collective."""
        route = self._route  # of all mirrors, so that a mirror is its own position
        received = send_positions(
            self._comm, mirrors, route.mirror_slices, route.master_slices, stage=_STAGE
        )
        return np.unique(route.master_S[np.concatenate([_NONE, *received.values()])])

    def _mirrors_of(self, masters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Send masters to all their mirrors; return the mirrors received; collective."""
        route = self._route
        positions = np.sort(self._positions.of(masters)[0])
        received = send_positions(
            self._comm, positions, route.master_slices, route.mirror_slices, stage=_STAGE
        )
        return np.concatenate([_NONE, *received.values()])


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _mark_sources(
    rows: NDArray[np.int64],
    indptr: NDArray[np.int64],
    src: NDArray[np.int32],
    marked: NDArray[np.uint8],
    found: NDArray[np.int64],
) -> int:
    """Mark the sources of the rows' in-edges, list the newly marked, and return their number."""
    size = 0
    for r in range(rows.shape[0]):
        for e in range(indptr[rows[r]], indptr[rows[r] + 1]):
            source = src[e]
            if not marked[source]:
                marked[source] = 1
                found[size] = source
                size += 1
    return size
