"""Arrow tables of one part of a partitioned graph, in memory or memory-mapped.

The local id of a node is its row in `replicas`: masters first, then mirrors. In an edge-cut, an
edge is in the part of its destination's master; in a vertex-cut, mirrors may have in-edges too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.data.types import positions_of_keys

__all__ = [
    "INDPTR",
    "IN_EDGES",
    "MASTERS",
    "PLAN",
    "REPLICAS",
    "ROLE_IN",
    "ROLE_OUT",
    "TABLES",
    "PartTables",
    "table_names",
]

TABLES = ("masters", "replicas", "in_indptr", "out_indptr", "in_edges", "out_edges", "plan")

# Roles of a mirror in the plan, combined by addition.
ROLE_OUT = np.int8(1)  # the mirror has out-edges: it needs the values of its master
ROLE_IN = np.int8(2)  # the mirror has in-edges: it sends partial sums

_KEY = ("node_key", pa.int64())
MASTERS = pa.schema([_KEY, ("in_degree", pa.int64()), ("out_degree", pa.int64())])
IN_EDGES = pa.schema([("src", pa.int32()), ("edge_key", pa.int64()), ("in_position", pa.int64())])
REPLICAS = pa.schema([_KEY, ("owner", pa.int32()), ("owner_local", pa.int32())])
INDPTR = pa.schema([("indptr", pa.int64())])
PLAN = pa.schema([("peer", pa.int32()), ("master", pa.int32()), ("role", pa.int8())])


@dataclass(frozen=True, slots=True)
class PartTables:
    """Tables of one part, each in one contiguous chunk.

    Attributes:
        part: Index of the part, in [0, num_parts).
        num_interior: Number of interior masters, which come first: the sources of all their
            in-edges in this part are masters of this part.
        masters: M rows: `node_key`, `in_degree` and `out_degree` int64 (in the whole graph).
        node_columns: For each node type, `original_id` (int64 or string) and the columns of the
            source (`features`, `label:<name>`, `split:<name>`, others), in their order. A row for
            each master of the type, in the order of the masters.
        replicas: L rows: `node_key` int64, `owner` int32 (part), `owner_local` int32 (local id
            there). Masters first (owner is this part), then mirrors sorted by (owner, owner_local).
        in_indptr: L + 1 rows of `indptr` int64: the in-edges of node i are rows
            [indptr[i], indptr[i + 1]) of `in_edges`.
        out_indptr: The same for `out_edges`.
        in_edges: E rows in CSC order: `src` int32 (local), `edge_key` and `in_position` int64. The
            in-edges of a node are sorted by edge_key, and so by relation.
        edge_columns: For each relation, the columns of the source; None without any. A row for each
            edge of the relation, in CSC order.
        out_edges: E rows in CSR order: `dst` int32 (local), `csc_position` int32 (int64 from 2^31
            edges on), the row of the edge in `in_edges`. The out-edges of a node are sorted by
            csc_position.
        plan: One row for each mirror in another part of a master of this part: `peer` int32 (the
            other part), `master` int32 (local id here), `role` int8 (1: the mirror has out-edges,
            2: it has in-edges, 3: both). Sorted by (peer, master), which is the order in which the
            peer has its mirrors of this part.
        first_node_keys: First node key of each node type: (T,) int64.
        first_edge_keys: First edge key of each relation: (R,) int64.
    """

    part: int
    num_interior: int
    masters: pa.Table
    replicas: pa.Table
    in_indptr: pa.Table
    out_indptr: pa.Table
    in_edges: pa.Table
    out_edges: pa.Table
    plan: pa.Table
    node_columns: tuple[pa.Table, ...]
    edge_columns: tuple[pa.Table | None, ...]
    first_node_keys: NDArray[np.int64]
    first_edge_keys: NDArray[np.int64]

    @property
    def num_masters(self) -> int:
        """Number of nodes that this part owns (M)."""
        return int(self.masters.num_rows)

    @property
    def num_mirrors(self) -> int:
        """Number of copies of nodes of other parts (H)."""
        return int(self.replicas.num_rows - self.masters.num_rows)

    @property
    def num_replicas(self) -> int:
        """Number of masters and mirrors (L)."""
        return int(self.replicas.num_rows)

    @property
    def num_edges(self) -> int:
        """Number of edges of this part (E)."""
        return int(self.in_edges.num_rows)

    def tables(self) -> dict[str, pa.Table]:
        """Return the tables by the names of their files (without suffix), in a fixed order."""
        return {name: getattr(self, name) for name in TABLES} | {
            **{f"masters-{i}": table for i, table in enumerate(self.node_columns)},
            **{f"in_edges-{i}": t for i, t in enumerate(self.edge_columns) if t is not None},
        }

    def rows_of_type(self, position: int) -> NDArray[np.int64]:
        """Return the local ids of the masters of a node type, ascending."""
        keys = as_numpy(self.masters["node_key"])
        return np.flatnonzero(positions_of_keys(keys, self.first_node_keys) == position)

    def rows_of_relation(self, position: int) -> NDArray[np.int64]:
        """Return the positions in CSC order of the edges of a relation, ascending."""
        keys = as_numpy(self.in_edges["edge_key"])
        return np.flatnonzero(positions_of_keys(keys, self.first_edge_keys) == position)

    def masters_of(self, position: int = 0) -> pa.Table:
        """Return the masters of a node type with all columns.

        These are `node_key`, `original_id`, `in_degree`, `out_degree`, and the columns of the type.

        Args:
            position: Position of the type in the manifest.
        """
        table, columns = self.masters, self.node_columns[position]
        if len(self.node_columns) > 1:
            table = table.take(pa.array(self.rows_of_type(position)))
        table = table.add_column(1, "original_id", columns["original_id"])
        return _joined(table, columns.drop_columns(["original_id"]))

    def in_edges_of(self, position: int = 0) -> pa.Table:
        """Return the in-edges of a relation with all columns.

        These are `src`, `edge_key`, `in_position`, and the columns of the relation.

        Args:
            position: Position of the relation in the manifest.
        """
        table, columns = self.in_edges, self.edge_columns[position]
        if len(self.edge_columns) > 1:
            table = table.take(pa.array(self.rows_of_relation(position)))
        return table if columns is None else _joined(table, columns)


def table_names(num_types: int, with_columns: Sequence[bool]) -> list[str]:
    """Return the names of the tables of a part, in the order of `PartTables.tables`.

    Args:
        num_types: Number of node types.
        with_columns: Whether each relation has columns.
    """
    of_relations = [f"in_edges-{i}" for i, has_columns in enumerate(with_columns) if has_columns]
    return [*TABLES, *(f"masters-{i}" for i in range(num_types)), *of_relations]


def _joined(table: pa.Table, columns: pa.Table) -> pa.Table:
    for name in columns.column_names:
        table = table.append_column(name, columns[name])
    return table
