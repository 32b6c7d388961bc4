"""Local ids of a part's replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.ooc.bitmap import BitMap, Ranks
from graphtheta.partition.pipeline.order import Replicas

__all__ = ["LocalIds", "number_replicas"]


@dataclass(frozen=True, slots=True)
class LocalIds:
    """A part's replicas by local id: masters in their order, then mirrors by owner and id there.

    Shape:
        local: (L,) int32, of the replicas by node key. All others are by local id.
        node_key: (L,) int64. owner, owner_local: (L,) int32.
        in_indptr, out_indptr: (L + 1,) int64, where the edges of each begin in CSC and CSR.
    """

    local: NDArray[np.int32]
    node_key: NDArray[np.int64]
    owner: NDArray[np.int32]
    owner_local: NDArray[np.int32]
    in_indptr: NDArray[np.int64]
    out_indptr: NDArray[np.int64]


def number_replicas(
    part: int,
    replicas: Replicas,
    owner: NDArray[np.int32],
    owner_local: NDArray[np.int32],
    first_new_id: NDArray[np.int64],
    num_nodes: int,
) -> LocalIds:
    """Return the local ids of a part's replicas. Takes 3 bits a node of the graph.

    Args:
        part: The part.
        replicas: Its replicas.
        owner: The part that owns each.
        owner_local: Its local id there.
        first_new_id: The new id of each part's first master.
        num_nodes: Nodes of the graph.

    Shape:
        owner, owner_local: (L,). first_new_id: (P,).
    """
    # New ids ascend by owner and local id there: a replica's rank among them says where it goes.
    new_id = np.take(first_new_id, owner) + owner_local
    bits = BitMap(num_nodes)
    bits.add(new_id)
    local = Ranks(bits).find(new_id)
    size = len(local)
    node_key, by_owner = np.empty(size, np.int64), np.empty((2, size), np.int32)
    indptr = np.zeros((2, size + 1), np.int64)
    counts = replicas.in_count, replicas.out_count
    num_masters = int(np.count_nonzero(replicas.is_master))
    _number(
        part, num_masters, replicas.keys, owner, owner_local, *counts, local, node_key, by_owner,
        indptr,
    )  # fmt: skip
    return LocalIds(local, node_key, *by_owner, *indptr)


_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@_jit
def _number(
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
) -> None:  # pragma: no cover - compiled
    """Turn ranks among new ids into local ids, and put what is known of replicas in their order."""
    for i in range(keys.shape[0]):
        if owner[i] == part:
            local[i] = owner_local[i]
        elif owner[i] < part:  # the masters come before
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
