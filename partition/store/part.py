"""One part of a partitioned graph: its Arrow tables, the same type in memory and memory-mapped.

Local node ids index `replicas`: masters first, then mirrors. An edge of an edge-cut lives with its
destination's master; in a vertex-cut a mirror may hold in-edges too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

__all__ = [
    "INDPTR",
    "PLAN",
    "REPLICAS",
    "ROLE_BOTH",
    "ROLE_IN",
    "ROLE_OUT",
    "TABLES",
    "PartTables",
]

TABLES = ("masters", "replicas", "in_indptr", "out_indptr", "in_edges", "out_edges", "plan")

ROLE_OUT = np.int8(1)  # the mirror has out-edges: it needs the master's values
ROLE_IN = np.int8(2)  # the mirror has in-edges: it sends partial sums
ROLE_BOTH = np.int8(3)

REPLICAS = pa.schema([("node_key", pa.int64()), ("owner", pa.int32()), ("owner_local", pa.int32())])
INDPTR = pa.schema([("indptr", pa.int64())])
PLAN = pa.schema([("peer", pa.int32()), ("master", pa.int32()), ("role", pa.int8())])


@dataclass(frozen=True, slots=True)
class PartTables:
    """The tables of one part, each of one contiguous chunk.

    Attributes:
        part: Index of the part, in [0, num_parts).
        num_interior: Masters whose locally held in-edges all come from masters of this part; they
            are the first masters.
        masters: M rows: `node_key` int64, `original_id` (int64 or string), `in_degree` and
            `out_degree` int64 (of the whole graph), then the node columns of the source
            (`features`, `label:<name>`, `split:<name>`, others), in its order.
        replicas: L rows: `node_key` int64, `owner` int32 (part), `owner_local` int32 (local id
            there). Masters first (owner is this part), then mirrors sorted by (owner, owner_local).
        in_indptr: L + 1 rows of `indptr` int64: row i of the CSC is [indptr[i], indptr[i + 1]).
        out_indptr: L + 1 rows of `indptr` int64, of the CSR.
        in_edges: E rows in CSC order: `src` int32 (local), `edge_key` int64, `in_position` int64,
            then the edge columns of the source. A row's edges are sorted by edge_key.
        out_edges: E rows in CSR order: `dst` int32 (local), `csc_position` int32 (int64 from 2^31
            edges): the edge's row in `in_edges`. A row's edges are sorted by csc_position.
        plan: One row for each mirror that another part holds of a master here: `peer` int32 (that
            part), `master` int32 (local id here), `role` int8 (1: the mirror has out-edges, 2: it
            has in-edges, 3: both). Sorted by (peer, master), which is the order of that part's
            mirrors of this owner.
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

    @property
    def num_masters(self) -> int:
        """Nodes that this part owns (M)."""
        return int(self.masters.num_rows)

    @property
    def num_mirrors(self) -> int:
        """Copies of other parts' nodes (H)."""
        return int(self.replicas.num_rows - self.masters.num_rows)

    @property
    def num_replicas(self) -> int:
        """Masters and mirrors (L)."""
        return int(self.replicas.num_rows)

    @property
    def num_edges(self) -> int:
        """Edges that live here (E)."""
        return int(self.in_edges.num_rows)

    def tables(self) -> dict[str, pa.Table]:
        """Return the tables by file name without suffix, in a fixed order."""
        return {name: getattr(self, name) for name in TABLES}
