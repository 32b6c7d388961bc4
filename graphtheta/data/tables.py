"""Whole node and edge tables: conversion of the ends of edges to node keys, and a digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from graphtheta.data.convert import convert
from graphtheta.data.mapping import (
    Column,
    ColumnOptions,
    options_by_table,
    plan_edges,
    plan_nodes,
)
from graphtheta.data.schema import LabelKind, matrix_column, refuse, repeated_ids, whole
from graphtheta.data.survey import check_kinds, survey, unify_ids
from graphtheta.wording import counted, some

__all__ = ["as_table", "check_unique_ids", "converted", "digest_of", "keyed_tables", "with_keys"]


def as_table(given: Any, where: str) -> pa.Table:
    """Return a table in memory as an Arrow table.

    Args:
        given: Arrow table or record batch, a pandas, Polars or other data frame with an Arrow
            interface, or a mapping of names to columns. A column of a mapping may be
            a NumPy array or a tensor, also of two dimensions.
        where: Name of the table in messages.

    Raises:
        GraphFormatError: If it is none of these, or its columns cannot be converted.
    """
    if isinstance(given, pa.Table):
        return given
    if isinstance(given, Mapping):
        columns = {str(name): _column(values) for name, values in given.items()}
    elif not (hasattr(given, "__arrow_c_stream__") or hasattr(given, "__arrow_c_array__")):
        raise refuse(
            where,
            "an Arrow table, a data frame or a dict of columns",
            type(given).__name__,
            "Convert it, or use gt.datasets.read for files.",
        )
    try:
        table = pa.table(columns if isinstance(given, Mapping) else given)
    except (pa.ArrowException, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise refuse(where, "columns that Arrow can hold", reason, "Convert them.") from None
    # pandas adds an index that is not just the numbers of rows.
    return table.select([n for n in table.column_names if not n.startswith("__index_level_")])


def _column(values: Any) -> Any:
    if hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu().numpy()
    is_matrix = isinstance(values, np.ndarray) and values.ndim == 2
    return matrix_column(values) if is_matrix else values


def keyed_tables(
    nodes: Any | None, edges: Any, **columns: Unpack[ColumnOptions]
) -> tuple[pa.Table, pa.Table]:
    """Return the node and edge tables of `Graph.from_arrow`, which describes the arguments.

    Raises:
        ConfigError: If a named column does not exist.
        GraphFormatError: If a column has a wrong type, or an end of an edge is not in the node
            table.
    """
    edges = as_table(edges, "edges")
    nodes = None if nodes is None else as_table(nodes, "nodes")
    node_options, edge_options = options_by_table(columns)
    edge_plan = plan_edges(edges.column_names, "edges", **edge_options)
    edge_plan = _surveyed(edge_plan, edges, "edges")
    node_plan: dict[str, Column] = {}
    if nodes is not None:
        node_plan = plan_nodes(nodes.column_names, "nodes", **node_options)
        node_plan = _surveyed(node_plan, nodes, "nodes")
    unify_ids(node_plan, edge_plan, columns.get("id_type"))
    check_kinds(node_plan, edge_plan, columns.get("label_kinds"))
    edges = convert(edges, edge_plan, "edges")
    if nodes is not None:
        nodes = convert(nodes, node_plan, "nodes")
        if "id" not in node_plan:
            nodes = nodes.add_column(0, "id", pa.array(np.arange(nodes.num_rows)))
    return with_keys(nodes, edges)


def converted(
    nodes: pa.Table, edges: pa.Table, label_kind: LabelKind | None
) -> tuple[pa.Table, pa.Table]:
    """Return the tables of a graph whose edges contain node keys, with columns of our types."""
    node_plan = plan_nodes(nodes.column_names, "nodes", label_kinds=label_kind)
    edge_plan = plan_edges(edges.column_names, "edges", src="src", dst="dst")
    return (
        convert(nodes, _surveyed(node_plan, nodes, "nodes"), "nodes"),
        convert(edges, _surveyed(edge_plan, edges, "edges"), "edges"),
    )


def with_keys(
    nodes: pa.Table | None, edges: pa.Table, where: str = "edges"
) -> tuple[pa.Table, pa.Table]:
    """Return a node table, and its edge table with node keys in place of ids.

    Args:
        nodes: Node table. If None, the nodes are the sorted distinct ids of the edges.
        edges: Edge table, whose `src` and `dst` are ids.
        where: Name of the edge table in messages.

    Raises:
        GraphFormatError: If an end of an edge is not in the node table.
    """
    if nodes is None:
        nodes = pa.table({"id": _distinct_ends(edges, where)})
    for end in ("src", "dst"):
        keys = _keys(edges[end], nodes["id"], f"{where}: {end}")
        edges = edges.set_column(edges.column_names.index(end), end, keys)
    return nodes, edges


def check_unique_ids(ids: pa.ChunkedArray, where: str) -> None:
    """Check that every id of a node table occurs once; `where` names the table in messages.

    Raises:
        GraphFormatError: If an id occurs more than once.
    """
    if len(pc.unique(ids)) == len(ids):
        return
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    raise repeated_ids(where, repeated)


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


def _surveyed(plan: dict[str, Column], table: pa.Table, where: str) -> dict[str, Column]:
    """Return the plan of a table with its other columns and all types."""
    used = {name for column in plan.values() for name in column.inputs}
    others = [name for name in table.column_names if name not in used and name not in plan]
    plan = plan | {name: Column("other", (name,)) for name in others}
    return survey(plan, table.schema, lambda types: [table.select(list(types))], where)


def _distinct_ends(edges: pa.Table, where: str) -> pa.Array:
    src, dst = edges["src"], edges["dst"]
    if src.type != dst.type:
        raise refuse(f"{where}: dst", f"ids of type {src.type} as in src", dst.type, "Convert one.")
    ids = pc.unique(pa.chunked_array(src.chunks + dst.chunks, src.type)).drop_null()
    return ids.take(pc.sort_indices(ids))


def _keys(ends: pa.ChunkedArray, ids: pa.ChunkedArray, where: str) -> pa.Array:
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
            f"{some(unknown.slice(0, 3).to_pylist(), len(unknown))} (in "
            f"{counted(keys.null_count, 'row')})",
            "Add these nodes, drop these edges, or name the columns of ids (src, dst, id).",
        )
    return keys.cast(pa.int64())
