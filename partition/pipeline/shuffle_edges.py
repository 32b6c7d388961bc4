"""Spill edges to their parts, with their positions among all in-edges of their destinations."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.schema import whole
from graphtheta.data.source import GraphSource
from graphtheta.data.types import EdgeTable
from graphtheta.partition.core.degrees import count_keys
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import chunk_ranges
from graphtheta.partition.ooc.array_file import read_arrays, write_arrays
from graphtheta.partition.ooc.edge_file import EdgeFile, Segment, key_dtype
from graphtheta.partition.ooc.record_spill import RecordWriter
from graphtheta.partition.ooc.spill import SpillWriter, bucket_order
from graphtheta.partition.ooc.thread_buffers import ThreadBuffers
from graphtheta.partition.pipeline.assign import Assignment
from graphtheta.partition.pipeline.edge_chunks import segment_chunks

__all__ = [
    "EDGES",
    "EDGE_COLUMNS",
    "EDGE_KEYS",
    "column_names",
    "edge_record",
    "relation_starts",
    "shuffle_edges",
    "update_largest",
]

EDGES, EDGE_COLUMNS = "edges", "edge-columns"  # names of spills; of columns with -<relation>
EDGE_KEYS = ("edge_key", "in_position")

_UINT32_LIMIT = 2**32
_NO_KEYS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Consecutive edges of one relation, with their columns if there are any.

    Attributes:
        relation: Position of the relation.
        first: Position of the first edge among all edges.
        row: Position of the first edge among the edges of this rank.
        src: Node keys of the sources.
        dst: Node keys of the destinations.
        first_key: Edge key of the first edge.
        edge_key: Edge keys; empty if they are consecutive.
        in_position: Number of in-edges of the destination with a lower edge key.
        columns: Edge columns, or None without any.
    """

    relation: int
    first: int
    row: int
    src: NDArray[Any]
    dst: NDArray[Any]
    first_key: int
    edge_key: NDArray[np.int64]
    in_position: NDArray[Any]
    columns: pa.Table | None


def edge_record(num_nodes: int, num_edges: int, num_rows: int) -> np.dtype[Any]:
    """Return the dtype of the record of an edge in the spill: 16 bytes, more in very large graphs.

    Fields are `src` and `dst` (node keys), `edge_key`, and `in_position`: the number of in-edges of
    the destination that have a lower edge key.

    Args:
        num_nodes: Number of nodes of the graph.
        num_edges: Number of edges of the graph, including added reverse edges.
        num_rows: Number of rows of all edge tables; edge keys are less than twice that.
    """
    fields = [
        ("src", key_dtype(num_nodes)),
        ("dst", key_dtype(num_nodes)),
        ("edge_key", np.uint32 if 2 * num_rows < _UINT32_LIMIT else np.int64),
        ("in_position", np.uint32 if num_edges < _UINT32_LIMIT else np.int64),
    ]
    return np.dtype(fields, align=True)


def shuffle_edges(
    source: GraphSource,
    edges: EdgeFile,
    assignment: Assignment,
    num_parts: int,
    folder: Path,
    resources: Resources,
) -> list[dict[str, int]]:
    """Write the spills of edges by part; collective.

    The number of a chunk is the position of its first edge among all edges. The records are those
    of `edge_record`. The columns of relation i, if it has any, are in the spill EDGE_COLUMNS-i, in
    the order of the records of its edges. In a part, the records of a relation are consecutive.

    Returns:
        For each relation, the largest value of each integer column of this rank's edges.

    Communication:
        Counts of in-edges of all nodes, through files, if there are several ranks.
    """
    comm, tables = resources.comm, source.edge_tables
    mine = edges.segments_of(comm.rank)
    counter = _Counter(edges, mine, folder, resources)
    largest: list[dict[str, int]] = [{} for _ in tables]

    def chunks() -> Iterator[_Chunk]:
        row = 0
        for direction, segment in enumerate(mine):
            counter.start(direction)
            ranges = segment_chunks(source, edges, segment, direction, column_names)
            for relation, first, last, table in ranges:
                src, dst = edges.read(first, last)
                if table is not None and not direction:
                    update_largest(table, largest[relation])
                position = counter.count(dst)
                first_key, keys = segment.first_key + first - segment.first, _NO_KEYS
                if segment.keyed:
                    keys = edges.keys(first, last)
                yield _Chunk(relation, first, row, src, dst, first_key, keys, position, table)
                row += last - first

    part_of_edges, buffers = assignment.part_of_edges(), ThreadBuffers()
    dtype = edge_record(edges.num_nodes, edges.num_edges, source.num_edges)
    total = sum(segment.num_edges for segment in mine)
    with (
        resources.progress.phase("shuffle edges", total, "edges") as advance,
        RecordWriter(folder, EDGES, comm.rank) as records,
        ExitStack() as opened,
    ):
        columns = [
            opened.enter_context(SpillWriter(folder, f"{EDGE_COLUMNS}-{relation}", comm.rank))
            for relation in range(len(tables))
        ]

        def move(chunk: _Chunk) -> _Moved:
            size = len(chunk.src)
            part = part_of_edges(chunk.first, chunk.first + size, chunk.src, chunk.dst)
            by_part = buffers.take("records", size, dtype)
            starts = np.zeros(num_parts + 1, np.int64)
            _sort(chunk, part, by_part, starts)
            records.write(by_part, chunk.row)
            columns = _sorted_columns(chunk.columns, part, num_parts)
            return _Moved(chunk.relation, chunk.first, starts, columns)

        for moved in resources.imap(move, chunks()):
            records.append(moved.first, moved.starts)
            if moved.columns is not None:
                columns[moved.relation].append(moved.first, moved.columns, moved.starts)
            advance(int(moved.starts[-1]))
    comm.barrier(stage="shuffle edges")
    counter.remove()
    return largest


