"""Adjacency: the edges of each row, in-edges of destinations (CSC) or out-edges of sources (CSR),
and the chunks of about equal work that threads take them in.

Never imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["Adjacency", "Chunks", "outwards", "stretches"]

_CHUNK_COST = 1 << 14  # an edge costs 1, a row 4
_MAX_CHUNKS = 2048  # beyond that they grow: each has numbers of its own for parameters
_ROW_COST = 4


@dataclass(frozen=True)
class Chunks:
    """Rows cut into chunks, from the graph alone, so that sums have the same order everywhere.

    Attributes:
        table: (chunks, 5) int64: first row, last row, first edge, last edge, segment. A row of too
            many edges is cut into segments, one a chunk, numbered over all such rows; the segment
            of other chunks is -1.
        segment_row: (segments,) int64 row of each segment, ascending.
        num_first: Leading chunks whose rows are below the border that was asked for.
    """

    table: NDArray[np.int64]
    segment_row: NDArray[np.int64]
    num_first: int


@dataclass(frozen=True)
class Adjacency:
    """Edges by row.

    Attributes:
        indptr: (rows + 1,) int64; row i's edges are [indptr[i], indptr[i + 1]).
        other: (E,) int32 local id of the node at the other end of each edge.
        position: (E,) int32 or int64 place of each edge among the in-edges, or None for those.
        border: Rows below it can be done while others' are on their way: in-edges of rows that need
            no mirror, out-edges of masters (0 where nobody asks).
        leading: Rows below it stand at the same place among the nodes at the other ends.
        shift: How much further all other rows stand there.
    """

    indptr: NDArray[np.int64]
    other: NDArray[np.int32]
    position: NDArray[Any] | None = None
    border: int = 0
    leading: int = 0
    shift: int = 0

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        """Number of edges."""
        return int(self.indptr[-1])

    def node_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where rows stand among the nodes at the other ends."""
        return rows + np.where(rows < self.leading, 0, self.shift)

    @cached_property
    def own_edges(self) -> NDArray[np.int64]:
        """How many edges each row has with itself: (rows,); a chunk is looked at at a time."""
        counts = np.zeros(self.num_rows, np.int64)
        for first, last, start, stop, _ in self.chunks.table:
            degrees = np.diff(self.indptr[first : last + 1].clip(start, stop))
            rows = np.repeat(np.arange(last - first), degrees)
            own = rows[self.node_of(rows + first) == self.other[start:stop]]
            counts[first:last] += np.bincount(own, minlength=last - first)
        return counts

    @cached_property
    def chunks(self) -> Chunks:
        """The rows in chunks."""
        return _cut(self.indptr, self.border)


def _cut(indptr: NDArray[np.int64], border: int) -> Chunks:
    num_rows = len(indptr) - 1
    cost = indptr + _ROW_COST * np.arange(num_rows + 1)
    total = int(cost[-1])
    chunk_cost = max(_CHUNK_COST, -(-total // _MAX_CHUNKS))
    hubs = np.flatnonzero(np.diff(indptr) > 2 * chunk_cost)
    even = np.searchsorted(cost, np.arange(0, total, chunk_cost), side="right") - 1
    cuts = np.unique(np.concatenate([even, hubs, hubs + 1, [0, border, num_rows]]))
    cuts = cuts[(cuts >= 0) & (cuts <= num_rows)]
    first, last = cuts[:-1], cuts[1:]
    is_hub = np.isin(first, hubs)
    pieces = np.where(is_hub, -(-(indptr[last] - indptr[first]) // chunk_cost), 1)
    at = np.repeat(np.arange(len(first)), pieces)
    piece = np.arange(len(at)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    table = np.empty((len(at), 5), np.int64)
    table[:, 0], table[:, 1] = first[at], last[at]
    table[:, 2] = np.where(is_hub[at], indptr[first[at]] + piece * chunk_cost, indptr[first[at]])
    table[:, 3] = np.where(
        is_hub[at], np.minimum(table[:, 2] + chunk_cost, indptr[last[at]]), indptr[last[at]]
    )
    table[:, 4] = -1
    segments = np.flatnonzero(is_hub[at])
    table[segments, 4] = np.arange(len(segments))
    return Chunks(table, table[segments, 0].copy(), int(np.sum(table[:, 1] <= border)))


def stretches(first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return first[i], ..., first[i] + count[i] - 1 for every i, one stretch after the other.

    Shape:
        first, count: (R,). Returns (sum of count,) int64.
    """
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    places: NDArray[np.int64] = np.repeat(first, count) + within
    return places


def outwards(
    indptr: NDArray[np.int64], other: NDArray[np.int32], num_masters: int, num_mirrors: int
) -> Adjacency:
    """Return edges by the node at their other end; a node's edges stay in order.

    Shape:
        indptr: (R + 1,). other: (E,) numbers of masters, then of mirrors.
    """
    num_rows = num_masters + num_mirrors
    num_edges = len(other)
    out_indptr, dst = np.zeros(num_rows + 1, np.int64), np.empty(num_edges, np.int32)
    position = np.empty(num_edges, np.int32 if num_edges < 2**31 else np.int64)
    _transpose(indptr, other, out_indptr, dst, position)
    return Adjacency(out_indptr, dst, position, border=num_masters)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _transpose(
    indptr: NDArray[np.int64],
    other: NDArray[np.int32],
    out_indptr: NDArray[np.int64],
    dst: NDArray[np.int32],
    position: NDArray[Any],
) -> None:
    """Turn a CSC into a CSR; a row's edges stay in CSC order.

    Shape:
        out_indptr: (sources + 1,) zeros, written. dst, position: (E,) written.
    """
    for e in range(other.shape[0]):
        out_indptr[other[e] + 1] += 1
    for i in range(1, out_indptr.shape[0]):
        out_indptr[i] += out_indptr[i - 1]
    for row in range(indptr.shape[0] - 1):
        for e in range(indptr[row], indptr[row + 1]):
            at = out_indptr[other[e]]
            dst[at] = row
            position[at] = e
            out_indptr[other[e]] = at + 1
    for i in range(out_indptr.shape[0] - 1, 0, -1):
        out_indptr[i] = out_indptr[i - 1]
    out_indptr[0] = 0
