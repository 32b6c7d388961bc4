"""Between: the edges between two nodes, wherever they are held: repeats, and those that lead back.

A worker that holds one edge of a pair of nodes is told at the start which others hold some, so that
finding all of them takes one message a worker that has any.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.data.adjacency import stretches
from graphtheta.exchange.directory import location_code
from graphtheta.exchange.rows import send_rows
from graphtheta.shard.shard import Shard

__all__ = ["ParallelEdges"]

_STAGE = "edges between"
_ODD = 0x9E3779B97F4A7C15


class ParallelEdges:
    """The held edges by the two nodes that they join, whatever their direction and type.

    Args:
        shard: Storage.
        comm: The workers; making one is collective.

    Communication:
        24 bytes for each pair of nodes that this worker holds edges between.
    """

    def __init__(self, shard: Shard, comm: Communicator) -> None:
        indptr, src = shard.in_edges.indptr, shard.in_edges.other
        dst = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        codes = location_code(np.minimum(src, dst), np.maximum(src, dst))
        self._places = np.argsort(codes, kind="stable")
        pairs, self._pair, counts = np.unique(codes, return_inverse=True, return_counts=True)
        self._indptr = np.append(0, np.cumsum(counts))
        keys = shard.node_key_L[np.stack([pairs >> 32, pairs & 0xFFFFFFFF])]
        self._first, self._peer, self._theirs = _shared(keys.min(axis=0), keys.max(axis=0), comm)

    def of(self, edges: NDArray[np.int64], comm: Communicator) -> NDArray[np.int64]:
        """Return all edges held here between the ends of edges of all workers; collective.

        Args:
            edges: (T,) int64 places of edges of this worker.
            comm: The same workers, perhaps in a conversation of their own.

        Shape:
            Returns (X,) int64 places, those of `edges` among them.

        Communication:
            8 bytes for each other worker with edges between the same nodes.
        """
        pairs = np.unique(self._pair[edges])
        links = _ranges(self._first, pairs)
        told = send_rows(comm, self._peer[links], self._theirs[links][:, None], stage=_STAGE)
        every = np.unique(np.concatenate([pairs, *(block[:, 0] for block in told)]))
        places: NDArray[np.int64] = self._places[_ranges(self._indptr, every)]
        return places


def _shared(
    low: NDArray[np.int64], high: NDArray[np.int64], comm: Communicator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return by pair which others hold edges between the same nodes, and as which pair.

    A pair is looked for at one worker, by its hash.
    """
    number = len(low)
    mixed = (low.astype(np.uint64) * np.uint64(_ODD) + high.astype(np.uint64)) * np.uint64(_ODD)
    at = ((mixed >> np.uint64(33)) % np.uint64(comm.size)).astype(np.int64)
    told = send_rows(comm, at, np.stack([low, high, np.arange(number)], axis=1), stage=_STAGE)
    sizes = [len(block) for block in told]
    rows, rank = np.concatenate(told), np.repeat(np.arange(comm.size), sizes)
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    rows, rank = rows[order], rank[order]
    new = np.append(True, (rows[1:, :2] != rows[:-1, :2]).any(axis=1))[: len(rows)]
    group = np.cumsum(new) - 1
    answers: list[NDArray[np.int64]] = []
    for shift in range(1, comm.size):  # each with the next, the one after the next, ...
        one = np.flatnonzero(group[shift:] == group[:-shift])
        other = one + shift
        answers += [np.stack([one, other], axis=1), np.stack([other, one], axis=1)]
    links = np.concatenate([np.zeros((0, 2), np.int64), *answers])
    mine, other = links.T
    found = np.stack([rows[mine, 2], rank[other], rows[other, 2]], axis=1)
    first, peer, theirs = np.concatenate(send_rows(comm, rank[mine], found, stage=_STAGE)).T
    order = np.argsort(first, kind="stable")
    indptr = np.append(0, np.cumsum(np.bincount(first, minlength=number)))
    return indptr, peer[order], theirs[order]


def _ranges(indptr: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return all places of the rows' stretches, one after the other."""
    return stretches(indptr[rows], indptr[rows + 1] - indptr[rows])
