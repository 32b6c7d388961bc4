"""Edges to the spill of their parts, with their places among all in-edges of their destinations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.schema import validate_edges, whole
from graphtheta.data.source import GraphSource
from graphtheta.partition.core.degrees import count_keys
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import chunk_ranges
from graphtheta.partition.ooc.array_file import read_arrays, write_arrays
from graphtheta.partition.ooc.edge_file import EdgeFile, Piece, key_type
from graphtheta.partition.ooc.record_spill import RecordWriter
from graphtheta.partition.ooc.spill import SpillWriter, bucket_order
from graphtheta.partition.ooc.thread_buffers import ThreadBuffers
from graphtheta.partition.pipeline.assign import Assignment

__all__ = [
    "EDGES",
    "EDGE_COLUMNS",
    "EDGE_KEYS",
    "edge_record",
    "note_largest",
    "shuffle_edges",
]

EDGES, EDGE_COLUMNS = "edges", "edge-columns"  # spills
EDGE_KEYS = ("edge_key", "in_position")

_UINT32_LIMIT = 2**32
_NO_KEYS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some edges in order, with their columns, if there are any."""

    first: int  # among all edges
    row: int  # among those of this rank
    src: NDArray[Any]
    dst: NDArray[Any]
    first_key: int
    edge_key: NDArray[np.int64]  # empty where keys are consecutive
    in_position: NDArray[Any]
    columns: pa.Table | None


def edge_record(num_nodes: int, num_edges: int, num_rows: int) -> np.dtype[Any]:
    """Return the type of an edge on its way to its part: 16 bytes, more in graphs of 2^31 and on.

    Fields are `src` and `dst` (node keys), `edge_key`, and `in_position`: how many in-edges of the
    destination have a lower edge key.

    Args:
        num_nodes: Nodes of the graph.
        num_edges: Its edges, reverse ones included.
        num_rows: Rows of the edge table; edge keys are below twice that.
    """
    fields = [
        ("src", key_type(num_nodes)),
        ("dst", key_type(num_nodes)),
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
) -> dict[str, int]:
    """Write the spills of edges by part; collective. Return the largest value of integer columns.

    A chunk is called by the place of its first edge among all edges. Records are those of
    `edge_record`; edge columns, if there are any, go by a spill of their own in the same order.

    Raises:
        GraphFormatError: If an edge column holds what it must not.

    Communication:
        Counts of in-edges of all nodes through files, where there are several ranks.
    """
    comm = resources.comm
    names = [name for name in source.edge_schema.names if name not in ("src", "dst")]
    mine = edges.pieces_of(comm.rank)
    counter = _Counter(edges, mine, folder, resources)
    largest: dict[str, int] = {}

    def chunks() -> Iterator[_Chunk]:
        row = 0
        for half, piece in enumerate(mine):
            counter.start(half)
            ranges = _with_columns(source, edges, piece, half) if names else _ranges(edges, piece)
            for first, last, table in ranges:
                src, dst = edges.read(first, last)
                if table is not None and not half:
                    note_largest(table, largest)
                position = counter.count(dst)
                first_key, keys = piece.segment.first_key + first - piece.first, _NO_KEYS
                if piece.segment.keyed:
                    keys = edges.keys(first, last)
                yield _Chunk(first, row, src, dst, first_key, keys, position, table)
                row += last - first

    of_edges, space = assignment.of_edges(), ThreadBuffers()
    kind = edge_record(edges.num_nodes, edges.num_edges, source.num_edges)

    total = sum(p.segment.num_edges for p in mine)
    with (
        resources.progress.phase("move edges", total, "edges") as advance,
        RecordWriter(folder, EDGES, comm.rank) as records,
        SpillWriter(folder, EDGE_COLUMNS, comm.rank) as columns,
    ):

        def move(chunk: _Chunk) -> _Moved:
            size = len(chunk.src)
            part = of_edges(chunk.first, chunk.first + size, chunk.src, chunk.dst)
            sorted_, starts = space.take("records", size, kind), np.zeros(num_parts + 1, np.int64)
            _sort(chunk, part, sorted_, starts)
            records.write(sorted_, chunk.row)
            return _Moved(chunk.first, starts, _sorted_columns(chunk.columns, part, num_parts))

        for moved in resources.imap(move, chunks()):
            records.append(moved.first, moved.starts)
            if moved.columns is not None:
                columns.append(moved.first, moved.columns, moved.starts)
            advance(int(moved.starts[-1]))
    comm.barrier(stage="move edges")
    counter.remove()
    return largest


def _ranges(edges: EdgeFile, piece: Piece) -> Iterator[tuple[int, int, None]]:
    for first, last in chunk_ranges(piece.first, piece.first + piece.segment.num_edges):
        yield first, last, None


