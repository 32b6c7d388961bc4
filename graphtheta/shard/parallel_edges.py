"""Search for all edges between two nodes: repeats and reverses, on any worker.

Each worker learns once which other workers hold edges between the same two nodes as one of its own.
A search then sends one message to each of those.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.data.adjacency import concatenated_ranges
from graphtheta.exchange.directory import location_code, rank_and_row
from graphtheta.exchange.rows import send_rows
from graphtheta.shard.shard import Shard

__all__ = ["ParallelEdges"]

_STAGE = "parallel edges"
_HASH_MULTIPLIER = 0x9E3779B97F4A7C15


class ParallelEdges:
    """Index of the held edges by the pair of nodes that they join, in any direction and type.

    Args:
        shard: The edges.
        comm: The workers; the constructor is collective.

    Communication:
        24 bytes for each pair of nodes that this worker holds edges between.
    """

    def __init__(self, shard: Shard, comm: Communicator) -> None:
        indptr, src = shard.in_edges.indptr, shard.in_edges.other
        dst = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        codes = location_code(np.minimum(src, dst), np.maximum(src, dst))
        self._edges = np.argsort(codes, kind="stable")
        pairs, self._pair, counts = np.unique(codes, return_inverse=True, return_counts=True)
        self._indptr = np.append(0, np.cumsum(counts))
        keys = shard.node_key_L[np.stack(rank_and_row(pairs))]
        low, high = keys.min(axis=0), keys.max(axis=0)
        self._peer_indptr, self._peer, self._peer_pair = _find_peers(low, high, comm)

    def of(self, edges: NDArray[np.int64], comm: Communicator) -> NDArray[np.int64]:
        """Return all edges held here that join the same nodes as an edge given by any worker.

        Collective.

        Args:
            edges: (T,) int64 positions of edges of this worker.
            comm: The same workers, possibly over another communicator.

        Shape:
            Returns (X,) int64 positions, those of `edges` among them.

        Communication:
            8 bytes for each other worker with edges between the same nodes.
        """
        pairs = np.unique(self._pair[edges])
        entries = _ranges(self._peer_indptr, pairs)
        theirs = self._peer_pair[entries][:, None]
        received = send_rows(comm, self._peer[entries], theirs, stage=_STAGE)
        pairs = np.unique(np.concatenate([pairs, *(rows[:, 0] for rows in received)]))
        found: NDArray[np.int64] = self._edges[_ranges(self._indptr, pairs)]
        return found


def _find_peers(
    low: NDArray[np.int64], high: NDArray[np.int64], comm: Communicator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each pair of nodes, the other workers that hold edges between the same nodes.

    Workers meet at the rank that the hash of the pair selects.

    Args:
        low: (R,) smaller node key of each pair of this worker.
        high: (R,) larger node key.
        comm: The workers.

    Returns:
        indptr: (R + 1,) entries of pair i are [indptr[i], indptr[i + 1]).
        peer: Rank of each entry.
        pair: Number of the pair on that rank.
    """
    number = len(low)
    multiplier = np.uint64(_HASH_MULTIPLIER)
    hashes = (low.astype(np.uint64) * multiplier + high.astype(np.uint64)) * multiplier
    at = ((hashes >> np.uint64(33)) % np.uint64(comm.size)).astype(np.int64)
    received = send_rows(comm, at, np.stack([low, high, np.arange(number)], axis=1), stage=_STAGE)
    sizes = [len(part) for part in received]
    rows, rank = np.concatenate(received), np.repeat(np.arange(comm.size), sizes)
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    rows, rank = rows[order], rank[order]
    new = np.append(True, (rows[1:, :2] != rows[:-1, :2]).any(axis=1))[: len(rows)]
    group = np.cumsum(new) - 1
    matches: list[NDArray[np.int64]] = []
    for shift in range(1, comm.size):  # each row with the next, the one after the next, ...
        one = np.flatnonzero(group[shift:] == group[:-shift])
        other = one + shift
        matches += [np.stack([one, other], axis=1), np.stack([other, one], axis=1)]
    one, other = np.concatenate([np.zeros((0, 2), np.int64), *matches]).T
    answers = np.stack([rows[one, 2], rank[other], rows[other, 2]], axis=1)
    pair, peer, peer_pair = np.concatenate(send_rows(comm, rank[one], answers, stage=_STAGE)).T
    order = np.argsort(pair, kind="stable")
    indptr = np.append(0, np.cumsum(np.bincount(pair, minlength=number)))
    return indptr, peer[order], peer_pair[order]


def _ranges(indptr: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the entries of some rows, one row after the other."""
    return concatenated_ranges(indptr[rows], indptr[rows + 1] - indptr[rows])
