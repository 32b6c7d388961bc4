"""Local graph of a worker: one part of a store, or several parts merged.

One part is used as it is, without a copy. To merge several, replicas get new local ids: new ids are
contiguous over a worker's parts, so that a replica's local id follows from its new id by
subtraction (masters) or binary search (mirrors). The peers of the parts become ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.adjacency import Adjacency, transposed
from graphtheta.data.schema import as_numpy
from graphtheta.exchange.plan import ExchangePlan, Role
from graphtheta.partition.store.manifest import Book, Manifest
from graphtheta.partition.store.part import PartTables
from graphtheta.shard.edge_columns import EdgeColumns
from graphtheta.shard.merged_edges import (
    EdgeMerger,
    MergedColumns,
    all_edges,
    edges_of_relation,
    table_columns,
)

__all__ = ["LocalGraph", "local_graph", "parts_of_rank"]


@dataclass(frozen=True)
class LocalGraph:
    """Edges, columns and exchange plan of one worker.

    Attributes:
        manifest: Description of the whole graph.
        masters: M rows with the columns of `PartTables.masters`.
        node_columns: For each node type, `original_id` and the columns of its masters, in order.
        node_key_L: (L,) int64 keys of the masters, then of the mirrors.
        in_indptr: (L + 1,) int64; the in-edges of replica i are [in_indptr[i], in_indptr[i + 1]).
        out_edges: The same edges by source.
        ends: Columns of the E edges in CSC order: `src` int32, `edge_key` and `in_position` int64.
        edge_columns: For each relation, the columns of its edges, in CSC order, and
            `known:<name>` bool for each label with missing values. Columns of several parts are
            merged when first read.
        plan: Which rows are exchanged with which peer.
    """

    manifest: Manifest
    masters: pa.Table
    node_columns: tuple[pa.Table, ...]
    node_key_L: NDArray[np.int64]
    in_indptr: NDArray[np.int64]
    out_edges: Adjacency
    ends: Mapping[str, NDArray[Any]]
    edge_columns: tuple[Mapping[str, NDArray[Any]], ...]
    plan: ExchangePlan

    @cached_property
    def edges(self) -> EdgeColumns:
        """Columns of all E edges in CSC order."""
        return EdgeColumns(self.ends, self.edge_columns, self.manifest)


def parts_of_rank(num_parts: int, rank: int, size: int) -> range:
    """Return the parts that a worker opens, if `size` workers divide `num_parts` evenly."""
    per_worker = num_parts // size
    return range(rank * per_worker, (rank + 1) * per_worker)


def local_graph(
    parts: Sequence[PartTables],
    manifest: Manifest,
    book: Book,
    rank: int,
    size: int,
    threads: int,
) -> LocalGraph:
    """Return the local graph of a worker, of one part or several.

    Args:
        parts: The parts of `parts_of_rank`, in order.
        manifest: The store's manifest.
        book: The store's book.
        rank: Rank of this worker.
        size: Number of workers.
        threads: Number of threads that merge.
    """
    per_worker = book.num_parts // size
    base = np.append(book.first_new_id, book.first_new_id[-1] + book.masters[-1])
    starts = base[::per_worker]  # first new id of each rank, and N
    first, last = int(starts[rank]), int(starts[rank + 1])
    num_masters = last - first

    new_ids = [
        base[as_numpy(p.replicas["owner"])] + as_numpy(p.replicas["owner_local"]) for p in parts
    ]
    if len(parts) == 1:
        mirrors = new_ids[0][num_masters:]
        node_key_L = as_numpy(parts[0].replicas["node_key"])
        in_indptr = as_numpy(parts[0].in_indptr["indptr"])
        ends: Mapping[str, NDArray[Any]] = table_columns(parts[0].in_edges)
        columns: list[Mapping[str, NDArray[Any]]] = [
            table_columns(table) for table in parts[0].edge_columns
        ]
        table, indptr = parts[0].out_edges, as_numpy(parts[0].out_indptr["indptr"])
        out_edges = Adjacency(
            indptr, as_numpy(table["dst"]), as_numpy(table["csc_position"]), border=num_masters
        )
    else:
        joined = np.concatenate(new_ids)
        keys = np.concatenate([as_numpy(p.replicas["node_key"]) for p in parts])
        unique, first_index = np.unique(joined, return_index=True)
        outside = (unique < first) | (unique >= last)
        mirrors = unique[outside]
        node_key_L = np.concatenate([keys[first_index[~outside]], keys[first_index[outside]]])
        local = [
            np.where(
                (ids >= first) & (ids < last),
                ids - first,
                num_masters + np.searchsorted(mirrors, ids),
            ).astype(np.int32)
            for ids in new_ids
        ]
        merging = local, num_masters + len(mirrors), threads
        merger = all_edges(parts, *merging)
        ends = MergedColumns(lambda: merger, [part.in_edges for part in parts])
        columns = _merged_columns(parts, merger, *merging)
        in_indptr = merger.indptr
        out_edges = transposed(in_indptr, ends["src"], num_masters, len(mirrors))

    owner_H = (np.searchsorted(starts, mirrors, side="right") - 1).astype(np.int32)
    has_out, has_in = np.diff(out_edges.indptr) > 0, np.diff(in_indptr) > 0
    role_L = has_out * np.int8(Role.SOURCE) + has_in * np.int8(Role.DESTINATION)
    peer, master, role = _merged_plan(parts, base, per_worker, rank)
    return LocalGraph(
        manifest=manifest,
        masters=_concatenated([part.masters for part in parts]),
        node_columns=tuple(
            _concatenated(tables)
            for tables in zip(*(part.node_columns for part in parts), strict=True)
        ),
        node_key_L=node_key_L,
        in_indptr=in_indptr,
        out_edges=out_edges,
        ends=ends,
        edge_columns=tuple(columns),
        plan=ExchangePlan(
            num_masters=num_masters,
            num_mirrors=len(mirrors),
            peer_X=peer,
            master_X=master,
            peer_role_X=role,
            owner_H=owner_H,
            role_H=role_L[num_masters:].astype(np.int8),
        ),
    )


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables).combine_chunks()


def _merged_columns(
    parts: Sequence[PartTables],
    merger: EdgeMerger,
    local: Sequence[NDArray[np.int32]],
    num_replicas: int,
    threads: int,
) -> list[Mapping[str, NDArray[Any]]]:
    """Return the columns of each relation; `merger` merges the edges of all relations."""
    found: list[Mapping[str, NDArray[Any]]] = []
    num_relations = len(parts[0].edge_columns)
    for position in range(num_relations):
        tables = [table for part in parts if (table := part.edge_columns[position]) is not None]
        if not tables:
            found.append({})
        elif num_relations == 1:
            found.append(MergedColumns(lambda: merger, tables))
        else:
            of_one = edges_of_relation(parts, position, local, num_replicas, threads)
            found.append(MergedColumns(of_one, tables))
    return found


def _merged_plan(
    parts: Sequence[PartTables], base: NDArray[np.int64], per_worker: int, rank: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int8]]:
    """Return (peer rank, master, role), sorted, one row per mirror on another worker."""
    offsets = [int(base[p.part] - base[rank * per_worker]) for p in parts]
    peer = np.concatenate([as_numpy(p.plan["peer"]) // per_worker for p in parts])
    master = np.concatenate(
        [
            as_numpy(p.plan["master"]).astype(np.int64) + offset
            for p, offset in zip(parts, offsets, strict=True)
        ]
    )
    role = np.concatenate([as_numpy(p.plan["role"]) for p in parts])
    remote = peer != rank
    peer, master, role = peer[remote], master[remote], role[remote]
    order = np.lexsort((master, peer))
    peer, master, role = peer[order], master[order], role[order]
    new = np.ones(len(peer), np.bool_)
    new[1:] = (peer[1:] != peer[:-1]) | (master[1:] != master[:-1])
    starts = np.flatnonzero(new)
    merged = np.bitwise_or.reduceat(role, starts) if len(starts) else role
    return peer[starts].astype(np.int32), master[starts], merged.astype(np.int8)
