"""Sampling of the in-edges of nodes, with the same result for any distribution of the edges.

The in-edges of a node have positions 0 to d - 1 in the whole graph, ordered by edge_key. A draw
chooses positions, keyed by (seed, step), node_key and layer, and each worker keeps the edges that
it holds. A weighted draw gives each edge a priority, keyed by edge_key, so that workers that hold
parts of a list of in-edges can merge their best edges.

Sources: Floyd's algorithm (Bentley, Floyd, CACM 30(9), 1987) without replacement; Efraimidis,
Spirakis, "Weighted random sampling with a reservoir", Inf. Process. Lett. 97(5), 2006.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.rng.philox import philox

__all__ = [
    "draw_positions",
    "draw_priorities",
    "edges_at",
    "edges_of",
    "find_in_row",
    "number_drawn",
]

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
def _below(high: np.uint32, low: np.uint32, bound: np.uint64) -> np.int64:
    """Return a number in [0, bound), bound < 2^32, from 64 random bits."""
    shift = np.uint64(32)
    carried = (np.uint64(low) * bound) >> shift
    return np.int64((np.uint64(high) * bound + carried) >> shift)


def number_drawn(degree_R: NDArray[np.int64], fanout: int, *, replace: bool) -> NDArray[np.int64]:
    """Return the number of positions to draw from lists of the given lengths.

    Shape:
        degree_R: (R,) int64. Returns (R,) int64.
    """
    if replace:
        return np.where(degree_R > 0, np.int64(fanout), 0)
    return np.minimum(degree_R, fanout)


@_jit
def draw_positions(
    key_R: NDArray[np.int64],
    degree_R: NDArray[np.int64],
    count_R: NDArray[np.int64],
    replace: bool,
    stream: np.uint32,
    key_2: NDArray[np.uint32],
    out_D: NDArray[np.int64],
) -> None:
    """Draw positions in the list of each row, in ascending order.

    Without replacement, all positions are drawn if the fan-out is not smaller than the list.

    Shape:
        key_R: (R,) node keys. degree_R: (R,) lengths of the lists in the whole graph, less than
        2^32. count_R: (R,) numbers of draws, from `number_drawn`. out_D: (sum of count_R,)
        positions, row after row; written.
    """
    most = 1
    for r in range(key_R.shape[0]):
        if not replace and count_R[r] < degree_R[r]:
            most = max(most, count_R[r])
    size = 2
    while size < 2 * most:
        size *= 2
    table = np.empty(size, np.int64)
    end = 0
    for r in range(key_R.shape[0]):
        degree, fanout = degree_R[r], count_R[r]
        out = out_D[end : end + fanout]
        end += fanout
        if not replace and degree == fanout:
            for i in range(degree):
                out[i] = i
            continue
        low = np.uint32(np.uint64(key_R[r]))
        high = np.uint32(np.uint64(key_R[r]) >> np.uint64(32))
        if not replace:
            table[:] = -1
        a = b = c = d = np.uint32(0)
        for i in range(fanout):
            if i % 2 == 0:
                a, b, c, d = philox(np.uint32(i // 2), low, high, stream, key_2[0], key_2[1])
            else:
                a, b = c, d
            if replace:
                chosen = _below(a, b, np.uint64(degree))
            else:
                last = degree - fanout + i
                chosen = _below(a, b, np.uint64(last + 1))
                at = chosen & (size - 1)
                while table[at] >= 0 and table[at] != chosen:
                    at = (at + 1) & (size - 1)
                if table[at] == chosen:  # drawn before; `last` cannot have been drawn
                    chosen = last
                    at = chosen & (size - 1)
                    while table[at] >= 0:
                        at = (at + 1) & (size - 1)
                table[at] = chosen
            j = i
            while j > 0 and out[j - 1] > chosen:
                out[j] = out[j - 1]
                j -= 1
            out[j] = chosen


@_jit
def find_in_row(column: NDArray[np.int64], first: int, last: int, wanted: int) -> int:
    """Return the position of a value in the ascending values column[first:last], or -1."""
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        if column[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < last and column[low] == wanted else -1


@_jit
def edges_at(
    row_R: NDArray[np.int64],
    indptr: NDArray[np.int64],
    in_position: NDArray[np.int64],
    is_whole: bool,
    position_D: NDArray[np.int64],
    count_R: NDArray[np.int64],
    edges: NDArray[np.int64],
) -> int:
    """Find the local edges at drawn positions of the in-edge lists, and return their number.

    Args:
        row_R: Local ids of the destinations.
        indptr: First local edge of each local node.
        in_position: Position of each local edge among all in-edges of its destination.
        is_whole: Whether this worker holds all in-edges of its nodes, so that no search is needed.
        position_D: Drawn positions, row after row.
        count_R: Number of positions of each row; overwritten by the number of edges found.
        edges: Local edges, row after row; written.

    Shape:
        row_R, count_R: (R,). position_D, edges: (D,).
    """
    size = begin = 0
    for r in range(row_R.shape[0]):
        first, last, before = indptr[row_R[r]], indptr[row_R[r] + 1], size
        if is_whole:
            for i in range(count_R[r]):
                edges[size] = first + position_D[begin + i]
                size += 1
        else:
            for i in range(count_R[r]):
                edge = find_in_row(in_position, first, last, position_D[begin + i])
                if edge >= 0:
                    edges[size] = edge
                    size += 1
        begin += count_R[r]
        count_R[r] = size - before
    return size


@_jit
def edges_of(
    row_R: NDArray[np.int64],
    indptr: NDArray[np.int64],
    src: NDArray[np.int32],
    allowed: NDArray[np.uint8],
    count_R: NDArray[np.int64],
    edges: NDArray[np.int64],
) -> int:
    """List the local in-edges of some nodes, and return their number.

    Shape:
        row_R: (R,) local ids of the destinations. allowed: (L,) whether edges of a source count;
        (0,) if all do. count_R: (R,) number of edges of each row; written. edges: as long as all
        edges of the rows; written.
    """
    size = 0
    for r in range(row_R.shape[0]):
        before = size
        for e in range(indptr[row_R[r]], indptr[row_R[r] + 1]):
            if allowed.shape[0] == 0 or allowed[src[e]]:
                edges[size] = e
                size += 1
        count_R[r] = size - before
    return size


@_jit
def draw_priorities(
    row_R: NDArray[np.int64],
    indptr: NDArray[np.int64],
    edge_key: NDArray[np.int64],
    weight: NDArray[Any],
    fanout: int,
    replace: bool,
    stream: np.uint32,
    key_2: NDArray[np.uint32],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw local in-edges by weight: those with the smallest priorities -log(u) / weight.

    Without replacement, a row contains its smallest priorities in ascending order. With
    replacement, column f contains the smallest priority of draw f. An edge of weight 0 is never
    drawn.

    Shape:
        row_R: (R,) local ids of the destinations. Returns (R, fanout) float64 priorities, infinite
        where there is no edge, and (R, fanout) int64 local edges, -1 where there is none.
    """
    draws = fanout if replace else 1
    priority_RF = np.full((row_R.shape[0], fanout), math.inf)
    edge_RF = np.full((row_R.shape[0], fanout), -1, np.int64)
    for r in range(row_R.shape[0]):
        priority, edge = priority_RF[r], edge_RF[r]
        for e in range(indptr[row_R[r]], indptr[row_R[r] + 1]):
            if not weight[e] > 0:
                continue
            low = np.uint32(np.uint64(edge_key[e]))
            high = np.uint32(np.uint64(edge_key[e]) >> np.uint64(32))
            a = b = c = d = np.uint32(0)
            for f in range(draws):
                if f % 2 == 0:
                    a, b, c, d = philox(np.uint32(f // 2), low, high, stream, key_2[0], key_2[1])
                else:
                    a, b = c, d
                bits = (np.uint64(a) << np.uint64(20)) ^ np.uint64(b >> np.uint32(12))
                uniform = (float(bits) + 0.5) / 4503599627370496.0  # in (0, 1), 52 bits
                value = -math.log(uniform) / weight[e]
                if replace:
                    if value < priority[f]:
                        priority[f], edge[f] = value, e
                elif value < priority[fanout - 1]:
                    i = fanout - 1
                    while i > 0 and priority[i - 1] > value:
                        priority[i], edge[i] = priority[i - 1], edge[i - 1]
                        i -= 1
                    priority[i], edge[i] = value, e
    return priority_RF, edge_RF
