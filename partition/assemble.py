"""From placed nodes and edges to the tables of the parts: local ids, CSC, CSR and plan.

Three rounds of exchange, whatever the number of parts: rows to the ranks that build their parts;
the masters' new ids, which mirrors look up; and the rows of the plan, from mirrors to masters.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.blocks import Blocks
from graphtheta.partition.builders import PART, move_to_builders, own_parts, rows_by_part
from graphtheta.partition.columns import column_numpy, contiguous
from graphtheta.partition.degrees import Degrees
from graphtheta.partition.draft import Draft, draft_part, finish_part
from graphtheta.partition.part import PLAN, ROLE_IN, ROLE_OUT, PartTables
from graphtheta.partition.placement import Placement
from graphtheta.partition.quality import PartCounts
from graphtheta.partition.read import GraphBlock

__all__ = ["assemble"]


def assemble(
    graph: GraphBlock, degrees: Degrees, placement: Placement, comm: Communicator
) -> tuple[dict[int, PartTables], PartCounts]:
    """Return the parts that this rank builds, and the counts of all parts; collective.

    Raises:
        PartitionError: If a part would not fit local ids of 32 bits.

    Communication:
        Every row of the graph once; 16 bytes a node and 28 a mirror to resolve mirrors; 13 bytes a
        mirror for the plan.
    """
    num_parts = placement.num_parts
    mine = own_parts(num_parts, comm)
    nodes = _node_rows(graph, degrees, placement)
    nodes = move_to_builders(nodes, num_parts, comm, stage="move nodes")
    edges = _edge_rows(graph, degrees, placement)
    edges = move_to_builders(edges, num_parts, comm, stage="move edges")
    node_rows, edge_rows = rows_by_part(nodes, mine), rows_by_part(edges, mine)
    drafts = [draft_part(part, nodes, edges, node_rows[part], edge_rows[part]) for part in mine]

    masters = np.zeros(num_parts, np.int64)
    masters[mine] = [draft.masters.shape[0] for draft in drafts]
    comm.all_reduce(masters, "sum", stage="count masters")
    first_new_id = np.cumsum(masters) - masters
    mirror_ids = _mirror_ids(drafts, first_new_id, graph.nodes, comm)

    node_columns = nodes.drop_columns([PART])
    edge_columns = edges.drop_columns(["src", "dst", PART])
    parts: dict[int, PartTables] = {}
    counts = PartCounts(*np.zeros((4, num_parts), np.int64))
    for draft, new_ids in zip(drafts, mirror_ids, strict=True):
        part = finish_part(draft, new_ids, first_new_id, node_columns, edge_columns)
        parts[draft.part] = part
        counts.masters[draft.part] = part.num_masters
        counts.mirrors[draft.part] = part.num_mirrors
        counts.edges[draft.part] = part.num_edges
        counts.cut[draft.part] = _num_cut(part)
    return _with_plans(parts, num_parts, comm), counts.total(comm)


def _node_rows(graph: GraphBlock, degrees: Degrees, placement: Placement) -> pa.Table:
    columns = {
        "node_key": graph.nodes.keys(),
        "original_id": graph.ids,
        "in_degree": degrees.in_degree,
        "out_degree": degrees.out_degree,
    }
    return pa.table(columns | _columns(graph.node_columns) | {PART: placement.node_part})


def _edge_rows(graph: GraphBlock, degrees: Degrees, placement: Placement) -> pa.Table:
    columns = {
        "src": graph.src,
        "dst": graph.dst,
        "edge_key": graph.edge_key,
        "in_position": degrees.in_position,
    }
    return pa.table(columns | _columns(graph.edge_columns) | {PART: placement.edge_part})


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _mirror_ids(
    drafts: list[Draft], first_new_id: NDArray[np.int64], nodes: Blocks, comm: Communicator
) -> list[NDArray[np.int64]]:
    """Return the new ids of each draft's mirrors, asked of the block owners of their keys."""
    none = np.empty(0, np.int64)
    keys = np.concatenate([none, *(draft.keys[draft.masters] for draft in drafts)])
    new_ids = np.concatenate(
        [none, *(first_new_id[d.part] + np.arange(d.masters.shape[0]) for d in drafts)]
    )
    new_id_of_node = nodes.put(keys, new_ids, stage="new ids of masters")
    mirrors = np.concatenate([none, *(draft.keys[draft.mirrors] for draft in drafts)])
    found = nodes.fetch(mirrors, new_id_of_node, stage="new ids of mirrors")
    stops = np.cumsum([draft.mirrors.shape[0] for draft in drafts], dtype=np.int64)
    return np.split(found, stops)[:-1]


def _num_cut(part: PartTables) -> int:
    owner = column_numpy(part.replicas, "owner")
    in_degree = np.diff(column_numpy(part.in_indptr, "indptr"))
    owner_of_dst = np.repeat(owner, in_degree)
    return int(np.count_nonzero(owner[column_numpy(part.in_edges, "src")] != owner_of_dst))


def _with_plans(
    parts: dict[int, PartTables], num_parts: int, comm: Communicator
) -> dict[int, PartTables]:
    """Tell the owners of mirrors which part holds them, and in which role."""
    schema = PLAN.append(pa.field(PART, pa.int32()))
    rows = pa.concat_tables(
        [schema.empty_table(), *(_of_mirrors(p, schema) for p in parts.values())]
    )
    rows = move_to_builders(rows, num_parts, comm, stage="plan")
    keys = [column_numpy(rows, name) for name in ("master", "peer")]
    rows = rows.take(pa.array(np.lexsort(keys)))
    by_part = rows_by_part(rows, list(parts))
    plans = rows.drop_columns([PART])
    return {
        index: replace(part, plan=contiguous(plans.take(pa.array(by_part[index]))))
        for index, part in parts.items()
    }


def _of_mirrors(part: PartTables, schema: pa.Schema) -> pa.Table:
    mirrors = slice(part.num_masters, None)
    has_out = np.diff(column_numpy(part.out_indptr, "indptr"))[mirrors] > 0
    has_in = np.diff(column_numpy(part.in_indptr, "indptr"))[mirrors] > 0
    rows = {
        "peer": np.full(part.num_mirrors, part.part, np.int32),
        "master": column_numpy(part.replicas, "owner_local")[mirrors],
        "role": ROLE_OUT * has_out + ROLE_IN * has_in,
        PART: column_numpy(part.replicas, "owner")[mirrors],
    }
    return pa.table(rows, schema=schema)
