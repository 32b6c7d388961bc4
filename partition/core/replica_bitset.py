"""Which parts hold a copy of each node: a set of bits a node, for methods that look at them."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import or_at, prefetch_row

__all__ = [
    "AHEAD",
    "PART_BITS",
    "add_replica",
    "add_replicas",
    "new_replicas",
    "prefetch_end",
    "replica_bytes",
    "words_of",
]

AHEAD = 12  # edges between asking for the state of an endpoint and reading it
PART_BITS = 20  # of a word that holds a part below something larger


def words_of(num_parts: int) -> int:
    """Return the 64-bit words of a set of parts (W)."""
    return -(-num_parts // 64)


def replica_bytes(num_nodes: int, num_parts: int) -> int:
    """Return the bytes of `new_replicas`."""
    return 8 * num_nodes * words_of(num_parts)


def new_replicas(num_nodes: int, num_parts: int) -> NDArray[np.uint64]:
    """Return empty sets: part p of node v is bit p % 64 of word v * W + p // 64.

    Shape:
        Returns (N * W,) uint64.
    """
    return np.zeros(num_nodes * words_of(num_parts), np.uint64)


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
def prefetch_end(
    node: np.uint64, degree_N: NDArray[np.int64], replicas: NDArray[np.uint64], words: np.uint64
) -> None:  # pragma: no cover - compiled
    """Start to load what is known of a node."""
    prefetch_row(degree_N, node)
    prefetch_row(replicas, node * words)


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
def add_replica(
    replicas: NDArray[np.uint64], words: np.uint64, node: np.uint64, part: np.uint64
) -> None:  # pragma: no cover - compiled
    """Note that a node is in a part; several threads may do so at once."""
    at = node * words + (part >> np.uint64(6))
    bit = np.uint64(1) << (part & np.uint64(63))
    if not replicas[at] & bit:  # mostly it is there, and looking costs less than writing
        or_at(replicas, at, bit)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def add_replicas(
    src: NDArray[Any],
    dst: NDArray[Any],
    parts: NDArray[np.int32],
    replicas: NDArray[np.uint64],
    words: np.uint64,
) -> None:  # pragma: no cover - compiled
    """Note that each edge's endpoints are in its part; several threads may do so at once.

    Edges of negative parts are noted already. Sets grow only, and OR has no order, so the result
    does not depend on who comes first.
    """
    for i in range(np.uint64(src.shape[0])):
        if parts[i] >= 0:
            part = np.uint64(parts[i])
            add_replica(replicas, words, np.uint64(src[i]), part)
            add_replica(replicas, words, np.uint64(dst[i]), part)
