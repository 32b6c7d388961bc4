"""Drop duplicate edges (same source and destination as an earlier edge) with bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import chunk_ranges
from graphtheta.partition.ooc.bitmap import BitMap
from graphtheta.partition.ooc.edge_file import EdgeFile, Segment, SegmentWriter, write_segments
from graphtheta.partition.ooc.spill import SpillReader, SpillWriter, bucket_order

__all__ = ["drop_duplicates"]

_SPILL = "duplicates"
_BUCKET_EDGES = 1 << 23  # average edges of a bucket: about 300 MB while it is sorted


def drop_duplicates(folder: Path, resources: Resources) -> dict[str, Any]:
    """Replace the segments of an `EdgeFile` by segments without duplicate edges; collective.

    Of edges with the same source and destination, the one with the lowest edge key is kept. Edges
    are spilled to buckets by destination, and buckets are sorted one by one. Memory: one bucket for
    each thread, and one bit for each edge of the graph.

    Returns:
        `dropped`: the number of edges that were dropped.
    """
    comm, edges = resources.comm, EdgeFile(folder)
    num_buckets = edges.num_edges // _BUCKET_EDGES + 1
    first, last = resources.share(0, edges.num_edges)
    with (
        resources.progress.phase("find duplicates", last - first, "edges") as advance,
        SpillWriter(folder, _SPILL, comm.rank) as writer,
    ):
        for start, stop in chunk_ranges(first, last):
            src, dst = edges.read(start, stop)
            order, starts = bucket_order(_bucket(dst, num_buckets), num_buckets)
            position = np.arange(start, stop, dtype=np.int64)
            columns = {"src": src[order], "dst": dst[order], "position": position[order]}
            writer.append(start, pa.record_batch(columns), starts)
            advance(stop - start)
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
    segments = [
        _without(edges, segment, dropped.words, folder) for segment in edges.segments_of(comm.rank)
    ]
    comm.barrier(stage="duplicates: write")
    write_segments(folder, edges.num_nodes, segments, comm)
    for segment in edges.segments_of(comm.rank):
        edges.remove(segment)
    return {"dropped": edges.num_edges - EdgeFile(folder).num_edges}


def _bucket(keys: NDArray[Any], num_buckets: int) -> NDArray[np.int64]:
    # Modulo: nodes with low keys are often hubs, and go to different buckets.
    return keys.astype(np.int64) % num_buckets


def _duplicates(spill: SpillReader, bucket: int) -> NDArray[np.int64]:
    """Return the positions of edges that have the source and destination of an earlier edge."""
    slices = [rows for _, rows in spill.read(bucket)]
    if not slices:
        return np.empty(0, np.int64)
    src, dst, position = (
        np.concatenate([as_numpy(rows.column(name)) for rows in slices])
        for name in ("src", "dst", "position")
    )
    order = np.lexsort((position, src, dst))
    repeated = np.zeros(len(order), np.bool_)
    repeated[1:] = (src[order[1:]] == src[order[:-1]]) & (dst[order[1:]] == dst[order[:-1]])
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
