"""Clustering of nodes in one pass over the edges, and packing of the clusters into parts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import jit, prefetch_row
from graphtheta.partition.core.replica_bitset import PART_BITS

__all__ = ["join_clusters", "pack"]

_FAR, _NEAR = 16, 8  # edges ahead: prefetch a node's cluster, later the volume of that cluster


@jit
def join_clusters(
    src: NDArray[Any],
    dst: NDArray[Any],
    degree_N: NDArray[np.int64],
    cluster_N: NDArray[Any],
    volume_N: NDArray[np.int64],
    largest: int,
) -> None:
    """For each edge, move one endpoint into the cluster of the other if that has room.

    The endpoint whose cluster has less volume without it moves. It does not move if either cluster
    exceeds `largest` or the other cluster would. The number of a cluster is a node key.

    Args:
        src: Sources.
        dst: Destinations.
        degree_N: Degrees; self-loops count twice.
        cluster_N: Cluster of each node, at first its own key; updated in place.
        volume_N: Sum of the degrees of each cluster, at first the degrees of nodes; updated in
            place.
        largest: Greatest volume that a cluster may get.
    """
    far, near, end = np.uint64(_FAR), np.uint64(_NEAR), np.uint64(src.shape[0])
    for i in range(end):
        if i + far < end:
            u, v = np.uint64(src[i + far]), np.uint64(dst[i + far])
            prefetch_row(cluster_N, u)
            prefetch_row(cluster_N, v)
            prefetch_row(degree_N, u)
            prefetch_row(degree_N, v)
            prefetch_row(volume_N, np.uint64(cluster_N[np.uint64(src[i + near])]))
            prefetch_row(volume_N, np.uint64(cluster_N[np.uint64(dst[i + near])]))
        u, v = np.uint64(src[i]), np.uint64(dst[i])
        of_u, of_v = np.uint64(cluster_N[u]), np.uint64(cluster_N[v])
        if of_u == of_v or volume_N[of_u] > largest or volume_N[of_v] > largest:
            continue
        degree_u, degree_v = degree_N[u], degree_N[v]
        if volume_N[of_u] - degree_u <= volume_N[of_v] - degree_v:
            if volume_N[of_v] + degree_u <= largest:
                volume_N[of_u] -= degree_u
                volume_N[of_v] += degree_u
                cluster_N[u] = cluster_N[v]
        elif volume_N[of_u] + degree_v <= largest:
            volume_N[of_v] -= degree_v
            volume_N[of_u] += degree_v
            cluster_N[v] = cluster_N[u]


def pack(volume_N: NDArray[np.int64], num_parts: int) -> NDArray[np.int32]:
    """Assign clusters to parts: the largest first, each to the part of least volume.

    Source:
        Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 1969: the largest
        part has at most 4/3 of the volume of an optimal packing's.

    Shape:
        Returns (N,) int32; 0 where there is no cluster.
    """
    assert num_parts <= 1 << PART_BITS, "a heap entry has room for the parts"
    clusters = np.flatnonzero(volume_N)
    order = clusters[np.argsort(-volume_N[clusters], kind="stable")]
    part_N = np.zeros(volume_N.shape[0], np.int32)
    _pack(order, volume_N, np.arange(num_parts, dtype=np.int64), part_N)
    return part_N


@jit
def _pack(
    order: NDArray[np.int64],
    volume_N: NDArray[np.int64],
    heap_P: NDArray[np.int64],
    part_N: NDArray[np.int32],
) -> None:
    # A binary heap of integers that pack (volume, part); the top entry grows and sinks.
    count = heap_P.shape[0]
    for cluster in order:
        top = heap_P[0]
        part_N[cluster] = top & ((1 << PART_BITS) - 1)
        top += volume_N[cluster] << PART_BITS
        hole = 0
        while 2 * hole + 1 < count:
            child = 2 * hole + 1
            if child + 1 < count and heap_P[child + 1] < heap_P[child]:
                child += 1
            if heap_P[child] >= top:
                break
            heap_P[hole] = heap_P[child]
            hole = child
        heap_P[hole] = top
