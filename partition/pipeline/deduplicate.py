"""Edges that repeat others: drop duplicates with bounded memory, and count reverses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.data.source import GraphSource
from graphtheta.data.types import EdgeTable
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import chunk_ranges
from graphtheta.partition.ooc.bitmap import BitMap
from graphtheta.partition.ooc.edge_file import EdgeFile, Segment, SegmentWriter, write_segments
from graphtheta.partition.ooc.spill import SpillReader, SpillWriter, bucket_order
from graphtheta.partition.pipeline.edge_chunks import segment_chunks

__all__ = ["count_reverses", "drop_duplicates"]

_SPILL = "duplicates"
_BUCKET_EDGES = 1 << 23  # average edges of a bucket: about 300 MB while it is sorted
_SAMPLE_EDGES = 1 << 22  # edges among which reverses are counted, over all ranks
_FACTORS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Edges from position `start` on.

    Attributes:
        start: Position of the first edge among all edges.
        src: Node keys of the sources.
        dst: Node keys of the destinations.
        kinds: What else edges that repeat each other have in common: their `relation`, if the graph
            has several, and their `type`, if it has such a column.
    """

    start: int
    src: NDArray[Any]
    dst: NDArray[Any]
    kinds: dict[str, NDArray[Any]]


def _chunks(source: GraphSource, edges: EdgeFile, segments: list[Segment]) -> Iterator[_Chunk]:
    """Yield the edges of a rank's segments, one segment for each direction."""
    tables = source.edge_tables
    typed = any("type" in table.schema.names for table in tables)

    def columns(table: EdgeTable) -> list[str]:
        return ["type"] if "type" in table.schema.names else []

    for direction, segment in enumerate(segments):
        for relation, first, last, rows in segment_chunks(
            source, edges, segment, direction, columns
        ):
            kinds: dict[str, NDArray[Any]] = {}
            if len(tables) > 1:
                kinds["relation"] = np.full(last - first, relation)
            if typed:
                none = np.zeros(last - first, np.int64)
                kinds["type"] = none if rows is None else as_numpy(rows["type"])
            yield _Chunk(first, *edges.read(first, last), kinds)


def drop_duplicates(source: GraphSource, folder: Path, resources: Resources) -> None:
    """Replace the segments of an `EdgeFile` by segments without duplicate edges; collective.

    Of edges with the same source, destination, relation and type (if the graph has a column
    `type`), the one with the lowest edge key is kept. Edges are spilled to buckets by destination,
    and buckets are sorted one by one. Memory: one bucket for each thread, and one bit for each edge
    of the graph.
    """
    comm, edges = resources.comm, EdgeFile(folder)
    num_buckets = edges.num_edges // _BUCKET_EDGES + 1
    mine_segments = edges.segments_of(comm.rank)
    total = sum(segment.num_edges for segment in mine_segments)
    with (
        resources.progress.phase("find duplicates", total, "edges") as advance,
        SpillWriter(folder, _SPILL, comm.rank) as writer,
    ):
        for chunk in _chunks(source, edges, mine_segments):
            order, starts = bucket_order(_bucket(chunk.dst, num_buckets), num_buckets)
            position = np.arange(chunk.start, chunk.start + len(order), dtype=np.int64)
            columns = {"src": chunk.src, "dst": chunk.dst, "position": position, **chunk.kinds}
            rows = pa.record_batch({name: values[order] for name, values in columns.items()})
            writer.append(chunk.start, rows, starts)
            advance(len(order))
    comm.barrier(stage="duplicates: spill")

    spill = SpillReader(folder, _SPILL)
    found = resources.map(
        lambda bucket: _duplicates(spill, bucket), range(comm.rank, num_buckets, comm.size)
    )
    mine = np.concatenate([np.empty(0, np.int64), *found])
    dropped = BitMap(edges.num_edges)
    for positions in comm.all_gather(mine, stage="duplicates: gather"):
        dropped.add(positions)
    comm.barrier(stage="duplicates: read")
    if comm.rank == 0:
        spill.remove()
    segments = [_without(edges, segment, dropped.words, folder) for segment in mine_segments]
    comm.barrier(stage="duplicates: write")
    write_segments(folder, edges.num_nodes, segments, comm)
    for segment in mine_segments:
        edges.remove(segment)


