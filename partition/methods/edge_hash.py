"""Vertex-cut by a hash of the edge: balances edges, but makes the most mirrors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.edge_rule import EdgeRule
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.partitioner import PartitionJob
from graphtheta.partition.core.stream import EdgeChunk
from graphtheta.rng.philox import Purpose, hash_key, step_key, stream_id

__all__ = ["EdgeHash"]


class EdgeHash(EdgeRule):
    """Assign each edge to a random part; parallel edges get the same part.

    Memory: buffers only. One pass.

    Communication:
        None.

    Source:
        Gonzalez et al., "PowerGraph", OSDI 2012, section 5.1 (random vertex-cut).
    """

    name = "edge-hash"

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        return 0

    def _encode_nodes(self, job: PartitionJob) -> NDArray[np.int64]:
        return np.empty(0, np.int64)

    def place(
        self, edges: EdgeChunk, code_N: NDArray[np.int64], num_parts: int, *, seed: int
    ) -> NDArray[np.int32]:
        key_2, purpose = step_key(seed, 0), stream_id(Purpose.PLACEMENT)
        parts = np.empty(edges[0].shape[0], np.int32)
        _place(*edges, purpose, key_2, np.uint64(num_parts), parts)
        return parts


@jit
def _place(
    src: NDArray[Any],
    dst: NDArray[Any],
    purpose: np.uint32,
    key: NDArray[np.uint32],
    num_parts: np.uint64,
    parts: NDArray[np.int32],
) -> None:
    k0, k1 = key[0], key[1]
    for i in range(np.uint64(src.shape[0])):
        pair = hash_key(np.uint64(src[i]), purpose, k0, k1) + np.uint64(dst[i])
        parts[i] = np.int32(hash_key(pair, purpose, k0, k1) % num_parts)
