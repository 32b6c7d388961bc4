"""One part's tables from its rows of the spills: local ids, CSC, CSR and plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.partition.ooc.bitmap import Ranks, order_within, rank_of
from graphtheta.partition.ooc.node_file import NodeFile
from graphtheta.partition.ooc.record_spill import RecordReader
from graphtheta.partition.ooc.spill import SpillReader
from graphtheta.partition.ooc.thread_buffers import ThreadBuffers
from graphtheta.partition.pipeline.local_ids import LocalIds, number_replicas
from graphtheta.partition.pipeline.masters import NODES_SPILL, OWNERS
from graphtheta.partition.pipeline.order import (
    LOCALS,
    MIRRORS_SPILL,
    Replicas,
    local_ids,
    replicas_of,
)
from graphtheta.partition.pipeline.shuffle_edges import EDGE_COLUMNS
from graphtheta.partition.store.part import INDPTR, PLAN, REPLICAS, PartTables
from graphtheta.partition.store.tables import contiguous

__all__ = ["PartBuilder", "part_bytes"]

_INT32_LIMIT = 2**31
_STRETCH_BITS = 8  # so many powers of two of stretches: few enough to write to all at a time


def part_bytes(
    num_nodes: int, edges: Any, replicas: Any, masters: Any, edge_row: int, node_row: int
) -> Any:
    """Return about the bytes that a part takes while it is built; counts or arrays of counts.

    Args:
        num_nodes: Nodes of the graph: a bit map and ranks of them.
        edges: Edges of the part: records and sources, each twice, 40 bytes; and its rows twice.
        replicas: Replicas of the part: counts, owners, new ids and local ids.
        masters: Masters of the part: their rows twice.
        edge_row: Bytes of a row of the edge table.
        node_row: Bytes of a row of the node table.
    """
    of_rows = edges * 2 * edge_row + masters * 2 * node_row
    return edges * 40 + replicas * 96 + of_rows + num_nodes // 2


class PartBuilder:
    """Builds parts one by one. Threads may build at the same time.

    A part takes what `part_bytes` says; of the columns' spills it maps its own slices.

    Args:
        edges: Records of the edges.
        folder: Where the spills and node files are.
        num_nodes: Nodes of the graph (N).
        first_new_id: The new id of each part's first master.
        edge_columns: The source's columns of edges, for when no edge was spilled.
    """

    def __init__(
        self,
        edges: RecordReader,
        folder: Path,
        num_nodes: int,
        first_new_id: NDArray[np.int64],
        edge_columns: pa.Schema,
    ) -> None:
        self._folder, self._num_nodes, self._first_new_id = folder, num_nodes, first_new_id
        self._edges = edges
        self._edge_columns, self._nodes, self._mirrors = (
            SpillReader(folder, name) for name in (EDGE_COLUMNS, NODES_SPILL, MIRRORS_SPILL)
        )
        named = pa.schema([field for field in edge_columns if field.name not in ("src", "dst")])
        self._columns = self._edge_columns.schema or named
        self._space = ThreadBuffers()
        self._owners = NodeFile(folder, OWNERS, num_nodes)
        self._locals = NodeFile(folder, LOCALS, num_nodes)

    def build(self, part: int, num_interior: int) -> PartTables:
        """Return a part's tables, valid until the thread builds its next part."""
        replicas = replicas_of(part, self._nodes, self._folder, self._num_nodes)
        numbering = self._number(part, replicas)
        ranks = replicas.ranks(self._num_nodes)
        in_edges, src = self._csc(part, ranks, numbering)
        out_edges = self._csr(src, numbering)
        tables = {
            "node_key": numbering.node_key,
            "owner": numbering.owner,
            "owner_local": numbering.owner_local,
        }
        return PartTables(
            part=part,
            num_interior=num_interior,
            masters=self._masters(part),
            replicas=pa.table(tables, schema=REPLICAS),
            in_indptr=pa.table({"indptr": numbering.in_indptr}, schema=INDPTR),
            out_indptr=pa.table({"indptr": numbering.out_indptr}, schema=INDPTR),
            in_edges=in_edges,
            out_edges=out_edges,
            plan=self._plan(part, ranks, numbering.local),
        )

    def _number(self, part: int, replicas: Replicas) -> LocalIds:
        at_owner = self._owners.at(replicas.keys), self._locals.at(replicas.keys)
        return number_replicas(part, replicas, *at_owner, self._first_new_id, self._num_nodes)

    def _csc(
        self, part: int, ranks: Ranks, numbering: LocalIds
    ) -> tuple[pa.Table, NDArray[np.int32]]:
        indptr = numbering.in_indptr
        records = self._edges.read(part, self._space)
        num_edges, place_type = len(records), _place_type(len(records))
        _localise(records["src"], records["dst"], ranks.table, numbering.local)
        shift, starts = _stretches(indptr)
        near = self._space.take("near", num_edges, records.dtype)
        row = np.arange(num_edges if self._columns.names else 0, dtype=place_type)
        near_row = np.empty_like(row)
        _bring_near(records, near, row, near_row, shift, starts)
        src = self._space.take("src", num_edges, np.int32)
        # In the place of the records, which are as large at least, and are not needed any more.
        edge_key, in_position = self._space.take("records", 2 * num_edges, np.int64).reshape(2, -1)
        order = np.empty_like(row)
        _put(near, near_row, indptr[:-1].copy(), src, edge_key, in_position, order)
        columns: dict[str, Any] = {"src": src, "edge_key": edge_key, "in_position": in_position}
        if names := self._columns.names:
            batches = [rows for _, rows in self._edge_columns.read(part)]
            table = contiguous(pa.Table.from_batches(batches, schema=self._columns))
            table = contiguous(table.take(pa.array(order)))
            columns |= {name: table[name] for name in names}
        return contiguous(pa.table(columns)), src

    def _csr(self, src: NDArray[np.int32], numbering: LocalIds) -> pa.Table:
        num_edges, place_type = len(src), _place_type(len(src))
        indptr = numbering.out_indptr
        shift, starts = _stretches(indptr)
        # In the place of the edges that were sorted for the CSC.
        quarters = self._space.take("near", 4 * num_edges, place_type).reshape(4, -1)
        dst, near_dst = (quarter.view(np.int32)[:num_edges] for quarter in quarters[:2])
        position, near_position = quarters[2:]
        near_src = self._space.take("near_src", num_edges, np.int32)
        near = near_src, near_dst, near_position
        _bring_near_sources(src, numbering.in_indptr, shift, starts, *near)
        _put_sources(*near, indptr[:-1].copy(), dst, position)
        return pa.table({"dst": dst, "csc_position": position})

    def _masters(self, part: int) -> pa.Table:
        slices = [rows for _, rows in self._nodes.read(part)]
        table = pa.Table.from_batches(slices, schema=self._nodes.schema)
        local = local_ids(self._folder, part)
        row = np.empty(len(local), np.int64)
        row[local] = np.arange(len(local))
        return contiguous(contiguous(table).take(pa.array(row)))

    def _plan(self, part: int, ranks: Ranks, local: NDArray[np.int32]) -> pa.Table:
        slices = self._mirrors.read(part)
        if not slices:
            return PLAN.empty_table()
        keys, role = (
            np.concatenate([as_numpy(rows.column(name)) for _, rows in slices])
            for name in ("node_key", "role")
        )
        peers, rows = np.array([(peer, rows.num_rows) for peer, rows in slices], np.int32).T
        master = np.take(local, ranks.find(keys))
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(rows, out=starts[1:])
        places = order_within(master, starts, int(master.max()) + 1)
        columns = {"peer": np.repeat(peers, rows)}
        for name, values in (("master", master), ("role", role)):
            columns[name] = np.empty_like(values)
            columns[name][places] = values
        return pa.table(columns, schema=PLAN)


