"""Bitsets of the parts that hold a replica of each node."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import inline_jit, jit, or_at, prefetch_row

__all__ = [
    "AHEAD",
    "PART_BITS",
    "Replicas",
    "add_replica",
    "add_replicas",
    "has_replica",
    "new_replicas",
    "prefetch_node",
    "replica_bytes",
]

AHEAD = 12  # edges between prefetching the state of an endpoint and reading it
PART_BITS = 20  # low bits of an integer that packs a part with a degree or a load


class Replicas(NamedTuple):
    """Parts of every node: part p of node v is bit p % 64 of bits[v * words + p // 64].

    Shape:
        bits: (N * words,).
    """

    bits: NDArray[np.uint64]
    words: np.uint64


def replica_bytes(num_nodes: int, num_parts: int) -> int:
    """Return the bytes that the bitsets of all nodes take."""
    return 8 * num_nodes * _words(num_parts)


def new_replicas(num_nodes: int, num_parts: int) -> Replicas:
    """Return empty bitsets."""
    words = _words(num_parts)
    return Replicas(np.zeros(num_nodes * words, np.uint64), np.uint64(words))


def _words(num_parts: int) -> int:
    return -(-num_parts // 64)


@inline_jit
def prefetch_node(node: np.uint64, degree_N: NDArray[np.int64], replicas: Replicas) -> None:
    """Prefetch the degree and the bitset of a node."""
    prefetch_row(degree_N, node)
    prefetch_row(replicas.bits, node * replicas.words)


@inline_jit
def has_replica(replicas: Replicas, node: np.uint64, part: np.uint64) -> np.int64:
    """Return 1 if a part has a replica of a node, else 0."""
    word = replicas.bits[node * replicas.words + (part >> np.uint64(6))]
    return np.int64((word >> (part & np.uint64(63))) & np.uint64(1))


@inline_jit
def add_replica(replicas: Replicas, node: np.uint64, part: np.uint64) -> None:
    """Add a part to the bitset of a node; safe for several threads at the same time."""
    word = node * replicas.words + (part >> np.uint64(6))
    bit = np.uint64(1) << (part & np.uint64(63))
    if not replicas.bits[word] & bit:  # mostly set already, and a read costs less than a write
        or_at(replicas.bits, word, bit)


@jit
def add_replicas(
    src: NDArray[Any], dst: NDArray[Any], parts: NDArray[np.int32], replicas: Replicas
) -> None:
    """Add each edge's part to the bitsets of its endpoints; safe for several threads.

    Edges whose part is negative are skipped. The result does not depend on the order of threads,
    because bits are only ever set.
    """
    for i in range(np.uint64(src.shape[0])):
        if parts[i] >= 0:
            part = np.uint64(parts[i])
            add_replica(replicas, np.uint64(src[i]), part)
            add_replica(replicas, np.uint64(dst[i]), part)
