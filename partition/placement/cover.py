"""Cover placement: put the cut edges of an assignment of nodes where the fewest rows are sent.

An edge from u, whose master is in part p, to v, whose master is in part q, can be in q, if p sends
the row of u (a sync), or in p, if p sends the partial sum of v (a merge). A sync serves all edges
from u to q, and a merge all edges from p to v. The edges from p to q are a bipartite graph; rows
that serve all of them are a vertex cover, and the fewest rows a minimum one. No two pairs of parts
share a row, so that the least of each pair is the least of all. The rows that an edge-cut sends are
the cover of all sources: a minimum cover has no more. The backward pass sends as many rows as the
forward pass, in the other direction.

The cut edges go through files, sorted by the part of their destination. One part at a time in each
thread, the covers of all pairs with that destination are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import PartitionError
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.partitioner import EdgeParts
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import CHUNK_EDGES, EdgeStream, chunk_ranges
from graphtheta.partition.ooc.bitmap import BitMap, MemberPositions
from graphtheta.partition.ooc.edge_file import key_dtype
from graphtheta.partition.ooc.record_spill import RecordReader, RecordWriter
from graphtheta.partition.ooc.spill import bucket_order
from graphtheta.partition.ooc.thread_buffers import ThreadBuffers
from graphtheta.partition.placement.vertex_cover import vertex_cover

__all__ = ["MOST_MERGE_WEIGHT", "cover_weights", "place_by_cover"]

MOST_MERGE_WEIGHT = 64

_CUT, _MOVED = "cut-edges", "moved-edges"  # names of spills
_RANGE = 1 << 20  # edges of a bucket of moved edges
_EDGE_BYTES = 64  # peak memory per cut edge of a part
_INT32_LIMIT = 2**31


def cover_weights(merge_weight: float) -> tuple[int, int]:
    """Return the weights of a sync and a merge as integers, with their ratio to 1/64."""
    ratio = Fraction(merge_weight).limit_denominator(64)
    return ratio.denominator, ratio.numerator


def place_by_cover(
    stream: EdgeStream,
    part_N: NDArray[np.int32],
    num_parts: int,
    folder: Path,
    resources: Resources,
    *,
    merge_weight: float = 1.0,
) -> Iterator[EdgeParts]:
    """Yield the parts of this rank's edges, as an `EdgePartitioner` does; collective.

    The number of syncs plus `merge_weight` times that of merges is the least for this assignment of
    nodes. If several placements are equal, the one with the most syncs is chosen; an edge that both
    a sync and a merge serve is in the part of its destination. The result does not depend on the
    number of ranks and threads.

    Memory of a thread: 64 bytes for each cut edge into a part, and 3 bits for each node.

    Args:
        stream: Edges of the graph.
        part_N: Part of each node.
        num_parts: Number of parts (P).
        folder: Folder for temporary files that all ranks see.
        resources: Ranks, threads and memory.
        merge_weight: Bytes of a merge over those of a sync, rounded to a fraction of at most 64ths.

    Shape:
        part_N: (N,) int32.

    Raises:
        PartitionError: If the cut edges into a part are 2^31 or more, or do not fit the memory
            limit.

    Communication:
        8 bytes for each part; edges go through files.
    """
    comm = resources.comm
    cut_P = _spill_cut_edges(stream, part_N, num_parts, folder, resources)
    num_ranges = max(1, -(-stream.num_edges // _RANGE))
    position = np.dtype(np.int32 if stream.num_edges < _INT32_LIMIT else np.int64)
    records = RecordReader(folder, _CUT, _record(stream))
    if cut_P.max() >= _INT32_LIMIT:
        raise PartitionError(
            f"partition: expected fewer than 2^31 cut edges into a part, got {cut_P.max():,}. Use "
            "more parts."
        )
    largest = max(1, int(cut_P.max()) * _EDGE_BYTES + stream.num_nodes // 2)
    resources.check_memory(largest, "the cut edges into a part", "Use more parts.")
    limit = resources.available
    at_once = resources.threads if limit is None else max(1, limit // largest)
    parts = range(comm.rank, num_parts, comm.size)
    bounds = np.arange(num_ranges + 1) * _RANGE
    weights, buffers = cover_weights(merge_weight), ThreadBuffers()

    def move(part: int) -> tuple[int, NDArray[Any]]:
        edges = records.read(part, buffers)
        moved = _edges_to_move(edges, part_N, num_parts, stream.num_nodes, weights)
        advance(len(edges))
        return part, edges["position"][moved].astype(position)

    with (
        resources.progress.phase("cover cut edges", int(cut_P[parts].sum()), "edges") as advance,
        RecordWriter(folder, _MOVED, comm.rank) as writer,
    ):
        row = 0
        for group in _groups(parts, at_once):
            for part, moved in resources.map(move, group, max_threads=at_once):
                writer.write(moved, row)
                writer.append(part, np.searchsorted(moved, bounds))
                row += len(moved)
    comm.barrier(stage="cover: found")
    if comm.rank == 0:
        records.remove()
    reader = RecordReader(folder, _MOVED, position)
    first, last = resources.share(0, num_ranges)

    def place(index: int) -> EdgeParts:
        start, stop = index * _RANGE, min((index + 1) * _RANGE, stream.num_edges)
        src, dst = stream.read(start, stop)
        parts = part_N.take(dst)
        moved = reader.read(index, buffers) - start
        parts[moved] = part_N.take(src[moved])
        return start, parts

    yield from resources.imap(place, range(first, last))
    comm.barrier(stage="cover: placed")
    if comm.rank == 0:
        reader.remove()


def _groups(parts: range, size: int) -> Iterator[range]:
    for first in range(0, len(parts), size):
        yield parts[first : first + size]


def _record(stream: EdgeStream) -> np.dtype[Any]:
    position = np.int32 if stream.num_edges < _INT32_LIMIT else np.int64
    key = key_dtype(stream.num_nodes)
    return np.dtype([("src", key), ("dst", key), ("position", position)], align=True)


def _spill_cut_edges(
    stream: EdgeStream,
    part_N: NDArray[np.int32],
    num_parts: int,
    folder: Path,
    resources: Resources,
) -> NDArray[np.int64]:
    """Write the edges between different parts by the part of the destination; collective.

    Returns:
        The number of them for each part.
    """
    comm, dtype = resources.comm, _record(stream)
    first, last = resources.share(0, stream.num_edges)
    cut_P = np.zeros(num_parts, np.int64)

    def sort(chunk: tuple[int, int]) -> tuple[int, NDArray[Any], NDArray[np.int64]]:
        src, dst = stream.read(*chunk)
        to = part_N.take(dst)
        cut = np.flatnonzero(part_N.take(src) != to)
        order, starts = bucket_order(to[cut], num_parts)
        cut = cut[order]
        rows = np.empty(len(cut), dtype)
        rows["src"], rows["dst"], rows["position"] = src[cut], dst[cut], cut + chunk[0]
        return chunk[0], rows, starts

    with (
        resources.progress.phase("find cut edges", last - first, "edges") as advance,
        RecordWriter(folder, _CUT, comm.rank) as writer,
    ):
        row = 0
        for start, rows, starts in resources.imap(sort, chunk_ranges(first, last)):
            writer.write(rows, row)
            writer.append(start, starts)
            row += len(rows)
            cut_P += np.diff(starts)
            advance(min(CHUNK_EDGES, last - start))
    comm.all_reduce(cut_P, "sum", stage="cover: count cut edges")
    comm.barrier(stage="cover: cut edges written")
    return cut_P


def _edges_to_move(
    edges: NDArray[Any],
    part_N: NDArray[np.int32],
    num_parts: int,
    num_nodes: int,
    weights: tuple[int, int],
) -> NDArray[np.bool_]:
    """Return which of the cut edges into one part are to be in the part of their source."""
    left, num_left = _positions(edges["src"], num_nodes)
    right, num_right = _positions(edges["dst"], num_nodes)
    order, _ = bucket_order(part_N.take(edges["src"]), num_parts)
    num_pairs = _number_pairs(part_N, edges["src"], order, right, np.full(num_right, -1, np.int64))
    sync, merge = weights
    is_synced, is_merged = vertex_cover(
        left, right, num_left, num_pairs, left_weight=sync, right_weight=merge
    )
    assert np.all(is_synced[left] | is_merged[right]), "every edge is served"
    moved: NDArray[np.bool_] = ~is_synced[left]
    return moved


def _positions(keys_E: NDArray[Any], num_nodes: int) -> tuple[NDArray[np.int32], int]:
    """Return the position of each key among the sorted distinct keys, and the number of these."""
    bits = BitMap(num_nodes)
    bits.add(keys_E)
    positions = MemberPositions(bits)
    return positions.find(keys_E).astype(np.int32, copy=False), positions.count


@jit
def _number_pairs(
    part_N: NDArray[np.int32],
    src: NDArray[Any],
    order: NDArray[np.int32],
    right: NDArray[np.int32],
    latest: NDArray[np.int64],
) -> int:
    """Replace destinations by numbers of pairs (part of the source, destination); count these.

    Args:
        part_N: Part of each node.
        src: Source of each edge.
        order: Edges in the order of the parts of their sources.
        right: Position of each edge's destination, to be replaced.
        latest: For each destination the latest pair, -1 at first.
    """
    count, start, part = 0, 0, -1
    for i in range(order.shape[0]):
        e = order[i]
        if part_N[src[e]] != part:
            part, start = part_N[src[e]], count
        v = right[e]
        if latest[v] < start:
            latest[v] = count
            count += 1
        right[e] = np.int32(latest[v])
    return count
