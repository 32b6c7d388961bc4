"""Vertex-cut by the endpoint of lower degree: hubs are cut, the many small nodes are not."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.degrees import count_degrees
from graphtheta.partition.core.edge_rule import EdgeRule
from graphtheta.partition.core.intrinsics import prefetch_row
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream, blocks
from graphtheta.rng.philox import Purpose, hash_key, step_key, stream_id

__all__ = ["DegreeBasedHashing"]

_AHEAD = 24  # edges between asking for an endpoint's word and reading it
_PART_BITS = 24  # of a node's word; its degree has the others


class DegreeBasedHashing(EdgeRule):
    """Put each edge where a hash of its endpoint of lower degree says; on a tie, of lower key.

    The degree of a node is its in-degree plus its out-degree. Memory: 8 bytes a node. Two passes:
    one counts degrees, one places.

    Communication:
        One all-reduce of 8 N bytes when there are several ranks.

    Source:
        Xie, Yan, Li, Zhang, "Distributed power-law graph computing: theoretical and empirical
        analysis", NIPS 2014.
    """

    name = "dbh"

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return the bytes that each rank holds over buffers: the degrees."""
        return 8 * num_nodes

    def learn(
        self, stream: EdgeStream, num_parts: int, *, seed: int, resources: Resources
    ) -> NDArray[np.int64]:
        """Return the degree of each node, and the part that its key hashes to."""
        assert num_parts < 1 << _PART_BITS, "more parts than a node's word has room for"
        resources.need(
            self.memory(stream.num_nodes, stream.num_edges, num_parts),
            "the degrees of all nodes",
            "Take the method edge-hash, which needs no memory.",
        )
        word_N = count_degrees(stream, resources)
        key_2, purpose = step_key(seed, 0), stream_id(Purpose.PLACEMENT)

        def add_parts(nodes: tuple[int, int]) -> None:
            _add_parts(word_N, *nodes, purpose, key_2, np.uint64(num_parts))

        resources.map(add_parts, blocks(0, stream.num_nodes))

        return word_N

    def place(
        self,
        src: NDArray[Any],
        dst: NDArray[Any],
        words: NDArray[np.int64],
        num_parts: int,
        *,
        seed: int,
    ) -> NDArray[np.int32]:
        """Return the parts of edges."""
        parts = np.empty(src.shape[0], np.int32)
        _place(src, dst, words, parts)
        return parts


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _add_parts(
    word_N: NDArray[np.int64],
    first: int,
    last: int,
    purpose: np.uint32,
    key: NDArray[np.uint32],
    num_parts: np.uint64,
) -> None:  # pragma: no cover - compiled
    # Degree and part of a node in one word: an edge then reads one line of cache an endpoint, and
    # hashes of few nodes are reckoned rather than of many edges.
    k0, k1 = key[0], key[1]
    for i in range(np.uint64(first), np.uint64(last)):
        part = np.int64(hash_key(np.uint64(i), purpose, k0, k1) % num_parts)
        word_N[i] = (word_N[i] << _PART_BITS) | part


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _place(
    src: NDArray[Any], dst: NDArray[Any], word_N: NDArray[np.int64], parts: NDArray[np.int32]
) -> None:  # pragma: no cover - compiled
    part_mask = (1 << _PART_BITS) - 1
    end, ahead = np.uint64(src.shape[0]), np.uint64(_AHEAD)
    for i in range(end):
        if i + ahead < end:
            prefetch_row(word_N, np.uint64(src[i + ahead]))
            prefetch_row(word_N, np.uint64(dst[i + ahead]))
        u, v = np.uint64(src[i]), np.uint64(dst[i])
        at_u, at_v = word_N[u], word_N[v]
        degree_u, degree_v = at_u >> _PART_BITS, at_v >> _PART_BITS
        # No short circuit: a branch here would be mispredicted every other time.
        by_src = (degree_u < degree_v) | ((degree_u == degree_v) & (u < v))
        parts[i] = np.int32((at_u if by_src else at_v) & part_mask)
