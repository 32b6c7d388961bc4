"""Whole node and edge tables: conversion of the ends of edges to node keys, and a digest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from graphtheta.data.mapping import (
    Column,
    ColumnOptions,
    options_by_table,
    plan_edges,
    plan_nodes,
    shape,
)
from graphtheta.data.schema import refuse, some, whole

__all__ = ["check_unique_ids", "digest_of", "keyed_tables"]


def keyed_tables(
    nodes: pa.Table | None, edges: pa.Table, **columns: Unpack[ColumnOptions]
) -> tuple[pa.Table, pa.Table]:
    """Return the node and edge tables of `Graph.from_arrow`, which describes the arguments.

    Raises:
        ConfigError: If a named column does not exist.
        GraphFormatError: If a column has a wrong type, or an end of an edge is not in the node
            table.
    """
    node_options, edge_options = options_by_table(columns)
    edge_plan = plan_edges(edges.column_names, "edges", **edge_options)
    edge_table = shape(edges, _with_others(edge_plan, edges), "edges")
    if nodes is None:
        node_table = pa.table({"id": _distinct_ends(edge_table)})
    else:
        node_plan = plan_nodes(nodes.column_names, "nodes", **node_options)
        node_table = shape(nodes, _with_others(node_plan, nodes), "nodes")
        if "id" not in node_plan:
            rows = pa.array(np.arange(nodes.num_rows))
            node_table = pa.table({"id": rows, **_columns(node_table)})
    keys = {end: _keys(edge_table[end], node_table["id"], end) for end in ("src", "dst")}
    return node_table, pa.table({**_columns(edge_table), **keys})


def check_unique_ids(ids: pa.ChunkedArray) -> None:
    """Check that every id of a node table occurs once.

    Raises:
        GraphFormatError: If an id occurs more than once.
    """
    if len(pc.unique(ids)) == len(ids):
        return
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    raise refuse(
        "nodes: id",
        "unique ids",
        f"{some(repeated.slice(0, 3).to_pylist(), len(repeated))} more than once",
        "Remove the duplicate rows.",
    )


def digest_of(tables: Iterable[pa.Table]) -> str:
    """Return the xxh3 hash of all columns of some tables."""
    sink = _Hash()
    for table in tables:
        with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), table.schema) as writer:
            writer.write_table(table)
    return sink.hash.hexdigest()


class _Hash:
    """File object that hashes what is written to it."""

    closed = False

    def __init__(self) -> None:
        self.hash = xxhash.xxh3_128()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: no data is buffered."""

    def close(self) -> None:
        """Do nothing: the hash continues with the next table."""


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _with_others(plan: dict[str, Column], table: pa.Table) -> dict[str, Column]:
    used = {name for column in plan.values() for name in column.inputs}
    others = [n for n in table.column_names if n not in used and n not in plan]
    return plan | {name: Column("other", (name,)) for name in others}


def _distinct_ends(edges: pa.Table) -> pa.Array:
    src, dst = edges["src"], edges["dst"]
    if src.type != dst.type:
        raise refuse("edges: dst", f"ids of type {src.type} as in src", dst.type, "Convert one.")
    ids = pc.unique(pa.chunked_array(src.chunks + dst.chunks, src.type)).drop_null()
    return ids.take(pc.sort_indices(ids))


def _keys(ends: pa.ChunkedArray, ids: pa.ChunkedArray, name: str) -> pa.Array:
    where = f"edges: {name}"
    if ends.type != ids.type:
        raise refuse(
            where, f"ids of type {ids.type} as in the nodes' id", ends.type, "Convert one of them."
        )
    keys = whole(pc.index_in(ends, whole(ids)))
    if keys.null_count:
        unknown = pc.unique(ends.filter(keys.is_null()))
        raise refuse(
            where,
            "ids of the node table",
            f"{some(unknown.slice(0, 3).to_pylist(), len(unknown))} (in {keys.null_count:,} rows)",
            "Add these nodes or drop these edges.",
        )
    return keys.cast(pa.int64())
