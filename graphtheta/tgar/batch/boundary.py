"""Marks: which nodes a batch may read, and what is a few in-hops around them."""

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
    """A mark for each replica of this worker, kept and wiped.

    Args:
        shard: Storage.
        comm: What the workers talk through.
    """

    def __init__(self, shard: Shard, comm: Communicator) -> None:
        self._edges, self._comm = shard.in_edges, comm
        self._num_masters, self._route = shard.num_masters, shard.plan.mirrors
        self._mirrored = RoutePositions(self._route, shard.num_masters)
        self._marked = np.zeros(shard.num_masters + shard.num_mirrors, np.uint8)

    @contextmanager
    def around(self, replicas: NDArray[np.int64], hops: int) -> Iterator[NDArray[np.uint8]]:
        """Mark nodes and what reaches them in `hops` in-hops, while the context lasts.

        Args:
            replicas: Local ids of the nodes, each once: every replica that this worker holds.
            hops: At least 0; collective above.

        Shape:
            Yields (L,) uint8: 1 where marked, on all workers alike.

        Communication:
            A hop: the places of mirrors that are reached, and of all mirrors of masters that are:
            4 bytes each, to plan peers.
        """
        marked = [replicas]
        try:
            self._marked[replicas] = 1
            for _ in range(hops):
                marked.append(self._widen(marked[-1]))
            yield self._marked
        finally:
            for chosen in marked:
                self._marked[chosen] = 0

    def _widen(self, replicas: NDArray[np.int64]) -> NDArray[np.int64]:
        """Mark what reaches nodes by one edge, and return what was not marked before."""
        edges, num_masters, marked = self._edges, self._num_masters, self._marked
        rows = replicas[replicas < edges.num_rows]
        most = int((edges.indptr[rows + 1] - edges.indptr[rows]).sum())
        found = np.empty(min(most, len(marked)), np.int64)
        found = found[: _mark_sources(rows, edges.indptr, edges.other, marked, found)]
        own, mirrors = found[found < num_masters], np.sort(found[found >= num_masters])
        told = self._tell_owners(mirrors - num_masters)
        told = told[marked[told] == 0]
        marked[told] = 1
        others = num_masters + self._tell_mirrors(np.concatenate([own, told]))
        others = others[marked[others] == 0]
        marked[others] = 1
        return np.concatenate([found, told, others])

    def _tell_owners(self, mirrors: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tell owners of mirrors; return the masters that this worker is told of. Both ascend."""
        route = self._route  # of all mirrors: each stands at its own place
        heard = send_positions(
            self._comm, mirrors, route.mirror_slices, route.master_slices, stage=_STAGE
        )
        return np.unique(route.master_S[np.concatenate([_NONE, *heard.values()])])

    def _tell_mirrors(self, masters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tell all mirrors of masters; return the mirrors that this worker is told of."""
        route = self._route
        places = np.sort(self._mirrored.of(masters)[0])
        heard = send_positions(
            self._comm, places, route.master_slices, route.mirror_slices, stage=_STAGE
        )
        return np.concatenate([_NONE, *heard.values()])


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _mark_sources(
    rows: NDArray[np.int64],
    indptr: NDArray[np.int64],
    src: NDArray[np.int32],
    marked: NDArray[np.uint8],
    found: NDArray[np.int64],
) -> int:
    """Mark the sources of rows' in-edges; list those that were not, and return how many."""
    size = 0
    for r in range(rows.shape[0]):
        for e in range(indptr[rows[r]], indptr[rows[r] + 1]):
            source = src[e]
            if not marked[source]:
                marked[source] = 1
                found[size] = source
                size += 1
    return size