def relation_starts(records: NDArray[Any], first_keys: NDArray[np.int64]) -> list[int]:
    """Return where the records of each relation start among those of a part, and their number.

    Args:
        records: Records of a part, in the order of the spill.
        first_keys: First edge key of each relation.
    """
    if len(first_keys) == 1:
        return [0, len(records)]
    keys = records["edge_key"]  # ascending, as reverses are not added to several relations
    return [*(bisect_left(keys, key) for key in first_keys.tolist()), len(keys)]


def column_names(table: EdgeTable) -> list[str]:
    """Return the names of the columns of an edge table besides the ends."""
    return [name for name in table.schema.names if name not in ("src", "dst")]


class _Counter:
    """Counter of the in-edges of each node, in the order of the edge keys."""

    def __init__(
        self, edges: EdgeFile, mine: list[Segment], folder: Path, resources: Resources
    ) -> None:
        self._folder, self._comm = folder, resources.comm
        dtype = np.uint32 if edges.num_edges < _UINT32_LIMIT else np.int64
        self._count = np.zeros(edges.num_nodes, dtype)
        self._num_directions = len(mine)
        if self._comm.size > 1:
            for direction, segment in enumerate(mine):
                count = np.zeros_like(self._count)
                for first, last in chunk_ranges(segment.first, segment.last):
                    count_keys(edges.read(first, last)[1], count)
                write_arrays(self._path(direction, self._comm.rank), count=count)
            self._comm.barrier(stage="count in-edges")

    def start(self, direction: int) -> None:
        """Set the counts to those of all edges before this rank's segment of a direction."""
        if self._comm.size == 1:
            return
        self._count[:] = 0
        ranks = range(self._comm.size)
        before = [(d, r) for d in range(direction) for r in ranks]
        for d, r in before + [(direction, r) for r in range(self._comm.rank)]:
            np.add(self._count, read_arrays(self._path(d, r))["count"], out=self._count)

    def count(self, dst: NDArray[Any]) -> NDArray[Any]:
        """Return the positions of the next edges among the in-edges of their destinations."""
        position = np.empty(dst.shape[0], self._count.dtype)
        _positions(dst, self._count, position)
        return position

    def remove(self) -> None:
        """Delete this rank's files. Call it after a barrier."""
        for direction in range(self._num_directions):
            self._path(direction, self._comm.rank).unlink(missing_ok=True)

    def _path(self, direction: int, rank: int) -> Path:
        return self._folder / f"in-edges-{direction}-{rank:05d}.arrow"


@dataclass(frozen=True, slots=True)
class _Moved:
    """A chunk whose records are written: where each part's edges start, and the sorted columns."""

    relation: int
    first: int
    starts: NDArray[np.int64]
    columns: pa.RecordBatch | None


def _sort(
    chunk: _Chunk, part: NDArray[Any], records: NDArray[Any], starts: NDArray[np.int64]
) -> None:
    fields = [records[name] for name in ("src", "dst", "edge_key", "in_position")]
    keys = chunk.first_key, chunk.edge_key
    _scatter(part, starts, chunk.src, chunk.dst, *keys, chunk.in_position, *fields)


def _sorted_columns(
    table: pa.Table | None, part: NDArray[Any], num_parts: int
) -> pa.RecordBatch | None:
    if table is None:
        return None
    order, _ = bucket_order(part, num_parts)
    taken = table.take(pa.array(order))
    return pa.record_batch({name: whole(taken[name]) for name in taken.column_names})


def update_largest(table: pa.Table, largest: dict[str, int]) -> None:
    """Update the largest value of each integer column by the rows of a table."""
    for name in table.column_names:
        if pa.types.is_integer(table[name].type):
            value = pc.max(table[name]).as_py()
            if value is not None:
                largest[name] = max(value, largest.get(name, value))


@jit
def _positions(keys: NDArray[Any], counts: NDArray[Any], position: NDArray[Any]) -> None:
    for i in range(np.uint64(keys.shape[0])):
        position[i] = counts[np.uint64(keys[i])]
        counts[np.uint64(keys[i])] += 1


@jit
def _scatter(
    part: NDArray[Any],
    starts: NDArray[np.int64],
    src: NDArray[Any],
    dst: NDArray[Any],
    first_key: int,
    edge_key: NDArray[np.int64],
    position: NDArray[Any],
    to_src: NDArray[Any],
    to_dst: NDArray[Any],
    to_key: NDArray[Any],
    to_position: NDArray[Any],
) -> None:
    """Sort edges by part, stable, and write where the edges of each part start."""
    one = np.uint64(1)
    for i in range(np.uint64(part.shape[0])):
        starts[np.uint64(part[i]) + one] += 1
    for p in range(starts.shape[0] - 1):
        starts[p + 1] += starts[p]
    next_position = starts.copy()
    for i in range(np.uint64(part.shape[0])):
        at = np.uint64(next_position[np.uint64(part[i])])
        next_position[np.uint64(part[i])] += 1
        to_src[at] = src[i]
        to_dst[at] = dst[i]
        to_key[at] = edge_key[i] if edge_key.shape[0] else first_key + np.int64(i)
        to_position[at] = position[i]
