"""Build the tables of a part from its rows of the spills: masters, replicas, CSC, CSR and plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy, plain_type
from graphtheta.data.sparse import is_sparse
from graphtheta.data.types import EdgeTable, NodeTable
from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.ooc.bitmap import (
    MemberPositions,
    member_position,
    positions_in_sorted_groups,
)
from graphtheta.partition.ooc.node_file import NodeFile
from graphtheta.partition.ooc.record_spill import RecordReader
from graphtheta.partition.ooc.spill import SpillReader
from graphtheta.partition.ooc.thread_buffers import ThreadBuffers
from graphtheta.partition.pipeline.local_ids import LocalIds, assign_local_ids
from graphtheta.partition.pipeline.masters import NODE_COLUMNS, NODES_SPILL, OWNERS
from graphtheta.partition.pipeline.order import (
    LOCAL_IDS,
    MIRRORS_SPILL,
    Replicas,
    master_local_ids,
    replicas_of,
)
from graphtheta.partition.pipeline.shuffle_edges import EDGE_COLUMNS, relation_starts
from graphtheta.partition.store.part import (
    IN_EDGES,
    INDPTR,
    MASTERS,
    PLAN,
    REPLICAS,
    PartTables,
    table_names,
)
from graphtheta.partition.store.tables import contiguous

__all__ = ["PartBuilder"]

_INT32_LIMIT = 2**31
_RANGE_BITS = 8  # at most 2^8 ranges of rows: few enough to append to all of them in one pass


class PartBuilder:
    """Builder of the tables of parts. Threads may build parts in parallel.

    Building a part takes `part_bytes` of memory; its rows of the spills of columns are mapped.

    Args:
        edges: Reader of the records of the edges.
        folder: Folder of the spills and node files.
        num_nodes: Number of nodes of the graph (N).
        first_new_id: New id of the first master of each part.
        node_tables: Node tables of the graph.
        edge_tables: Edge tables of the graph.
    """

    def __init__(
        self,
        edges: RecordReader,
        folder: Path,
        num_nodes: int,
        first_new_id: NDArray[np.int64],
        node_tables: Sequence[NodeTable],
        edge_tables: Sequence[EdgeTable],
    ) -> None:
        self._folder, self._num_nodes, self._first_new_id = folder, num_nodes, first_new_id
        self._edges = edges
        self._nodes, self._mirrors = (
            SpillReader(folder, name) for name in (NODES_SPILL, MIRRORS_SPILL)
        )
        self._node_columns = [_Columns(folder, NODE_COLUMNS, *of) for of in enumerate(node_tables)]
        self._edge_columns = [_Columns(folder, EDGE_COLUMNS, *of) for of in enumerate(edge_tables)]
        self._first_node_keys, self._first_edge_keys = (
            np.array([table.first_key for table in tables], np.int64)
            for tables in (node_tables, edge_tables)
        )
        self._buffers = ThreadBuffers()
        self._owners = NodeFile(folder, OWNERS, num_nodes)
        self._local_at_owner = NodeFile(folder, LOCAL_IDS, num_nodes)

    def table_names(self) -> list[str]:
        """Return the names of the tables of a part."""
        with_columns = [bool(columns.schema.names) for columns in self._edge_columns]
        return table_names(len(self._node_columns), with_columns)

    def build(self, part: int, num_interior: int) -> PartTables:
        """Return the tables of a part, valid until the thread builds its next part."""
        replicas = replicas_of(part, self._nodes, self._folder, self._num_nodes)
        ids = self._local_ids(part, replicas)
        positions = replicas.positions(self._num_nodes)
        in_edges, edge_columns, src = self._csc(part, positions, ids)
        out_edges = self._csr(src, ids)
        masters, node_columns = self._masters(part, replicas)
        columns = {"node_key": ids.node_key, "owner": ids.owner, "owner_local": ids.owner_local}
        return PartTables(
            part=part,
            num_interior=num_interior,
            masters=masters,
            replicas=pa.table(columns, schema=REPLICAS),
            in_indptr=pa.table({"indptr": ids.in_indptr}, schema=INDPTR),
            out_indptr=pa.table({"indptr": ids.out_indptr}, schema=INDPTR),
            in_edges=in_edges,
            out_edges=out_edges,
            plan=self._plan(part, positions, ids.local),
            node_columns=node_columns,
            edge_columns=edge_columns,
            first_node_keys=self._first_node_keys,
            first_edge_keys=self._first_edge_keys,
        )

    def _local_ids(self, part: int, replicas: Replicas) -> LocalIds:
        at_owner = self._owners.at(replicas.keys), self._local_at_owner.at(replicas.keys)
        return assign_local_ids(part, replicas, *at_owner, self._first_new_id, self._num_nodes)

    def _csc(
        self, part: int, positions: MemberPositions, ids: LocalIds
    ) -> tuple[pa.Table, tuple[pa.Table | None, ...], NDArray[np.int32]]:
        """Return the table of in-edges, the columns of each relation, and the array of sources."""
        indptr = ids.in_indptr
        records = self._edges.read(part, self._buffers)
        num_edges = len(records)
        starts = relation_starts(records, self._first_edge_keys)
        _to_local_ids(records["src"], records["dst"], positions.table, ids.local)
        shift, row_starts = _row_ranges(indptr)
        coarse = self._buffers.take("coarse", num_edges, records.dtype)
        has_columns = any(columns.schema.names for columns in self._edge_columns)
        index = np.arange(num_edges if has_columns else 0, dtype=_position_dtype(num_edges))
        coarse_index = np.empty_like(index)
        _sort_coarsely(records, coarse, index, coarse_index, shift, row_starts)
        src = self._buffers.take("src", num_edges, np.int32)
        # Reuse the buffer of the records: they take at least as much memory, and are copied.
        keys = self._buffers.take("records", 2 * num_edges, np.int64)
        edge_key, in_position = keys.reshape(2, -1)
        order = np.empty_like(index)
        _sort_finely(coarse, coarse_index, indptr[:-1].copy(), src, edge_key, in_position, order)
        table = {"src": src, "edge_key": edge_key, "in_position": in_position}
        del coarse_index
        columns = self._columns(part, self._edge_columns, order, starts, "attr")
        return contiguous(pa.table(table, schema=IN_EDGES)), columns, src

    def _columns(
        self,
        part: int,
        columns: Sequence[_Columns],
        order: NDArray[Any],
        starts: Sequence[int],
        wide: str,
    ) -> tuple[pa.Table | None, ...]:
        """Return the columns of each type of a part in a new order, None for a type without any.

        Args:
            part: The part.
            columns: Columns of each type.
            order: Order of the rows of all types.
            starts: Where the rows of each type start, and their number.
            wide: As in `_in_order`.
        """
        of_types = _split(order, starts) if len(order) else [order] * len(columns)
        return tuple(
            _in_order(of_type.spill, part, of_type.schema, rows, wide)
            if of_type.schema.names
            else None
            for of_type, rows in zip(columns, of_types, strict=True)
        )

    def _csr(self, src: NDArray[np.int32], ids: LocalIds) -> pa.Table:
        """Return the table of out-edges, from the sources of the in-edges in CSC order."""
        num_edges, indptr = len(src), ids.out_indptr
        shift, starts = _row_ranges(indptr)
        # Reuse the buffer of the coarsely sorted in-edges, which are not needed any more.
        quarters = self._buffers.take("coarse", 4 * num_edges, _position_dtype(num_edges))
        quarters = quarters.reshape(4, -1)
        dst, coarse_dst = (quarter.view(np.int32)[:num_edges] for quarter in quarters[:2])
        position, coarse_position = quarters[2:]
        coarse_src = self._buffers.take("coarse_src", num_edges, np.int32)
        coarse = coarse_src, coarse_dst, coarse_position
        _sort_sources_coarsely(src, ids.in_indptr, shift, starts, *coarse)
        _sort_sources_finely(*coarse, indptr[:-1].copy(), dst, position)
        return pa.table({"dst": dst, "csc_position": position})

    def _masters(self, part: int, replicas: Replicas) -> tuple[pa.Table, tuple[pa.Table, ...]]:
        """Return the table of masters, and the columns of each type."""
        order = _inverse(master_local_ids(self._folder, part))
        masters = _in_order(self._nodes, part, MASTERS, order, "")
        keys = replicas.keys[replicas.is_master]
        starts = [*np.searchsorted(keys, self._first_node_keys).tolist(), len(keys)]
        columns = self._columns(part, self._node_columns, order, starts, "features")
        return masters, tuple(table for table in columns if table is not None)

    def _plan(self, part: int, positions: MemberPositions, local: NDArray[np.int32]) -> pa.Table:
        slices = self._mirrors.read(part)
        if not slices:
            return PLAN.empty_table()
        keys, role = (
            np.concatenate([as_numpy(rows.column(name)) for _, rows in slices])
            for name in ("node_key", "role")
        )
        peers, rows = np.array([(peer, rows.num_rows) for peer, rows in slices], np.int32).T
        master = np.take(local, positions.find(keys))
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(rows, out=starts[1:])
        to = positions_in_sorted_groups(master, starts, int(master.max()) + 1)
        columns = {"peer": np.repeat(peers, rows)}
        for name, values in (("master", master), ("role", role)):
            columns[name] = np.empty_like(values)
            columns[name][to] = values
        return pa.table(columns, schema=PLAN)


class _Columns:
    """Spill of the columns of one node type or relation.

    Args:
        folder: Folder of the spill.
        name: Name of the spills of all types.
        position: Position of the type.
        table: Its table.

    Attributes:
        spill: The spill.
        schema: Names and types of its columns.
    """

    def __init__(
        self, folder: Path, name: str, position: int, table: NodeTable | EdgeTable
    ) -> None:
        self.spill = SpillReader(folder, f"{name}-{position}")
        fields = [field for field in table.schema if field.name not in ("src", "dst")]
        names = ["original_id" if field.name == "id" else field.name for field in fields]
        types = [plain_type(field.type) for field in fields]
        self.schema = self.spill.schema or pa.schema(zip(names, types, strict=True))


def _in_order(
    spill: SpillReader, part: int, schema: pa.Schema, order: NDArray[Any], wide: str
) -> pa.Table:
    """Return the rows of a part in a new order: row i is row order[i] of the spill.

    Args:
        spill: Rows of all parts.
        part: The part.
        schema: Columns of the spill.
        order: Order of the rows.
        wide: Column of lists of numbers without nulls, if there is one. It may take most of the
            memory, so that it is copied once, chunk by chunk.
    """
    field = schema.field(wide) if wide in schema.names else None
    if field is None or is_sparse(field.type) or not field.type.list_size:
        batches = [rows for _, rows in spill.read(part)]
        table = contiguous(pa.Table.from_batches(batches, schema=schema))
        return contiguous(table.take(pa.array(order)))
    values = np.empty((len(order), field.type.list_size), field.type.value_type.to_pandas_dtype())
    position, first = _inverse(order), 0
    for rows in spill.stream(part, wide):
        values[position[first : first + len(rows)]] = as_numpy(rows)
        first += len(rows)
    flat = pa.array(values.reshape(-1))
    columns: dict[str, Any] = {wide: pa.FixedSizeListArray.from_arrays(flat, type=field.type)}
    if others := [other for other in schema if other.name != wide]:
        batches = [rows.select([other.name for other in others]) for _, rows in spill.read(part)]
        table = contiguous(pa.Table.from_batches(batches, schema=pa.schema(others)))
        table = table.take(pa.array(order))
        columns |= dict(zip(table.column_names, table.columns, strict=True))
    return contiguous(pa.table({name: columns[name] for name in schema.names}))


def _split(order: NDArray[Any], starts: Sequence[int]) -> list[NDArray[Any]]:
    """Return, for each range of rows, the order of its rows, counted from the start of the range.

    Args:
        order: Order of all rows.
        starts: Start of each range, and the number of rows.
    """
    if len(starts) == 2:
        return [order]
    split, bounds = np.empty_like(order), np.array(starts, order.dtype)
    _split_order(order, bounds, bounds[:-1].copy(), split)
    return [split[start:stop] for start, stop in pairwise(starts)]


def _inverse(order: NDArray[Any]) -> NDArray[Any]:
    position = np.empty_like(order)
    position[order] = np.arange(len(order), dtype=order.dtype)
    return position


def _position_dtype(num_edges: int) -> type[np.int32] | type[np.int64]:
    return np.int32 if num_edges < _INT32_LIMIT else np.int64


@jit
def _split_order(
    order: NDArray[Any], starts: NDArray[Any], next_position: NDArray[Any], split: NDArray[Any]
) -> None:
    i_range = 0
    for i in range(np.uint64(order.shape[0])):
        while order[i] < starts[i_range]:
            i_range -= 1
        while order[i] >= starts[i_range + 1]:
            i_range += 1
        split[np.uint64(next_position[i_range])] = order[i] - starts[i_range]
        next_position[i_range] += 1


# Edges are sorted by row in two passes, because writing to all rows at random would miss the cache:
# coarsely, into at most 2^_RANGE_BITS ranges of 2^shift rows; then finely, within a range.


def _row_ranges(indptr: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """Return the shift from a row to its range of rows, and where each range's edges start."""
    shift = max(0, (len(indptr) - 1).bit_length() - _RANGE_BITS)
    return shift, indptr[:-1][:: 1 << shift].copy()


