"""Edges that have the ends of an earlier edge, found and dropped with bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import chunk_ranges
from graphtheta.partition.ooc.bitmap import BitMap
from graphtheta.partition.ooc.edge_file import EdgeFile, Segment, SegmentWriter, write_segments
from graphtheta.partition.ooc.spill import SpillReader, SpillWriter, bucket_order

__all__ = ["drop_duplicates"]

_SPILL = "repeats"
_BUCKET_EDGES = 1 << 23  # edges of a bucket on average: some 300 MB while it is sorted


def drop_duplicates(folder: Path, resources: Resources) -> dict[str, Any]:
    """Write the segments of a `EdgeFile` anew without repeated edges; collective.

    Of edges with the same source and destination the one of lowest key stays. Edges are spilled to
    buckets by destination, and a bucket is sorted at a time. Memory: a bucket for each thread, and
    a bit for each edge of the graph.

    Returns:
        How many edges are dropped, as `dropped`.
    """
    comm, edges = resources.comm, EdgeFile(folder)
    num_buckets = edges.num_edges // _BUCKET_EDGES + 1
    first, last = resources.share(0, edges.num_edges)
    with (
        resources.progress.phase("find repeats", last - first, "edges") as advance,
        SpillWriter(folder, _SPILL, comm.rank) as writer,
    ):
        for start, stop in chunk_ranges(first, last):
            src, dst = edges.read(start, stop)
            order, starts = bucket_order(_bucket(dst, num_buckets), num_buckets)
            place = np.arange(start, stop, dtype=np.int64)
            columns = {"src": src[order], "dst": dst[order], "place": place[order]}
            writer.append(start, pa.record_batch(columns), starts)
            advance(stop - start)
    comm.barrier(stage="repeats: spill")

    spill = SpillReader(folder, _SPILL)
    found = resources.map(
        lambda bucket: _repeats(spill, bucket), range(comm.rank, num_buckets, comm.size)
    )
    mine = np.concatenate([np.empty(0, np.int64), *found])
    dropped = BitMap(edges.num_edges)
    for places in comm.all_gather(mine, stage="repeats: gather"):
        dropped.add(places)
    comm.barrier(stage="repeats: read")
    if comm.rank == 0:
        spill.remove()
    segments = [
        _without(edges, piece.first, piece.segment, dropped.words, folder)
        for piece in edges.pieces_of(comm.rank)
    ]
    comm.barrier(stage="repeats: write")
    write_segments(folder, edges.num_nodes, segments, comm)
    for piece in edges.pieces_of(comm.rank):
        edges.remove(piece)
    return {"dropped": edges.num_edges - EdgeFile(folder).num_edges}


def _bucket(keys: NDArray[Any], num_buckets: int) -> NDArray[np.int64]:
    # Neighbouring keys to different buckets: hubs of low keys are not together.
    return keys.astype(np.int64) % num_buckets


def _repeats(spill: SpillReader, bucket: int) -> NDArray[np.int64]:
    """Return the places of edges that are not the first of their ends."""
    slices = [rows for _, rows in spill.read(bucket)]
    if not slices:
        return np.empty(0, np.int64)
    src, dst, place = (
        np.concatenate([as_numpy(rows.column(name)) for rows in slices])
        for name in ("src", "dst", "place")
    )
    order = np.lexsort((place, src, dst))
    again = np.zeros(len(order), np.bool_)
    again[1:] = (src[order[1:]] == src[order[:-1]]) & (dst[order[1:]] == dst[order[:-1]])
    repeated: NDArray[np.int64] = place[order[again]]
    return repeated


def _without(
    edges: EdgeFile, first: int, segment: Segment, dropped: NDArray[np.uint64], folder: Path
) -> Segment:
    # Segments keep their half and rank, under a name of their own until the index names it.
    with SegmentWriter(folder, f"once-{segment.name}", edges.num_nodes, keyed=True) as writer:
        for start, stop in chunk_ranges(first, first + segment.num_edges):
            kept = _kept(start, stop, dropped)
            src, dst = edges.read(start, stop)
            writer.append(src[kept], dst[kept], edges.keys(start, stop)[kept])
    return writer.segment()


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _kept(
    start: int, stop: int, dropped: NDArray[np.uint64]
) -> NDArray[np.bool_]:  # pragma: no cover - compiled
    kept = np.empty(stop - start, np.bool_)
    for i in range(stop - start):
        place = np.uint64(start + i)
        kept[i] = not ((dropped[place >> np.uint64(6)] >> (place & np.uint64(63))) & np.uint64(1))
    return kept
