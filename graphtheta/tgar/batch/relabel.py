"""Compiled loops that give the nodes and edges of a batch numbers of their own."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["list_new", "number_rows", "read_sources", "translate"]

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
