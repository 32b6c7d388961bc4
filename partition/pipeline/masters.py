"""Choose the part that owns each node, and spill the node's row and degrees to that part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import whole
from graphtheta.data.types import NodeTable, key_chunks
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.core.partitioner import part_of_hash
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.ooc.node_file import NodeFile
from graphtheta.partition.ooc.spill import SpillWriter, bucket_order
from graphtheta.partition.pipeline.part_nodes import KeySlices, part_nodes
from graphtheta.partition.pipeline.shuffle_edges import update_largest
from graphtheta.rng.philox import Purpose, hash_keys

__all__ = ["NODES_SPILL", "NODE_COLUMNS", "NODE_KEYS", "OWNERS", "choose_masters"]

NODES_SPILL, NODE_COLUMNS = "nodes", "node-columns"  # of columns with -<type>
OWNERS = "owners"
NODE_KEYS = ("node_key", "original_id", "in_degree", "out_degree")

_MASTER_STEP = 1  # makes the draws of masters independent of those of edges


def choose_masters(
    tables: Sequence[NodeTable],
    num_parts: int,
    part_of_nodes: NDArray[np.int32] | None,
    folder: Path,
    *,
    seed: int,
    resources: Resources,
) -> list[dict[str, int]]:
    """Write the owner of every node, and the spills of nodes by owner; collective.

    A row of the spill of nodes has `node_key`, `in_degree` and `out_degree`. A row of the spill
    NODE_COLUMNS-i has `original_id` and the columns of a node of type i, in the same order. In a
    vertex-cut, the owner of a node is drawn by a hash from the parts that hold an edge of the node,
    or from all parts if it has no edge. Node tables are read in chunks.

    Args:
        tables: Node tables.
        num_parts: Number of parts (P).
        part_of_nodes: Owner of each node, (N,); None for a vertex-cut.
        folder: Folder of the files of `find_part_nodes`.
        seed: Random seed of the owners in a vertex-cut.
        resources: Ranks, threads and memory.

    Returns:
        For each type, the largest value of each integer column of this rank's rows.
    """
    comm = resources.comm
    num_nodes = sum(table.num_rows for table in tables)
    first, last = resources.share(0, num_nodes)
    part_slices = KeySlices(lambda part: part_nodes(folder, part)["key"], num_parts, first)
    owners = NodeFile(folder, OWNERS, num_nodes)
    owners.create(comm)
    position = {table.name: index for index, table in enumerate(tables)}
    largest: list[dict[str, int]] = [{} for _ in tables]

    def chunks() -> Iterator[tuple[int, int, pa.Table, list[slice]]]:
        for table, start, rows in key_chunks(tables, first, last):
            of_type = position[table.name]
            update_largest(rows, largest[of_type])
            yield of_type, start, rows, part_slices.advance(start + rows.num_rows)

    def sort(chunk: tuple[int, int, pa.Table, list[slice]]) -> _Sorted:
        of_type, start, table, slices = chunk
        stop = start + table.num_rows
        (in_degree, out_degree), num_holders, held = _degrees(folder, start, stop, slices)
        if part_of_nodes is not None:
            owner = part_of_nodes[start:stop]
        else:
            owner = _draw_owners(start, stop, num_holders, held, num_parts, seed)
        owners.write(start, owner)
        order, starts = bucket_order(owner, num_parts)
        keys = start + order.astype(np.int64)
        degrees = {"in_degree": in_degree[order], "out_degree": out_degree[order]}
        columns = {"original_id": whole(table["id"])}
        columns |= {n: whole(table[n]) for n in table.column_names if n != "id"}
        return _Sorted(
            of_type,
            start,
            starts,
            pa.record_batch({"node_key": keys, **degrees}),
            pa.record_batch(columns).take(pa.array(order)),
        )

    with (
        resources.progress.phase("choose masters", last - first, "nodes") as advance,
        SpillWriter(folder, NODES_SPILL, comm.rank) as nodes,
        ExitStack() as opened,
    ):
        columns = [
            opened.enter_context(SpillWriter(folder, f"{NODE_COLUMNS}-{of_type}", comm.rank))
            for of_type in range(len(tables))
        ]
        for chunk in resources.imap(sort, chunks()):
            nodes.append(chunk.first, chunk.nodes, chunk.starts)
            columns[chunk.of_type].append(chunk.first, chunk.columns, chunk.starts)
            advance(chunk.nodes.num_rows)
    comm.barrier(stage="choose masters")
    return largest


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Chunk of nodes sorted by owner: where each part's nodes start, and the rows of the spills."""

    of_type: int
    first: int
    starts: NDArray[np.int64]
    nodes: pa.RecordBatch
    columns: pa.RecordBatch


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
