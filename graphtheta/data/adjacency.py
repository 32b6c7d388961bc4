"""Edges grouped by node: in-edges of destinations (CSC) or out-edges of sources (CSR).

The rows are divided into chunks of about equal work for threads. Never imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["Adjacency", "Chunks", "concatenated_ranges", "transposed"]

_CHUNK_COST = 1 << 14  # an edge costs 1, a row 4
_MAX_CHUNKS = 2048  # larger graphs have larger chunks, as each needs memory for partial sums
_ROW_COST = 4


@dataclass(frozen=True)
class Chunks:
    """Division of rows into chunks.

    It depends only on the graph, so that sums have the same order for any number of threads.

    Attributes:
        table: (chunks, 5) int64: first row, last row, first edge, last edge, segment. A row with
            too many edges is divided into segments, one per chunk, numbered over all such rows. The
            segment of other chunks is -1.
        segment_row: (segments,) int64 row of each segment, ascending.
        num_first: Number of leading chunks whose rows are below the border.
    """

    table: NDArray[np.int64]
    segment_row: NDArray[np.int64]
    num_first: int


@dataclass(frozen=True)
class Adjacency:
    """Edges grouped by the node at one end, which is the row.

    Attributes:
        indptr: (rows + 1,) int64; the edges of row i are [indptr[i], indptr[i + 1]).
        other: (E,) int32 local id of the node at the other end of each edge.
        position: (E,) int32 or int64 position of each edge among the in-edges. None if these are
            the in-edges.
        border: Rows below it can be computed during an exchange: in-edges of rows that need no
            mirror, out-edges of masters. 0 if this is not used.
        leading: Rows below it have the same number among the nodes at the other ends.
        shift: Difference between the two numbers for all other rows.
        derived: What others have computed from the edges, kept as long as they are.
    """

    indptr: NDArray[np.int64]
    other: NDArray[np.int32]
    position: NDArray[Any] | None = None
    border: int = 0
    leading: int = 0
    shift: int = 0
    derived: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        """Number of edges."""
        return int(self.indptr[-1])

    def node_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of rows among the nodes at the other ends."""
        return rows + np.where(rows < self.leading, 0, self.shift)

    @cached_property
    def own_edges(self) -> NDArray[np.int64]:
        """Number of self-loops of each row: (rows,) int64, computed chunk by chunk."""
        counts = np.zeros(self.num_rows, np.int64)
        for first, last, start, stop, _ in self.chunks.table:
            degrees = np.diff(self.indptr[first : last + 1].clip(start, stop))
            rows = np.repeat(np.arange(last - first), degrees)
            own = rows[self.node_of(rows + first) == self.other[start:stop]]
            counts[first:last] += np.bincount(own, minlength=last - first)
        return counts

    @cached_property
    def chunks(self) -> Chunks:
        """Chunks of the rows."""
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


def concatenated_ranges(first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the concatenation of the ranges [first[i], first[i] + count[i]).

    Shape:
        first, count: (R,). Returns (sum of count,) int64.
    """
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    numbers: NDArray[np.int64] = np.repeat(first, count) + within
    return numbers


def transposed(
    indptr: NDArray[np.int64], other: NDArray[np.int32], num_masters: int, num_mirrors: int
) -> Adjacency:
    """Return edges grouped by the node at their other end; the edges of a node stay in order.

    Shape:
        indptr: (R + 1,). other: (E,) masters first, then mirrors.
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
    """Convert CSC to CSR; the edges of a row stay in CSC order.

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
