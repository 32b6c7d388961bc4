"""Whole node and edge tables: validation, conversion of the ends to node keys, and a digest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from graphtheta.data.convert import convert
from graphtheta.data.encode.recipe import without_input
from graphtheta.data.mapping import (
    Column,
    plan_edges,
    plan_nodes,
)
from graphtheta.data.schema import (
    LabelKind,
    in_range,
    matrix_column,
    need_column,
    refuse,
    repeated_ids,
    validate_edges,
    validate_nodes,
    whole,
)
from graphtheta.data.source import TableInMemory
from graphtheta.data.sparse import MAX_WIDTH, SparseMatrix, pays, sparse_column
from graphtheta.data.survey import survey
from graphtheta.data.types import (
    EDGE,
    NODE,
    EdgeTable,
    NodeTable,
    Relation,
    edge_tables,
    node_tables,
)
from graphtheta.wording import counted, some

__all__ = [
    "as_array",
    "as_matrix",
    "as_table",
    "check_unique_ids",
    "converted",
    "digest_of",
    "moved",
    "rows_of",
    "surveyed",
    "validated_edges",
    "validated_nodes",
    "with_keys",
]


_FLOAT32_INTEGERS = 1 << 24  # float32 holds all integers up to this one


def as_table(given: Any, where: str) -> pa.Table:
    """Return a table in memory as an Arrow table.

    Args:
        given: Arrow table or record batch, a pandas, Polars or other data frame with an Arrow
            interface, or a mapping of names to columns. A column of a mapping may be
            a NumPy array or a tensor, also of two dimensions, or a sparse matrix of SciPy.
        where: Name of the table in messages.

    Raises:
        GraphFormatError: If it is none of these, or its columns cannot be converted.
    """
    if isinstance(given, pa.Table):
        return _with_unique_names(given, where)
    if isinstance(given, Mapping):
        columns = {str(name): _column(values, f"{where}: {name}") for name, values in given.items()}
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
    table = _with_unique_names(table, where)
    return table.select([n for n in table.column_names if not n.startswith("__index_level_")])


def _with_unique_names(table: pa.Table, where: str) -> pa.Table:
    for name, count in Counter(table.column_names).items():
        if count > 1:
            raise refuse(where, f"one column {name!r}", f"{count}", "Rename the others.")
    return table


def _column(values: Any, where: str) -> Any:
    if _is_sparse_matrix(values):
        return as_matrix(values, where)
    if not isinstance(values, np.ndarray) and not hasattr(values, "detach"):
        return values
    array = as_array(values, where)
    return matrix_column(array) if array.ndim == 2 else array


def _is_sparse_matrix(values: Any) -> bool:
    """Return whether values are a sparse matrix of SciPy, or a sparse tensor of two dimensions."""
    if hasattr(values, "tocoo") and hasattr(values, "nnz"):
        return len(values.shape) == 2
    is_tensor = hasattr(values, "detach") and hasattr(values, "layout")
    return is_tensor and "strided" not in str(values.layout) and values.dim() == 2


def as_matrix(values: Any, where: str) -> pa.Array:
    """Return a matrix as a column of features.

    A sparse matrix of SciPy, or a sparse tensor, becomes a sparse column if that pays, and a
    column of lists otherwise.

    Args:
        values: Matrix, tensor or array of numbers, (R, F), or (R,) for one column.
        where: Name of the matrix in messages.

    Raises:
        GraphFormatError: If the numbers are complex, or a dense matrix does not fit memory.
    """
    if not _is_sparse_matrix(values):
        array = as_array(values, where)
        return matrix_column(array.reshape(len(array), -1))
    shape = (int(values.shape[0]), int(values.shape[1]))
    if shape[1] > MAX_WIDTH:
        got, remedy = f"{shape[1]:,}", "Hash them to fewer."
        raise refuse(where, f"at most {MAX_WIDTH:,} columns", got, remedy)
    if hasattr(values, "tocoo"):
        entries = values.tocoo()
        rows, indices, data = entries.row, entries.col, as_array(entries.data, where)
    else:
        entries = values.detach().cpu().to_sparse_coo().coalesce()
        rows, indices = entries.indices().numpy()
        data = as_array(entries.values(), where)
    largest = max(abs(data.min(initial=0).item()), data.max(initial=0).item())
    is_wide = data.dtype == np.float64 or largest > _FLOAT32_INTEGERS
    data = data.astype(np.float64 if is_wide else np.float32, copy=False)
    column = sparse_column(rows, indices, None if (data == 1).all() else data, shape)
    matrix = SparseMatrix.of(column)
    is_small = pays(shape[0], len(matrix.indices), column.type)
    return column if is_small else matrix_column(matrix.dense())


def as_array(values: Any, where: str) -> NDArray[Any]:
    """Return a tensor or array of numbers as a NumPy array that Arrow can hold.

    Sparse tensors become dense (see `as_matrix`), floats of less than 32 bits float32, and bytes
    the order of this host.

    Raises:
        GraphFormatError: If the numbers are complex.
    """
    if hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu()
        if hasattr(values, "layout") and "strided" not in str(values.layout):
            values = values.to_dense()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        values = values.resolve_conj().numpy() if values.is_complex() else values.numpy()
    array = np.asarray(values)
    if array.dtype.kind == "c":
        remedy = "Convert them, for example to columns of real and imaginary parts."
        raise refuse(where, "real numbers", array.dtype, remedy)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def converted(
    nodes: Mapping[str, pa.Table], edges: Mapping[Relation, pa.Table], label_kind: LabelKind | None
) -> tuple[tuple[NodeTable, ...], tuple[EdgeTable, ...]]:
    """Return tables with columns of our types and node keys, from tables with rows as ends.

    Args:
        nodes: Node tables by type.
        edges: Edge tables by relation; `src` and `dst` are rows of the node tables.
        label_kind: Kind of all labels of nodes. If None, it follows from the values.

    Raises:
        ConfigError: If a relation has an unknown type.
        GraphFormatError: If a column has a wrong type.
    """
    of_nodes, of_edges = {}, {}
    for name, rows in nodes.items():
        where = "nodes" if name == NODE else f"nodes of {name}"
        plan = plan_nodes(rows.column_names, where, label_kinds=label_kind)
        of_nodes[name] = TableInMemory(where, convert(rows, surveyed(plan, rows, where), where))
    for relation, rows in edges.items():
        where = "edges" if relation == EDGE else f"edges of {relation.text}"
        plan = plan_edges(rows.column_names, where, src="src", dst="dst")
        of_edges[relation] = TableInMemory(where, convert(rows, surveyed(plan, rows, where), where))
    node_side = node_tables(of_nodes)
    return node_side, moved(node_side, edge_tables(of_edges, of_nodes), 1)


def moved(
    nodes: Sequence[NodeTable], edges: Sequence[EdgeTable], sign: Literal[-1, 1]
) -> tuple[EdgeTable, ...]:
    """Return edge tables with node keys in place of rows of the node tables, or the reverse.

    Args:
        nodes: Node tables.
        edges: Edge tables.
        sign: 1 if the ends are rows, -1 if they are node keys.
    """
    first_keys = {table.name: table.first_key for table in nodes}
    found = []
    for table in edges:
        rows = rows_of(table)
        for end, name in (("src", table.relation.source), ("dst", table.relation.destination)):
            if first_keys[name]:
                keys = pc.add(rows[end], sign * first_keys[name])
                rows = rows.set_column(rows.column_names.index(end), end, keys)
        found.append(replace(table, table=TableInMemory(table.where, rows)))
    return tuple(found)


def with_keys(
    nodes: Sequence[NodeTable], edges: Sequence[EdgeTable]
) -> tuple[tuple[NodeTable, ...], tuple[EdgeTable, ...]]:
    """Return node tables, and edge tables with node keys in place of ids, all in memory.

    Args:
        nodes: Node tables. If empty, the nodes are the sorted distinct ids of the edges.
        edges: Edge tables, whose `src` and `dst` are ids.

    Raises:
        GraphFormatError: If an end of an edge is not in the table of its node type.
    """
    in_memory = {table.name: rows_of(table) for table in nodes}
    of_edges = [rows_of(table) for table in edges]
    if not nodes:
        ids = pa.table({"id": _distinct_ends(of_edges[0], edges[0].where)})
        in_memory[NODE] = ids
        nodes = node_tables({NODE: TableInMemory("nodes", ids)})
    by_name = {table.name: table for table in nodes}
    keyed = []
    for table, rows in zip(edges, of_edges, strict=True):
        for end, name in (("src", table.relation.source), ("dst", table.relation.destination)):
            where = f"{table.where}: {end}"
            keys = _keys(rows[end], in_memory[name]["id"], where, by_name[name])
            rows = rows.set_column(rows.column_names.index(end), end, keys)
        keyed.append(replace(table, table=TableInMemory(table.where, rows)))
    return (
        tuple(replace(t, table=TableInMemory(t.where, in_memory[t.name])) for t in nodes),
        tuple(keyed),
    )


def rows_of(table: NodeTable | EdgeTable) -> pa.Table:
    """Return all rows of a table."""
    if isinstance(table.table, TableInMemory):
        return table.table.rows
    return pa.concat_tables(table.table.chunks(0, table.num_rows))


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


def validated_nodes(table: NodeTable) -> pa.Table:
    """Return the rows of a node table after validating all of them.

    Raises:
        ConfigError: If there is no column `id`.
        GraphFormatError: If a column has a wrong type or value, or an id occurs twice.
    """
    rows = rows_of(table)
    need_column("id", rows.column_names, table.where)
    validate_nodes(rows, table.where)
    check_unique_ids(rows["id"], table.where)
    return rows


def validated_edges(table: EdgeTable, types: Mapping[str, NodeTable]) -> pa.Table:
    """Return the rows of an edge table with node keys after validating all of them.

    Args:
        table: The table.
        types: Node tables by type.

    Raises:
        ConfigError: If there is no column `src` or `dst`.
        GraphFormatError: If a column has a wrong type or value, or an end of an edge is not a node
            of its type.
    """
    rows = rows_of(table)
    for end in ("src", "dst"):
        need_column(end, rows.column_names, table.where)
    validate_edges(rows, table.where)
    for end, name in (("src", table.relation.source), ("dst", table.relation.destination)):
        where, nodes = f"{table.where}: {end}", types[name]
        if not pa.types.is_int64(rows.schema.field(end).type):
            raise refuse(
                where,
                "int64 node keys",
                rows.schema.field(end).type,
                "Use Graph.from_arrow for edges that name nodes by id.",
            )
        first, stop = nodes.first_key, nodes.first_key + nodes.num_rows
        expected = f"node keys in [{first:,}, {stop:,})"
        in_range(whole(rows[end]), first, stop - 1, where, 0, expected)
    return rows


def digest_of(tables: Iterable[pa.Table]) -> str:
    """Return the xxh3 hash of all columns of some tables."""
    sink = _Hash()
    for table in tables:
        table = table.cast(without_input(table.schema))
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


def surveyed(plan: dict[str, Column], table: pa.Table, where: str) -> dict[str, Column]:
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


def _keys(ends: pa.ChunkedArray, ids: pa.ChunkedArray, where: str, nodes: NodeTable) -> pa.Array:
    if ends.type != ids.type:
        raise refuse(
            where, f"ids of type {ids.type} as in the nodes' id", ends.type, "Convert one of them."
        )
    keys = whole(pc.index_in(ends, whole(ids)))
    if keys.null_count:
        unknown = pc.unique(ends.filter(keys.is_null()))
        raise refuse(
            where,
            "ids of the node table" if nodes.name == NODE else f"ids of {nodes.where}",
            f"{some(unknown.slice(0, 3).to_pylist(), len(unknown))} (in "
            f"{counted(keys.null_count, 'row')})",
            "Add these nodes, drop these edges, or name the columns of ids (src, dst, id).",
        )
    keys = keys.cast(pa.int64())
    return pc.add(keys, nodes.first_key) if nodes.first_key else keys
