"""Vertex-cut by a grid of parts: a node's replicas are in one row and one column."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.edge_rule import EdgeRule
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.partitioner import PartitionJob
from graphtheta.partition.core.stream import EdgeChunk, chunk_ranges
from graphtheta.rng.philox import Purpose, hash_key, step_key, stream_id

__all__ = ["Grid"]

_FIELD_BITS = 16  # bits of each of the three coordinates that a node's code packs


class Grid(EdgeRule):
    """Assign each edge to the part in the column of its source and the row of its destination.

    P parts fill ceil(sqrt P) columns of equal height, except that the last takes what remains, as
    in GraphX; every cell is a part, for any P. A source draws a column with a probability
    proportional to its height, so that all cells expect equally many edges. The row and the column
    of a node are those of one cell where the column has that row, so a node has at most
    rows + columns - 1 replicas.

    Memory: 8 bytes per node. One pass.

    Communication:
        None.

    Source:
        Jain, Liao, Willke, "GraphBuilder", GRADES 2013 (grid); Gonzalez et al., "GraphX", OSDI
        2014 (EdgePartition2D); Chen et al., "PowerLyra", EuroSys 2015 (comparison).
    """

    name = "grid"

    def _encode_nodes(self, job: PartitionJob) -> NDArray[np.int64]:
        columns, rows = _size(job.num_parts)
        assert columns < 1 << _FIELD_BITS, "a code has room for the columns"
        code_N = np.empty(job.stream.num_nodes, np.int64)
        key_2, purpose = step_key(job.seed, 0), stream_id(Purpose.PLACEMENT)

        def encode(nodes: tuple[int, int]) -> None:
            _encode(code_N, *nodes, purpose, key_2, job.num_parts, columns, rows)

        job.resources.map(encode, chunk_ranges(0, job.stream.num_nodes))
        return code_N

    def place(
        self, edges: EdgeChunk, code_N: NDArray[np.int64], num_parts: int, *, seed: int
    ) -> NDArray[np.int32]:
        parts = np.empty(edges[0].shape[0], np.int32)
        _place(*edges, code_N, *_size(num_parts), parts)
        return parts


def _size(num_parts: int) -> tuple[int, int]:
    """Return the numbers of columns and rows."""
    columns = math.isqrt(num_parts - 1) + 1  # the square root, rounded up
    return columns, -(-num_parts // columns)


@jit
def _encode(
    code_N: NDArray[np.int64],
    first: int,
    last: int,
    purpose: np.uint32,
    key: NDArray[np.uint32],
    num_parts: int,
    columns: int,
    rows: int,
) -> None:
    k0, k1 = key[0], key[1]
    before_last = rows * (columns - 1)  # parts in full columns
    for i in range(np.uint64(first), np.uint64(last)):
        drawn = hash_key(np.uint64(i), purpose, k0, k1)
        cell = np.int64(drawn % np.uint64(num_parts))
        other = np.int64(drawn >> np.uint64(32))
        column = cell // rows
        # A row for full columns and another for the last column, which may be shorter. The cell is
        # in a column of one kind; for the other kind, other bits of the hash choose the row.
        in_last = cell >= before_last
        row = other % rows if in_last else cell % rows
        last_row = cell - before_last if in_last else other % (num_parts - before_last)
        code_N[i] = column | (row << _FIELD_BITS) | (last_row << (2 * _FIELD_BITS))


@jit
def _place(
    src: NDArray[Any],
    dst: NDArray[Any],
    code_N: NDArray[np.int64],
    columns: int,
    rows: int,
    parts: NDArray[np.int32],
) -> None:
    field = (1 << _FIELD_BITS) - 1
    for i in range(np.uint64(src.shape[0])):
        column = code_N[np.uint64(src[i])] & field
        code = code_N[np.uint64(dst[i])]
        shift = 2 * _FIELD_BITS if column == columns - 1 else _FIELD_BITS
        parts[i] = np.int32(column * rows + ((code >> shift) & field))