def count_reverses(source: GraphSource, folder: Path, resources: Resources) -> dict[str, Any]:
    """Count the edges of the input whose reverse is in the input, too; collective.

    A reverse has the same type, if the graph has a column `type`. In a graph of more than about
    four million edges, they are counted for every 2^k-th pair of nodes by a hash, so that the
    result does not depend on ranks and threads.

    Returns:
        `number`: the number of edges, an estimate unless `exact`.

    Communication:
        8 bytes for each edge of the sample.
    """
    comm, edges = resources.comm, EdgeFile(folder)
    inputs = edges.segments_of(comm.rank)[:1]
    num_inputs = sum(segment.num_edges for segment in edges.segments if segment.name[0] == "0")
    halvings = (num_inputs // _SAMPLE_EDGES).bit_length()
    total = sum(segment.num_edges for segment in inputs)
    codes = [np.empty(0, np.int64)]
    with resources.progress.phase("count reverses", total, "edges") as advance:
        chunks = _chunks(source, edges, inputs)
        for size, some in resources.imap(lambda c: (len(c.src), _codes(c, halvings)), chunks):
            codes.append(some)
            advance(size)
    mine = np.sort(np.concatenate(codes))
    cuts = np.searchsorted(mine, [(r << 63) // comm.size for r in range(1, comm.size)])
    code = np.sort(np.concatenate(comm.all_to_all(np.split(mine, cuts), stage="count reverses")))
    first = np.flatnonzero(np.diff(code >> 1, prepend=-1))
    last = np.flatnonzero(np.diff(code >> 1, append=-1))
    has_both = (code[first] ^ code[last]) & 1 == 1
    number = int((last - first + 1)[has_both].sum())
    number = int(comm.all_gather_int(number, stage="count reverses").sum())
    return {"number": number << halvings, "exact": not halvings}


def _codes(chunk: _Chunk, halvings: int) -> NDArray[np.int64]:
    """Return a hash of the two nodes and the type of each edge, and in bit 0 its direction.

    Self-loops are left out, and so are pairs whose hash has a one in the lowest `halvings` bits.
    """
    src, dst = (end.astype(np.uint64) for end in (chunk.src, chunk.dst))
    code = _mixed(_mixed(np.minimum(src, dst)) + np.maximum(src, dst))
    for kind in chunk.kinds.values():
        code = _mixed(code + kind.astype(np.uint64))
    code >>= np.uint64(1)  # so that it fits int64
    kept = (src != dst) & (code & np.uint64((2 << halvings) - 2) == 0)
    one = np.uint64(1)
    codes: NDArray[np.int64] = ((code & ~one) | (src > dst))[kept].astype(np.int64)
    return codes


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): products modulo 2^64 are meant.
    values = values + np.uint64(_FACTORS[0])
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_FACTORS[1])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_FACTORS[2])
    return values ^ (values >> np.uint64(31))


def _bucket(keys: NDArray[Any], num_buckets: int) -> NDArray[np.int64]:
    # Modulo: nodes with low keys are often hubs, and go to different buckets.
    return keys.astype(np.int64) % num_buckets


def _duplicates(spill: SpillReader, bucket: int) -> NDArray[np.int64]:
    """Return the positions of edges that repeat an earlier edge."""
    slices = [rows for _, rows in spill.read(bucket)]
    if not slices:
        return np.empty(0, np.int64)
    position, *keys = (
        np.concatenate([as_numpy(rows.column(name)) for rows in slices])
        for name in ("position", *[n for n in slices[0].schema.names if n != "position"])
    )
    order = np.lexsort((position, *keys))
    repeated = np.zeros(len(order), np.bool_)
    repeated[1:] = np.logical_and.reduce([key[order[1:]] == key[order[:-1]] for key in keys])
    positions: NDArray[np.int64] = position[order[repeated]]
    return positions


def _without(
    edges: EdgeFile, segment: Segment, dropped: NDArray[np.uint64], folder: Path
) -> Segment:
    """Write a segment again without the dropped edges, under a name with the same ending."""
    with SegmentWriter(folder, f"once-{segment.name}", edges.num_nodes, keyed=True) as writer:
        for start, stop in chunk_ranges(segment.first, segment.last):
            kept = _kept(start, stop, dropped)
            src, dst = edges.read(start, stop)
            writer.append(src[kept], dst[kept], edges.keys(start, stop)[kept])
    return writer.segment()


@jit
def _kept(start: int, stop: int, dropped: NDArray[np.uint64]) -> NDArray[np.bool_]:
    kept = np.empty(stop - start, np.bool_)
    for i in range(stop - start):
        edge = np.uint64(start + i)
        kept[i] = not ((dropped[edge >> np.uint64(6)] >> (edge & np.uint64(63))) & np.uint64(1))
    return kept
