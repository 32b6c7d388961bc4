"""Drawing some in-edges of each destination, the same ones wherever the edges are.

A node's in-edges have positions 0 to d - 1 in the whole graph, by edge_key. What is drawn are
positions, keyed by (seed, step), node_key and layer; a worker keeps those that it holds. Weighted
draws rank every edge by a number of its own, keyed by edge_key, so that workers that hold parts of
a list can merge their best.

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
    "draw_ranks",
    "edges_at",
    "edges_of",
    "number_drawn",
    "place_in_row",
]

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
def _below(high: np.uint32, low: np.uint32, bound: np.uint64) -> np.int64:
    """Return a number in [0, bound), bound < 2^32, from 64 random bits."""
    shift = np.uint64(32)
    carried = (np.uint64(low) * bound) >> shift
    return np.int64((np.uint64(high) * bound + carried) >> shift)


def number_drawn(degree_R: NDArray[np.int64], fanout: int, *, replace: bool) -> NDArray[np.int64]:
    """Return how many positions are drawn in lists of some lengths: (R,) int64."""
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
    """Draw positions in each row's list, ascending: all of them where there are no more.

    Shape:
        key_R: node keys. degree_R: lengths of the lists in the whole graph, below 2^32. count_R:
        how many are drawn, as of `number_drawn`. out_D: as long as all of these, row after row;
        written.
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
                if table[at] == chosen:  # taken: then the last one cannot be
                    chosen = last
                    at = chosen & (size - 1)
                    while table[at] >= 0:
                        at = (at + 1) & (size - 1)
                table[at] = chosen
            place = i
            while place > 0 and out[place - 1] > chosen:
                out[place] = out[place - 1]
                place -= 1
            out[place] = chosen


@_jit
def place_in_row(column: NDArray[np.int64], first: int, last: int, wanted: int) -> int:
    """Return where a row's ascending values, column[first:last], hold one; -1 if they do not."""
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
    """Turn positions into places of the edges held here; return how many there are.

    Where `is_whole`, every list is held whole, and a position is a place.

    Shape:
        row_R: local rows. position_D: row after row. count_R: of positions, then of edges. edges:
        as long as all positions, written.
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
                place = place_in_row(in_position, first, last, position_D[begin + i])
                if place >= 0:
                    edges[size] = place
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
    """Return how many edges the rows have, and write their places.

    Shape:
        allowed: (L,), which sources count; empty: all. count_R: written. edges: as long as all
        edges of the rows, written.
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
def draw_ranks(
    row_R: NDArray[np.int64],
    indptr: NDArray[np.int64],
    edge_key: NDArray[np.int64],
    weight: NDArray[Any],
    fanout: int,
    replace: bool,
    stream: np.uint32,
    key_2: NDArray[np.uint32],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rank the edges of each row by -log(u) / weight and keep the smallest, ascending.

    With replacement column f holds the smallest of the f-th draw. Where there is none the rank is
    infinite; an edge of weight 0 is never drawn.

    Shape:
        Returns (R, fanout) ranks, and (R, fanout) int64 places, -1 where there is no edge.
    """
    draws = fanout if replace else 1
    rank_RF = np.full((row_R.shape[0], fanout), math.inf)
    edge_RF = np.full((row_R.shape[0], fanout), -1, np.int64)
    for r in range(row_R.shape[0]):
        rank, edge = rank_RF[r], edge_RF[r]
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
                    if value < rank[f]:
                        rank[f], edge[f] = value, e
                elif value < rank[fanout - 1]:
                    place = fanout - 1
                    while place > 0 and rank[place - 1] > value:
                        rank[place], edge[place] = rank[place - 1], edge[place - 1]
                        place -= 1
                    rank[place], edge[place] = value, e
    return rank_RF, edge_RF