@jit
def _to_local_ids(
    src: NDArray[Any], dst: NDArray[Any], table: NDArray[np.uint64], local: NDArray[np.int32]
) -> None:
    for i in range(np.uint64(src.shape[0])):
        src[i] = local[member_position(table, np.uint64(src[i]))]
        dst[i] = local[member_position(table, np.uint64(dst[i]))]


@jit
def _sort_coarsely(
    records: NDArray[Any],
    coarse: NDArray[Any],
    index: NDArray[Any],
    coarse_index: NDArray[Any],
    shift: int,
    next_position: NDArray[np.int64],
) -> None:
    """Sort edges by the range of rows of their destinations; stable."""
    with_index = index.shape[0] > 0
    for i in range(np.uint64(records.shape[0])):
        row_range = np.uint64(records[i]["dst"]) >> np.uint64(shift)
        at = np.uint64(next_position[row_range])
        next_position[row_range] += 1
        coarse[at] = records[i]
        if with_index:
            coarse_index[at] = index[i]


@jit
def _sort_finely(
    coarse: NDArray[Any],
    coarse_index: NDArray[Any],
    next_position: NDArray[np.int64],
    src: NDArray[np.int32],
    edge_key: NDArray[np.int64],
    in_position: NDArray[np.int64],
    order: NDArray[Any],
) -> None:
    """Sort edges by destination; stable, so that the edges of a row stay in order of their keys."""
    with_index = coarse_index.shape[0] > 0
    for i in range(np.uint64(coarse.shape[0])):
        d = np.uint64(coarse[i]["dst"])
        at = np.uint64(next_position[d])
        next_position[d] += 1
        src[at] = coarse[i]["src"]
        edge_key[at] = coarse[i]["edge_key"]
        in_position[at] = coarse[i]["in_position"]
        if with_index:
            order[at] = coarse_index[i]


