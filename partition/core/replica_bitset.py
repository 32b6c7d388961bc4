"""Bitsets of the parts that hold a replica of each node."""

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
    "prefetch_node",
    "replica_bytes",
    "words_per_node",
]

AHEAD = 12  # edges between prefetching the state of an endpoint and reading it
PART_BITS = 20  # low bits of an integer that packs a part with a degree or a load


def words_per_node(num_parts: int) -> int:
    """Return the number of 64-bit words of one node's bitset (W)."""
    return -(-num_parts // 64)


def replica_bytes(num_nodes: int, num_parts: int) -> int:
    """Return the size in bytes of the array that `new_replicas` returns."""
    return 8 * num_nodes * words_per_node(num_parts)


def new_replicas(num_nodes: int, num_parts: int) -> NDArray[np.uint64]:
    """Return empty bitsets: part p of node v is bit p % 64 of word v * W + p // 64.

    Shape:
        Returns (N * W,) uint64.
    """
    return np.zeros(num_nodes * words_per_node(num_parts), np.uint64)


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
def prefetch_node(
    node: np.uint64, degree_N: NDArray[np.int64], replicas: NDArray[np.uint64], words: np.uint64
) -> None:  # pragma: no cover - compiled
    """Prefetch the degree and the bitset of a node."""
    prefetch_row(degree_N, node)
    prefetch_row(replicas, node * words)


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
def add_replica(
    replicas: NDArray[np.uint64], words: np.uint64, node: np.uint64, part: np.uint64
) -> None:  # pragma: no cover - compiled
    """Add a part to the bitset of a node; safe for several threads at the same time."""
    at = node * words + (part >> np.uint64(6))
    bit = np.uint64(1) << (part & np.uint64(63))
    if not replicas[at] & bit:  # mostly set already, and a read costs less than a write
        or_at(replicas, at, bit)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def add_replicas(
    src: NDArray[Any],
    dst: NDArray[Any],
    parts: NDArray[np.int32],
    replicas: NDArray[np.uint64],
    words: np.uint64,
) -> None:  # pragma: no cover - compiled
    """Add each edge's part to the bitsets of its endpoints; safe for several threads.

    Edges whose part is negative are skipped. The result does not depend on the order of threads,
    because bits are only ever set.
    """
    for i in range(np.uint64(src.shape[0])):
        if parts[i] >= 0:
            part = np.uint64(parts[i])
            add_replica(replicas, words, np.uint64(src[i]), part)
            add_replica(replicas, words, np.uint64(dst[i]), part)
