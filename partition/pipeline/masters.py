"""Choose the part that owns each node, and spill the node's row and degrees to that part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import whole
from graphtheta.data.source import GraphSource
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.partitioner import part_of_hash
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.ooc.node_file import NodeFile
from graphtheta.partition.ooc.spill import SpillWriter, bucket_order
from graphtheta.partition.pipeline.collect_ids import ids_in_file
from graphtheta.partition.pipeline.part_nodes import KeySlices, part_nodes
from graphtheta.partition.pipeline.shuffle_edges import update_largest
from graphtheta.rng.philox import Purpose, hash_keys

__all__ = ["NODES_SPILL", "NODE_KEYS", "OWNERS", "choose_masters"]

NODES_SPILL = "nodes"
OWNERS = "owners"
NODE_KEYS = ("node_key", "original_id", "in_degree", "out_degree")

_MASTER_STEP = 1  # makes the draws of masters independent of those of edges


def choose_masters(
    source: GraphSource,
    ids_folder: Path,
    num_nodes: int,
    num_parts: int,
    part_of_nodes: NDArray[np.int32] | None,
    folder: Path,
    *,
    seed: int,
    resources: Resources,
) -> dict[str, int]:
    """Write the owner of every node, and the spill of nodes by owner; collective.

    A row of the spill has `node_key`, `original_id`, `in_degree`, `out_degree` and the node
    columns. In a vertex-cut, the owner of a node is drawn by a hash from the parts that hold an
    edge of the node, or from all parts if it has no edge. The node table is read in chunks.

    Args:
        source: The graph.
        ids_folder: Folder of the file of `collect_ids`, used if the source has no node table.
        num_nodes: Number of nodes of the graph (N).
        num_parts: Number of parts (P).
        part_of_nodes: Owner of each node, (N,); None for a vertex-cut.
        folder: Folder of the files of `find_part_nodes`.
        seed: Random seed of the owners in a vertex-cut.
        resources: Ranks, threads and memory.

    Returns:
        Largest value of each integer column of this rank's rows.
    """
    comm = resources.comm
    first, last = resources.share(0, num_nodes)
    part_slices = KeySlices(lambda part: part_nodes(folder, part)["key"], num_parts, first)
    owners = NodeFile(folder, OWNERS, num_nodes)
    owners.create(comm)
    largest: dict[str, int] = {}

    def chunks() -> Iterator[tuple[int, pa.Table, list[slice]]]:
        for start, table in _rows(source, first, last, ids_folder):
            update_largest(table, largest)
            yield start, table, part_slices.advance(start + table.num_rows)

    def sort(
        chunk: tuple[int, pa.Table, list[slice]],
    ) -> tuple[int, pa.RecordBatch, NDArray[np.int64]]:
        start, table, slices = chunk
        stop = start + table.num_rows
        degrees, num_holders, held = _degrees(folder, start, stop, slices)
        if part_of_nodes is not None:
            owner = part_of_nodes[start:stop]
        else:
            owner = _draw_owners(start, stop, num_holders, held, num_parts, seed)
        owners.write(start, owner)
        keys = np.arange(start, stop, dtype=np.int64)
        columns = dict(zip(NODE_KEYS, (keys, whole(table["id"]), *degrees), strict=True))
        columns |= {n: whole(table[n]) for n in table.column_names if n != "id"}
        order, starts = bucket_order(owner, num_parts)
        return start, pa.record_batch(columns).take(pa.array(order)), starts

    with (
        resources.progress.phase("choose masters", last - first, "nodes") as advance,
        SpillWriter(folder, NODES_SPILL, comm.rank) as writer,
    ):
        for start, rows, starts in resources.imap(sort, chunks()):
            writer.append(start, rows, starts)
            advance(rows.num_rows)
    comm.barrier(stage="choose masters")
    return largest


def _rows(
    source: GraphSource, first: int, last: int, folder: Path
) -> Iterator[tuple[int, pa.Table]]:
    """Yield (first node key, rows of the node table) for node keys [first, last), in chunks."""
    if source.node_table is not None:
        for table in source.node_table.chunks(first, last):
            if table.num_rows:
                yield first, table
            first += table.num_rows
        return
    start = 0
    for ids in ids_in_file(folder):
        begin, end = max(first - start, 0), min(last - start, len(ids))
        if begin < end:
            yield start + begin, pa.table({"id": ids.slice(begin, end - begin)})
        start += len(ids)


def _degrees(
    folder: Path, start: int, stop: int, slices: list[slice]
) -> tuple[NDArray[np.int64], NDArray[np.int32], list[NDArray[Any]]]:
    """Return the degrees of nodes [start, stop), and which parts hold them.

    Returns:
        In- and out-degrees; the number of parts that hold each node; and for each part the
        sorted node keys that it holds, minus `start`.

    Shape:
        (2, R) int64; (R,) int32; one array for each part.
    """
    degrees = np.zeros((2, stop - start), np.int64)
    num_holders = np.zeros(stop - start, np.int32)
    held = []
    for part, rows in enumerate(slices):
        nodes = part_nodes(folder, part)
        keys = nodes["key"][rows] - start
        counts = nodes["in_count"][rows], nodes["out_count"][rows]
        _add_degrees(keys, *counts, degrees, num_holders)
        held.append(keys)
    return degrees, num_holders, held


def _draw_owners(
    start: int,
    stop: int,
    num_holders: NDArray[np.int32],
    held: list[NDArray[Any]],
    num_parts: int,
    seed: int,
) -> NDArray[np.int32]:
    keys = np.arange(start, stop, dtype=np.int64)
    hashes = hash_keys(keys, seed, Purpose.PLACEMENT, step=_MASTER_STEP)
    owner: NDArray[np.int32] = part_of_hash(hashes, num_parts)
    # Holders take turns in the order of the parts: after so many of them, the next is the owner.
    turns = (hashes % np.maximum(num_holders, 1).astype(np.uint64)).astype(np.int32)
    for part, nodes in enumerate(held):
        _take_turn(nodes, part, turns, owner)
    return owner


@jit
def _add_degrees(
    nodes: NDArray[Any],
    in_count: NDArray[Any],
    out_count: NDArray[Any],
    degrees: NDArray[np.int64],
    num_holders: NDArray[np.int32],
) -> None:
    for i in range(nodes.shape[0]):
        n = np.uint64(nodes[i])
        degrees[0, n] += in_count[i]
        degrees[1, n] += out_count[i]
        num_holders[n] += 1


@jit
def _take_turn(
    nodes: NDArray[Any], part: int, turns: NDArray[np.int32], owner: NDArray[np.int32]
) -> None:
    """Let a part own those of its nodes that have no turns left, and count the others down."""
    for i in range(nodes.shape[0]):
        n = np.uint64(nodes[i])
        if turns[n] == 0:
            owner[n] = part
        turns[n] -= 1
