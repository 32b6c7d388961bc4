"""Vertex-cut by a grid of parts: a node's copies stay within one row and one column."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.edge_rule import EdgeRule
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream, blocks
from graphtheta.rng.philox import Purpose, hash_key, step_key, stream_id

__all__ = ["Grid"]

_FIELD_BITS = 16  # of each of a node's three coordinates


class Grid(EdgeRule):
    """Put each edge into the column of its source and the row of its destination.

    P parts fill ceil(sqrt P) columns of equal height but for the last, which takes the rest, as
    GraphX does: every part is one cell, whatever P is. A source draws a column in proportion to
    its height, so that all cells expect as many edges. Both coordinates of a node are those of one
    home cell, wherever it has one in the column: a node is in at most rows + columns - 1 parts.

    Memory: 8 bytes a node. One pass.

    Communication:
        None.

    Source:
        Jain, Liao, Willke, "GraphBuilder", GRADES 2013 (grid); Gonzalez et al., "GraphX", OSDI
        2014 (EdgePartition2D); Chen et al., "PowerLyra", EuroSys 2015 (comparison).
    """

    name = "grid"

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return the bytes that each rank holds over buffers: the coordinates of all nodes."""
        return 8 * num_nodes

    def learn(
        self, stream: EdgeStream, num_parts: int, *, seed: int, resources: Resources
    ) -> NDArray[np.int64]:
        """Return the coordinates of each node."""
        resources.need(
            self.memory(stream.num_nodes, stream.num_edges, num_parts),
            "the coordinates of all nodes",
            "Take the method edge-hash, which needs no memory.",
        )
        columns, rows = _size(num_parts)
        assert columns < 1 << _FIELD_BITS, "more columns than a node's word has room for"
        word_N = np.empty(stream.num_nodes, np.int64)
        key_2, purpose = step_key(seed, 0), stream_id(Purpose.PLACEMENT)

        def locate(nodes: tuple[int, int]) -> None:
            _locate(word_N, *nodes, purpose, key_2, num_parts, columns, rows)

        resources.map(locate, blocks(0, stream.num_nodes))

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
        _place(src, dst, words, *_size(num_parts), parts)
        return parts


def _size(num_parts: int) -> tuple[int, int]:
    """Return columns and rows of the grid."""
    columns = math.isqrt(num_parts - 1) + 1  # the root, rounded up
    return columns, -(-num_parts // columns)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _locate(
    word_N: NDArray[np.int64],
    first: int,
    last: int,
    purpose: np.uint32,
    key: NDArray[np.uint32],
    num_parts: int,
    columns: int,
    rows: int,
) -> None:  # pragma: no cover - compiled
    k0, k1 = key[0], key[1]
    before_last = rows * (columns - 1)  # parts in full columns
    for i in range(np.uint64(first), np.uint64(last)):
        drawn = hash_key(np.uint64(i), purpose, k0, k1)
        home = np.int64(drawn % np.uint64(num_parts))
        other = np.int64(drawn >> np.uint64(32))
        column = home // rows
        # The row in a full column, and that in the last one. Where the home cell says nothing, as
        # it is in the other kind of column, other bits of the hash do.
        in_last = home >= before_last
        row = other % rows if in_last else home % rows
        last_row = home - before_last if in_last else other % (num_parts - before_last)
        word_N[i] = column | (row << _FIELD_BITS) | (last_row << (2 * _FIELD_BITS))


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _place(
    src: NDArray[Any],
    dst: NDArray[Any],
    word_N: NDArray[np.int64],
    columns: int,
    rows: int,
    parts: NDArray[np.int32],
) -> None:  # pragma: no cover - compiled
    field = (1 << _FIELD_BITS) - 1
    for i in range(np.uint64(src.shape[0])):
        column = word_N[np.uint64(src[i])] & field
        word = word_N[np.uint64(dst[i])]
        shift = 2 * _FIELD_BITS if column == columns - 1 else _FIELD_BITS
        parts[i] = np.int32(column * rows + ((word >> shift) & field))