def _place_type(num_edges: int) -> type[np.int32] | type[np.int64]:
    return np.int32 if num_edges < _INT32_LIMIT else np.int64


def _stretches(indptr: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """Return how many bits of a row are within a stretch, and where each stretch's edges start.

    Edges are put first into stretches of rows that fit a cache, then to their places within.
    """
    shift = max(0, (len(indptr) - 1).bit_length() - _STRETCH_BITS)
    return shift, indptr[:-1][:: 1 << shift].copy()


_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@_jit
def _localise(
    src: NDArray[Any], dst: NDArray[Any], table: NDArray[np.uint64], local: NDArray[np.int32]
) -> None:  # pragma: no cover - compiled
    for i in range(np.uint64(src.shape[0])):
        src[i] = local[rank_of(table, np.uint64(src[i]))]
        dst[i] = local[rank_of(table, np.uint64(dst[i]))]


@_jit
def _bring_near(
    records: NDArray[Any],
    near: NDArray[Any],
    row: NDArray[Any],
    near_row: NDArray[Any],
    shift: int,
    place: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    """Sort edges by the stretch of 2^shift rows that their destinations are in; stable."""
    with_rows = row.shape[0] > 0
    for i in range(np.uint64(records.shape[0])):
        stretch = np.uint64(records[i]["dst"]) >> np.uint64(shift)
        at = np.uint64(place[stretch])
        place[stretch] += 1
        near[at]["src"] = records[i]["src"]
        near[at]["dst"] = records[i]["dst"]
        near[at]["edge_key"] = records[i]["edge_key"]
        near[at]["in_position"] = records[i]["in_position"]
        if with_rows:
            near_row[at] = row[i]


@_jit
def _put(
    records: NDArray[Any],
    row: NDArray[Any],
    place: NDArray[np.int64],
    src: NDArray[np.int32],
    edge_key: NDArray[np.int64],
    in_position: NDArray[np.int64],
    order: NDArray[Any],
) -> None:  # pragma: no cover - compiled
    """Put edges, in order of their keys for each destination, to the ends of their rows."""
    with_rows = row.shape[0] > 0
    for i in range(np.uint64(records.shape[0])):
        d = np.uint64(records[i]["dst"])
        at = np.uint64(place[d])
        place[d] += 1
        src[at] = records[i]["src"]
        edge_key[at] = records[i]["edge_key"]
        in_position[at] = records[i]["in_position"]
        if with_rows:
            order[at] = row[i]


@_jit
def _bring_near_sources(
    src: NDArray[np.int32],
    in_indptr: NDArray[np.int64],
    shift: int,
    place: NDArray[np.int64],
    near_src: NDArray[np.int32],
    near_dst: NDArray[np.int32],
    near_position: NDArray[Any],
) -> None:  # pragma: no cover - compiled
    """Sort edges of the CSC by the stretch of 2^shift rows that their sources are in; stable."""
    for d in range(in_indptr.shape[0] - 1):
        for j in range(np.uint64(in_indptr[d]), np.uint64(in_indptr[d + 1])):
            stretch = np.uint64(src[j]) >> np.uint64(shift)
            at = np.uint64(place[stretch])
            place[stretch] += 1
            near_src[at] = src[j]
            near_dst[at] = d
            near_position[at] = j


@_jit
def _put_sources(
    near_src: NDArray[np.int32],
    near_dst: NDArray[np.int32],
    near_position: NDArray[Any],
    place: NDArray[np.int64],
    dst: NDArray[np.int32],
    position: NDArray[Any],
) -> None:  # pragma: no cover - compiled
    """Put edges, in the order of the CSC for each source, to the ends of their rows."""
    for i in range(np.uint64(near_src.shape[0])):
        s = np.uint64(near_src[i])
        at = np.uint64(place[s])
        place[s] += 1
        dst[at] = near_dst[i]
        position[at] = near_position[i]
