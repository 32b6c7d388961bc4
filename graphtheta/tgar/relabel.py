"""Compiled loops that give the nodes and edges of a batch numbers of their own."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["list_new", "number_rows", "read_sources", "translate", "transpose"]

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@_jit
def number_rows(rows: NDArray[np.int64], first: int, slot: NDArray[np.int32]) -> None:
    """Give rows the numbers from `first` on."""
    for i in range(rows.shape[0]):
        slot[rows[i]] = first + i


@_jit
def read_sources(
    edges: NDArray[np.int64], src: NDArray[np.int32], other: NDArray[np.int32]
) -> None:
    """Write the source of each edge: (E,)."""
    for e in range(edges.shape[0]):
        other[e] = src[edges[e]]


@_jit
def list_new(other: NDArray[np.int32], slot: NDArray[np.int32], found: NDArray[np.int64]) -> int:
    """Return how many sources have no number yet, mark them by -2, and list each once.

    Shape:
        other: (E,) local ids. slot: (L,). found: (E,) written.
    """
    size = 0
    for e in range(other.shape[0]):
        source = other[e]
        if slot[source] == -1:
            slot[source] = -2
            found[size] = source
            size += 1
    return size


@_jit
def translate(slot: NDArray[np.int32], other: NDArray[np.int32]) -> None:
    """Replace local ids by the batch's numbers, in place."""
    for e in range(other.shape[0]):
        other[e] = slot[other[e]]


@_jit
def transpose(
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