def _with_columns(
    source: GraphSource, edges: EdgeFile, piece: Piece, half: int
) -> Iterator[tuple[int, int, pa.Table | None]]:
    """Yield (first, last, columns) of the edges of each chunk of the source."""
    if not piece.segment.num_edges:
        return
    offset = half * source.num_edges  # of the edge keys of this half
    end = piece.first + piece.segment.num_edges
    row = int(edges.keys(piece.first, piece.first + 1)[0]) - offset
    stop = int(edges.keys(end - 1, end)[0]) - offset + 1
    first = piece.first
    for chunk in source.edge_chunks(row, stop):
        if not half:  # reverse edges have the same columns
            validate_edges(chunk, "edges", row)
        last = min(end, first + chunk.num_rows)
        table = chunk.drop_columns(["src", "dst"])
        if piece.segment.keyed:
            keys = edges.keys(first, last)
            last = first + int(np.searchsorted(keys, offset + row + chunk.num_rows))
            table = table.take(pa.array(keys[: last - first] - offset - row))
        if first < last:
            yield first, last, table
        first = last
        row += chunk.num_rows


class _Counter:
    """Counts in-edges by destination, in the order of the edge keys: halves first, then ranks."""

    def __init__(
        self, edges: EdgeFile, mine: list[Piece], folder: Path, resources: Resources
    ) -> None:
        self._folder, self._comm = folder, resources.comm
        kind = np.uint32 if edges.num_edges < _UINT32_LIMIT else np.int64
        self._count = np.zeros(edges.num_nodes, kind)
        self._halves = len(mine)
        if self._comm.size > 1:
            for half, piece in enumerate(mine):
                count = np.zeros_like(self._count)
                for first, last in chunk_ranges(piece.first, piece.first + piece.segment.num_edges):
                    count_keys(edges.read(first, last)[1], count)
                write_arrays(self._path(half, self._comm.rank), count=count)
            self._comm.barrier(stage="count in-edges")

    def start(self, half: int) -> None:
        """Count on from what is before this rank's edges of a half."""
        if self._comm.size == 1:
            return
        self._count[:] = 0
        ranks = range(self._comm.size)
        before = [(h, r) for h in range(half) for r in ranks]
        for h, r in before + [(half, r) for r in range(self._comm.rank)]:
            np.add(self._count, read_arrays(self._path(h, r))["count"], out=self._count)

    def count(self, dst: NDArray[Any]) -> NDArray[Any]:
        """Return the places of edges among the in-edges of their destinations."""
        position = np.empty(dst.shape[0], self._count.dtype)
        _positions(dst, self._count, position)
        return position

    def remove(self) -> None:
        """Delete this rank's files, after a barrier."""
        for half in range(self._halves):
            self._path(half, self._comm.rank).unlink(missing_ok=True)

    def _path(self, half: int, rank: int) -> Path:
        return self._folder / f"in-edges-{half}-{rank:05d}.arrow"


@dataclass(frozen=True, slots=True)
class _Moved:
    """A chunk whose records are written: where each part's start, and the columns by part."""

    first: int
    starts: NDArray[np.int64]
    columns: pa.RecordBatch | None


def _sort(
    chunk: _Chunk, part: NDArray[Any], records: NDArray[Any], starts: NDArray[np.int64]
) -> None:
    fields = [records[name] for name in ("src", "dst", "edge_key", "in_position")]
    ends = chunk.src, chunk.dst
    _scatter(part, starts, *ends, chunk.first_key, chunk.edge_key, chunk.in_position, *fields)


def _sorted_columns(
    table: pa.Table | None, part: NDArray[Any], num_parts: int
) -> pa.RecordBatch | None:
    if table is None:
        return None
    order, _ = bucket_order(part, num_parts)
    taken = table.take(pa.array(order))
    return pa.record_batch({name: whole(taken[name]) for name in taken.column_names})


def note_largest(table: pa.Table, largest: dict[str, int]) -> None:
    """Keep the largest value of each integer column that was seen so far."""
    for name in table.column_names:
        if pa.types.is_integer(table[name].type):
            value = pc.max(table[name]).as_py()
            if value is not None:
                largest[name] = max(value, largest.get(name, value))


_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@_jit
def _positions(
    keys: NDArray[Any], counts: NDArray[Any], position: NDArray[Any]
) -> None:  # pragma: no cover - compiled
    for i in range(np.uint64(keys.shape[0])):
        position[i] = counts[np.uint64(keys[i])]
        counts[np.uint64(keys[i])] += 1


@_jit
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
) -> None:  # pragma: no cover - compiled
    """Put edges in the order of their parts, stable, and say where each part starts."""
    one = np.uint64(1)
    for i in range(np.uint64(part.shape[0])):
        starts[np.uint64(part[i]) + one] += 1
    for p in range(starts.shape[0] - 1):
        starts[p + 1] += starts[p]
    place = starts.copy()
    for i in range(np.uint64(part.shape[0])):
        at = np.uint64(place[np.uint64(part[i])])
        place[np.uint64(part[i])] += 1
        to_src[at] = src[i]
        to_dst[at] = dst[i]
        to_key[at] = edge_key[i] if edge_key.shape[0] else first_key + np.int64(i)
        to_position[at] = position[i]
