"""Arrow tables of one part of a partitioned graph, in memory or memory-mapped.

The local id of a node is its row in `replicas`: masters first, then mirrors. In an edge-cut, an
edge is in the part of its destination's master; in a vertex-cut, mirrors may have in-edges too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

__all__ = [
    "INDPTR",
    "PLAN",
    "REPLICAS",
    "ROLE_IN",
    "ROLE_OUT",
    "TABLES",
    "PartTables",
]

TABLES = ("masters", "replicas", "in_indptr", "out_indptr", "in_edges", "out_edges", "plan")

# Roles of a mirror in the plan, combined by addition.
ROLE_OUT = np.int8(1)  # the mirror has out-edges: it needs the values of its master
ROLE_IN = np.int8(2)  # the mirror has in-edges: it sends partial sums

REPLICAS = pa.schema([("node_key", pa.int64()), ("owner", pa.int32()), ("owner_local", pa.int32())])
INDPTR = pa.schema([("indptr", pa.int64())])
PLAN = pa.schema([("peer", pa.int32()), ("master", pa.int32()), ("role", pa.int8())])


@dataclass(frozen=True, slots=True)
class PartTables:
    """Tables of one part, each in one contiguous chunk.

    Attributes:
        part: Index of the part, in [0, num_parts).
        num_interior: Number of interior masters, which come first: the sources of all their
            in-edges in this part are masters of this part.
        masters: M rows: `node_key` int64, `original_id` (int64 or string), `in_degree` and
            `out_degree` int64 (in the whole graph), then the node columns of the source
            (`features`, `label:<name>`, `split:<name>`, others), in their order.
        replicas: L rows: `node_key` int64, `owner` int32 (part), `owner_local` int32 (local id
            there). Masters first (owner is this part), then mirrors sorted by (owner, owner_local).
        in_indptr: L + 1 rows of `indptr` int64: the in-edges of node i are rows
            [indptr[i], indptr[i + 1]) of `in_edges`.
        out_indptr: The same for `out_edges`.
        in_edges: E rows in CSC order: `src` int32 (local), `edge_key` int64, `in_position` int64,
            then the edge columns of the source. The in-edges of a node are sorted by edge_key.
        out_edges: E rows in CSR order: `dst` int32 (local), `csc_position` int32 (int64 from 2^31
            edges on), the row of the edge in `in_edges`. The out-edges of a node are sorted by
            csc_position.
        plan: One row for each mirror in another part of a master of this part: `peer` int32 (the
            other part), `master` int32 (local id here), `role` int8 (1: the mirror has out-edges,
            2: it has in-edges, 3: both). Sorted by (peer, master), which is the order in which the
            peer has its mirrors of this part.
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
        return {name: getattr(self, name) for name in TABLES}
