"""Local ids of the replicas of a part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.ooc.bitmap import BitMap, MemberPositions
from graphtheta.partition.pipeline.order import Replicas

__all__ = ["LocalIds", "assign_local_ids"]


@dataclass(frozen=True, slots=True)
class LocalIds:
    """Local ids of the replicas of a part, and the replicas in the order of these ids.

    Masters come first, in the order of `order_masters`, then mirrors by owner and local id there.

    Attributes:
        local: Local id of each replica, in the order of the node keys.
        node_key: Node key of each replica, in the order of the local ids, as all that follow.
        owner: Part that owns it.
        owner_local: Local id at the owner.
        in_indptr: Bounds of the in-edges of each replica in the CSC.
        out_indptr: Bounds of the out-edges of each replica in the CSR.

    Shape:
        local, owner, owner_local: (L,) int32. node_key: (L,) int64.
        in_indptr, out_indptr: (L + 1,) int64.
    """

    local: NDArray[np.int32]
    node_key: NDArray[np.int64]
    owner: NDArray[np.int32]
    owner_local: NDArray[np.int32]
    in_indptr: NDArray[np.int64]
    out_indptr: NDArray[np.int64]


def assign_local_ids(
    part: int,
    replicas: Replicas,
    owner: NDArray[np.int32],
    owner_local: NDArray[np.int32],
    first_new_id: NDArray[np.int64],
    num_nodes: int,
) -> LocalIds:
    """Return the local ids of the replicas of a part. Takes 3 bits for each node of the graph.

    Args:
        part: The part.
        replicas: Its replicas.
        owner: Part that owns each replica.
        owner_local: Local id of each replica at its owner.
        first_new_id: New id of the first master of each part.
        num_nodes: Number of nodes of the graph.

    Shape:
        owner, owner_local: (L,). first_new_id: (P,).
    """
    # New ids ascend by owner, then by local id there, which is the order of the mirrors.
    new_id = np.take(first_new_id, owner) + owner_local
    bits = BitMap(num_nodes)
    bits.add(new_id)
    local = MemberPositions(bits).find(new_id)
    size = len(local)
    node_key, by_owner = np.empty(size, np.int64), np.empty((2, size), np.int32)
    indptr = np.zeros((2, size + 1), np.int64)
    counts = replicas.in_count, replicas.out_count
    num_masters = int(np.count_nonzero(replicas.is_master))
    _fill(
        part, num_masters, replicas.keys, owner, owner_local, *counts, local, node_key, by_owner,
        indptr,
    )  # fmt: skip
    return LocalIds(local, node_key, *by_owner, *indptr)


@jit
def _fill(
    part: int,
    num_masters: int,
    keys: NDArray[Any],
    owner: NDArray[np.int32],
    owner_local: NDArray[np.int32],
    in_count: NDArray[Any],
    out_count: NDArray[Any],
    local: NDArray[np.int32],
    node_key: NDArray[np.int64],
    by_owner: NDArray[np.int32],
    indptr: NDArray[np.int64],
) -> None:
    """Turn positions among sorted new ids into local ids, and fill the arrays in their order."""
    for i in range(keys.shape[0]):
        if owner[i] == part:
            local[i] = owner_local[i]
        elif owner[i] < part:  # masters come before these mirrors
            local[i] += num_masters
        at = np.uint64(local[i])
        node_key[at] = keys[i]
        by_owner[0, at] = owner[i]
        by_owner[1, at] = owner_local[i]
        indptr[0, at + np.uint64(1)] = in_count[i]
        indptr[1, at + np.uint64(1)] = out_count[i]
    for i in range(keys.shape[0]):
        indptr[0, i + 1] += indptr[0, i]
        indptr[1, i + 1] += indptr[1, i]
