"""Vertex-cut by a hash of the endpoint of lower degree: only hubs get many mirrors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.degrees import count_degrees
from graphtheta.partition.core.edge_rule import EdgeRule
from graphtheta.partition.core.intrinsics import jit, prefetch_row
from graphtheta.partition.core.partitioner import PartitionJob
from graphtheta.partition.core.stream import EdgeChunk, chunk_ranges
from graphtheta.rng.philox import Purpose, hash_key, step_key, stream_id

__all__ = ["DegreeBasedHashing"]

_AHEAD = 24  # edges between prefetching an endpoint's code and reading it
_PART_BITS = 24  # low bits of a node's code, which hold its part; the others hold its degree


class DegreeBasedHashing(EdgeRule):
    """Assign each edge to the part that its endpoint of lower degree hashes to.

    The degree of a node is its in-degree plus its out-degree. On a tie, the endpoint of lower key
    decides. Memory: 8 bytes per node. Two passes: the first counts degrees, the second assigns.

    Communication:
        One all-reduce of 8 N bytes if there are several ranks.

    Source:
        Xie, Yan, Li, Zhang, "Distributed power-law graph computing: theoretical and empirical
        analysis", NIPS 2014.
    """

    name = "dbh"

    def _encode_nodes(self, job: PartitionJob) -> NDArray[np.int64]:
        assert job.num_parts < 1 << _PART_BITS, "a code has room for the parts"
        code_N = count_degrees(job.stream, job.resources)
        key_2, purpose = step_key(job.seed, 0), stream_id(Purpose.PLACEMENT)

        def add_parts(nodes: tuple[int, int]) -> None:
            _add_parts(code_N, *nodes, purpose, key_2, np.uint64(job.num_parts))

        job.resources.map(add_parts, chunk_ranges(0, job.stream.num_nodes))
        return code_N

    def place(
        self, edges: EdgeChunk, code_N: NDArray[np.int64], num_parts: int, *, seed: int
    ) -> NDArray[np.int32]:
        parts = np.empty(edges[0].shape[0], np.int32)
        _place(*edges, code_N, parts)
        return parts


@jit
def _add_parts(
    code_N: NDArray[np.int64],
    first: int,
    last: int,
    purpose: np.uint32,
    key: NDArray[np.uint32],
    num_parts: np.uint64,
) -> None:
    # A node's degree and part share one integer, so that an edge reads one cache line per endpoint;
    # and nodes, which are fewer than edges, are hashed once.
    k0, k1 = key[0], key[1]
    for i in range(np.uint64(first), np.uint64(last)):
        part = np.int64(hash_key(np.uint64(i), purpose, k0, k1) % num_parts)
        code_N[i] = (code_N[i] << _PART_BITS) | part


@jit
def _place(
    src: NDArray[Any], dst: NDArray[Any], code_N: NDArray[np.int64], parts: NDArray[np.int32]
) -> None:
    part_mask = (1 << _PART_BITS) - 1
    end, ahead = np.uint64(src.shape[0]), np.uint64(_AHEAD)
    for i in range(end):
        if i + ahead < end:
            prefetch_row(code_N, np.uint64(src[i + ahead]))
            prefetch_row(code_N, np.uint64(dst[i + ahead]))
        u, v = np.uint64(src[i]), np.uint64(dst[i])
        code_u, code_v = code_N[u], code_N[v]
        degree_u, degree_v = code_u >> _PART_BITS, code_v >> _PART_BITS
        # Bitwise, not short-circuiting: a branch would be mispredicted every other time.
        by_src = (degree_u < degree_v) | ((degree_u == degree_v) & (u < v))
        parts[i] = np.int32((code_u if by_src else code_v) & part_mask)