@jit
def _sort_sources_coarsely(
    src: NDArray[np.int32],
    in_indptr: NDArray[np.int64],
    shift: int,
    next_position: NDArray[np.int64],
    coarse_src: NDArray[np.int32],
    coarse_dst: NDArray[np.int32],
    coarse_position: NDArray[Any],
) -> None:
    """Sort edges of the CSC by the range of rows of their sources; stable."""
    for d in range(in_indptr.shape[0] - 1):
        for j in range(np.uint64(in_indptr[d]), np.uint64(in_indptr[d + 1])):
            row_range = np.uint64(src[j]) >> np.uint64(shift)
            at = np.uint64(next_position[row_range])
            next_position[row_range] += 1
            coarse_src[at] = src[j]
            coarse_dst[at] = d
            coarse_position[at] = j


@jit
def _sort_sources_finely(
    coarse_src: NDArray[np.int32],
    coarse_dst: NDArray[np.int32],
    coarse_position: NDArray[Any],
    next_position: NDArray[np.int64],
    dst: NDArray[np.int32],
    position: NDArray[Any],
) -> None:
    """Sort edges by source; stable, so that the edges of a row stay in the order of the CSC."""
    for i in range(np.uint64(coarse_src.shape[0])):
        s = np.uint64(coarse_src[i])
        at = np.uint64(next_position[s])
        next_position[s] += 1
        dst[at] = coarse_dst[i]
        position[at] = coarse_position[i]
