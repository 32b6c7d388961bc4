"""Compiled loops that give the nodes of a batch their row numbers in a block.

`block_row` is an array with the row of each replica of the shard in the block, or -1.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["list_new", "number_rows", "read_sources", "translate"]

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@_jit
def number_rows(replicas: NDArray[np.int64], first: int, block_row: NDArray[np.int32]) -> None:
    """Number replicas from `first` on, in order."""
    for i in range(replicas.shape[0]):
        block_row[replicas[i]] = first + i


@_jit
def read_sources(
    edges: NDArray[np.int64], src: NDArray[np.int32], other: NDArray[np.int32]
) -> None:
    """Write the source of each edge: (E,)."""
    for e in range(edges.shape[0]):
        other[e] = src[edges[e]]


@_jit
def list_new(src: NDArray[np.int32], block_row: NDArray[np.int32], found: NDArray[np.int64]) -> int:
    """List each source without a row once, mark it by -2, and return the number of them.

    Shape:
        src: (E,) local ids. block_row: (L,). found: (E,) written.
    """
    size = 0
    for e in range(src.shape[0]):
        source = src[e]
        if block_row[source] == -1:
            block_row[source] = -2
            found[size] = source
            size += 1
    return size


@_jit
def translate(block_row: NDArray[np.int32], src: NDArray[np.int32]) -> None:
    """Replace local ids by rows of the block, in place."""
    for e in range(src.shape[0]):
        src[e] = block_row[src[e]]
