"""One part's local numbering, in two steps around the look-up of where its mirrors' masters are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.errors import PartitionError
from graphtheta.partition.columns import column_numpy, contiguous
from graphtheta.partition.distinct import distinct
from graphtheta.partition.part import INDPTR, PLAN, REPLICAS, PartTables

__all__ = ["Draft", "draft_part", "finish_part"]

_INT32_LIMIT = 2**31


@dataclass(frozen=True, slots=True)
class Draft:
    """A part whose mirrors are not resolved yet; nodes are named by their position in `keys`.

    Attributes:
        part: Index of the part.
        num_interior: How many of `masters` are interior.
        keys: Node keys of all replicas, ascending.
        masters: Positions of masters in local order: interior, then boundary, each by key.
        mirrors: Positions of mirrors, by key.
        src, dst: Positions of the edges' endpoints.
        node_rows: Rows of the node table, in the order of `masters`.
        edge_rows: Rows of the edge table, in the order of `src` and `dst`.

    Shape:
        keys: (L,). masters, node_rows: (M,). mirrors: (H,). src, dst, edge_rows: (E,). All int64.
    """

    part: int
    num_interior: int
    keys: NDArray[np.int64]
    masters: NDArray[np.int64]
    mirrors: NDArray[np.int64]
    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    node_rows: NDArray[np.int64]
    edge_rows: NDArray[np.int64]


def draft_part(
    part: int,
    nodes: pa.Table,
    edges: pa.Table,
    node_rows: NDArray[np.int64],
    edge_rows: NDArray[np.int64],
) -> Draft:
    """Return a part's replicas, with its masters in order.

    Args:
        part: Index of the part.
        nodes: `node_key` and columns.
        edges: `src`, `dst` as node keys and columns.
        node_rows: Rows of the part's masters, their node keys ascending.
        edge_rows: Rows of the part's edges.

    Raises:
        PartitionError: If the part has more replicas than 32-bit local ids can name.
    """
    master_keys = column_numpy(nodes, "node_key")[node_rows]
    src_keys = column_numpy(edges, "src")[edge_rows]
    dst_keys = column_numpy(edges, "dst")[edge_rows]
    keys = distinct(master_keys, src_keys, dst_keys)
    if keys.shape[0] >= _INT32_LIMIT:
        raise PartitionError(
            f"partition: expected less than 2^31 replicas in a part, got {keys.shape[0]:,} in part "
            f"{part}. Use more parts."
        )
    src, dst = np.searchsorted(keys, src_keys), np.searchsorted(keys, dst_keys)
    masters = np.searchsorted(keys, master_keys)
    is_mirror = np.ones(keys.shape[0], np.bool_)
    is_mirror[masters] = False
    is_boundary = np.zeros(keys.shape[0], np.bool_)
    is_boundary[dst[is_mirror[src]]] = True
    order = np.argsort(is_boundary[masters], kind="stable")
    return Draft(
        part=part,
        num_interior=int(np.count_nonzero(~is_boundary[masters])),
        keys=keys,
        masters=masters[order],
        mirrors=np.flatnonzero(is_mirror),
        src=src,
        dst=dst,
        node_rows=node_rows[order],
        edge_rows=edge_rows,
    )


def finish_part(
    draft: Draft,
    mirror_new_ids: NDArray[np.int64],
    first_new_id: NDArray[np.int64],
    nodes: pa.Table,
    edges: pa.Table,
) -> PartTables:
    """Return the part's tables, all but the plan, which the holders of its mirrors know.

    Args:
        draft: The part.
        mirror_new_ids: New id of each of the draft's mirrors.
        first_new_id: Of each part.
        nodes: Columns of `masters`.
        edges: Columns of `in_edges` without `src`.
    """
    num_masters, num_replicas = draft.masters.shape[0], draft.keys.shape[0]
    by_owner = np.argsort(mirror_new_ids)  # new ids ascend by owner, then by local id there
    in_order = np.concatenate([draft.masters, draft.mirrors[by_owner]])
    local = np.empty(num_replicas, np.int32)
    local[in_order] = np.arange(num_replicas, dtype=np.int32)

    new_ids = mirror_new_ids[by_owner]
    mirror_owner = np.searchsorted(first_new_id, new_ids, side="right") - 1
    owner = np.concatenate([np.full(num_masters, draft.part), mirror_owner])
    owner_local = np.concatenate([np.arange(num_masters), new_ids - first_new_id[mirror_owner]])
    replicas = {
        "node_key": draft.keys[in_order],
        "owner": owner.astype(np.int32),
        "owner_local": owner_local.astype(np.int32),
    }

    src, dst = local[draft.src], local[draft.dst]
    edge_key = column_numpy(edges, "edge_key")[draft.edge_rows]
    csc = np.lexsort((edge_key, dst))
    src, dst = src[csc], dst[csc]
    csr = np.argsort(src, kind="stable")
    position_type = np.int32 if csr.shape[0] < _INT32_LIMIT else np.int64
    in_columns = edges.take(pa.array(draft.edge_rows[csc]))
    return PartTables(
        part=draft.part,
        num_interior=draft.num_interior,
        masters=contiguous(nodes.take(pa.array(draft.node_rows))),
        replicas=pa.table(replicas, schema=REPLICAS),
        in_indptr=_indptr(dst, num_replicas),
        out_indptr=_indptr(src, num_replicas),
        in_edges=contiguous(in_columns.add_column(0, "src", pa.array(src))),
        out_edges=pa.table({"dst": dst[csr], "csc_position": csr.astype(position_type)}),
        plan=PLAN.empty_table(),
    )


def _indptr(row_of_edge: NDArray[np.int32], num_rows: int) -> pa.Table:
    counts = np.bincount(row_of_edge, minlength=num_rows)
    return pa.table({"indptr": np.concatenate([[0], np.cumsum(counts)])}, schema=INDPTR)
