"""Which part owns each node, its degrees, and its row on the way there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import validate_nodes, whole
from graphtheta.data.source import GraphSource
from graphtheta.partition.core.partitioner import part_of_hash
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.ooc.node_file import NodeFile
from graphtheta.partition.ooc.spill import SpillWriter, bucket_order
from graphtheta.partition.pipeline.collect_ids import ids_in_file
from graphtheta.partition.pipeline.part_nodes import part_nodes
from graphtheta.partition.pipeline.shuffle_edges import note_largest
from graphtheta.rng.philox import Purpose, hash_keys

__all__ = ["NODES_SPILL", "NODE_KEYS", "OWNERS", "choose_masters"]

NODES_SPILL = "nodes"
OWNERS = "owners"
NODE_KEYS = ("node_key", "original_id", "in_degree", "out_degree")

_MASTER_STEP = 1  # keeps the draw of masters independent of the draw of edges


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

    A row of the spill is `node_key`, `original_id`, `in_degree`, `out_degree` and the node columns.
    In a vertex-cut a node's master is in one of the parts that hold an edge of it, drawn by a hash;
    a node without edges goes to a part drawn by a hash. Some rows of the table are held at a time.

    Args:
        source: The graph.
        ids_folder: Where `collect_ids` wrote, if the source has no node table.
        num_nodes: Nodes of the graph (N).
        num_parts: Parts (P).
        part_of_nodes: Owners, (N,); None in a vertex-cut.
        folder: Where `find_part_nodes` wrote.
        seed: Of the draws.
        resources: Ranks, threads and memory.

    Returns:
        The largest value of each integer column of this rank's rows.

    Raises:
        GraphFormatError: If a node column holds what it must not.
    """
    comm = resources.comm
    first, last = resources.share(0, num_nodes)
    held = _Held(folder, num_parts, first)
    owners = NodeFile(folder, OWNERS, num_nodes)
    owners.create(comm)
    largest: dict[str, int] = {}

    def stretches() -> Iterator[tuple[int, pa.Table, list[slice]]]:
        for start, table in _rows(source, first, last, ids_folder):
            note_largest(table, largest)
            yield start, table, held.advance(start + table.num_rows)

    def sort(
        rows: tuple[int, pa.Table, list[slice]],
    ) -> tuple[int, pa.RecordBatch, NDArray[np.int64]]:
        start, table, places = rows
        stop = start + table.num_rows
        validate_nodes(table, "nodes", start)
        degrees, count, slices = held.degrees(start, stop, places)
        if part_of_nodes is not None:
            owner = part_of_nodes[start:stop]
        else:
            owner = _drawn(start, stop, count, slices, num_parts, seed)
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
        for start, rows, starts in resources.imap(sort, stretches()):
            writer.append(start, rows, starts)
            advance(rows.num_rows)
    comm.barrier(stage="choose masters")
    return largest


def _rows(
    source: GraphSource, first: int, last: int, folder: Path
) -> Iterator[tuple[int, pa.Table]]:
    """Yield (first node key, rows of the node table), some rows at a time."""
    if source.num_nodes is not None:
        for table in source.node_chunks(first, last):
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


class _Held:
    """The parts' sorted keys, walked from a node key on."""

    def __init__(self, folder: Path, num_parts: int, first: int) -> None:
        # Opened anew for each stretch: files of all parts at once may be more than a process may.
        self._folder = folder
        keys = (part_nodes(folder, part)["key"] for part in range(num_parts))
        self._places = [int(np.searchsorted(held, first)) for held in keys]

    def advance(self, stop: int) -> list[slice]:
        """Walk on to the node key `stop`, and return what was passed of each part."""
        passed = []
        for part, place in enumerate(self._places):
            keys = part_nodes(self._folder, part)["key"]
            passed.append(slice(place, place + int(np.searchsorted(keys[place:], stop))))
        self._places = [of_part.stop for of_part in passed]
        return passed

    def degrees(
        self, start: int, stop: int, passed: list[slice]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], list[NDArray[Any]]]:
        """Return in- and out-degrees of nodes [start, stop), how many parts hold each, and which.

        Shape:
            (2, R) int64; (R,) int32; for each part the sorted keys it holds, less `start`.
        """
        degrees = np.zeros((2, stop - start), np.int64)
        count = np.zeros(stop - start, np.int32)
        slices = []
        for part, places in enumerate(passed):
            held = part_nodes(self._folder, part)
            nodes = held["key"][places] - start
            _add_degrees(nodes, held["in_count"][places], held["out_count"][places], degrees, count)
            slices.append(nodes)
        return degrees, count, slices


def _drawn(
    start: int,
    stop: int,
    count: NDArray[np.int32],
    slices: list[NDArray[Any]],
    num_parts: int,
    seed: int,
) -> NDArray[np.int32]:
    keys = np.arange(start, stop, dtype=np.int64)
    hashes = hash_keys(keys, seed, Purpose.PLACEMENT, step=_MASTER_STEP)
    owner: NDArray[np.int32] = part_of_hash(hashes, num_parts)
    left = (hashes % np.maximum(count, 1).astype(np.uint64)).astype(np.int32)
    for part, nodes in enumerate(slices):
        _draw(nodes, part, left, owner)
    return owner


_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@_jit
def _add_degrees(
    nodes: NDArray[Any],
    in_count: NDArray[Any],
    out_count: NDArray[Any],
    degrees: NDArray[np.int64],
    count: NDArray[np.int32],
) -> None:  # pragma: no cover - compiled
    for i in range(nodes.shape[0]):
        n = np.uint64(nodes[i])
        degrees[0, n] += in_count[i]
        degrees[1, n] += out_count[i]
        count[n] += 1


@_jit
def _draw(
    nodes: NDArray[Any], part: int, left: NDArray[np.int32], owner: NDArray[np.int32]
) -> None:  # pragma: no cover - compiled
    for i in range(nodes.shape[0]):
        n = np.uint64(nodes[i])
        if left[n] == 0:
            owner[n] = part
        left[n] -= 1
