"""Checks of a part that is read: columns, numbers of rows, and all values that index memory.

A damaged or forged file must not lead to reads and writes outside of arrays. The checks read each
such column once, at the speed of memory; they do not find a value that was changed to another valid
one, which only the hashes of the files show (`Store.verify`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.data.sparse import SparseMatrix
from graphtheta.partition.store.files import damaged
from graphtheta.partition.store.manifest import Book, ColumnSpec, LabelSpec, Manifest
from graphtheta.partition.store.part import (
    IN_EDGES,
    INDPTR,
    MASTERS,
    PLAN,
    REPLICAS,
    ROLE_IN,
    ROLE_OUT,
    PartTables,
)
from graphtheta.partition.store.schema import column_spec
from graphtheta.partition.store.tables import column_numpy

__all__ = ["check_layout", "check_values"]

_CHUNK = 1 << 16  # values that stay in the cache between two passes

_INT32_LIMIT = 2**31


def check_layout(part: PartTables, folder: Path, manifest: Manifest, book: Book) -> None:
    """Check the columns and the numbers of rows of a part's tables.

    Raises:
        StoreError: If they do not fit the manifest and the book; the message names the file.
    """
    masters, mirrors, edges = (
        int(counts[part.part]) for counts in (book.masters, book.mirrors, book.edges)
    )
    replicas = masters + mirrors
    rows = {
        "masters": masters,
        "replicas": replicas,
        "in_indptr": replicas + 1,
        "out_indptr": replicas + 1,
        "in_edges": edges,
        "out_edges": edges,
    }
    position = pa.int32() if edges < _INT32_LIMIT else pa.int64()
    schemas: dict[str, tuple[pa.Schema, Mapping[str, ColumnSpec]]] = {
        "masters": (MASTERS, {}),
        "replicas": (REPLICAS, {}),
        "in_indptr": (INDPTR, {}),
        "out_indptr": (INDPTR, {}),
        "in_edges": (IN_EDGES, {}),
        "out_edges": (pa.schema([("dst", pa.int32()), ("csc_position", position)]), {}),
        "plan": (PLAN, {}),
    }
    for i, of_type in enumerate(manifest.node_types):
        ids = pa.schema([("original_id", pa.type_for_alias(of_type.id_type))])
        schemas[f"masters-{i}"] = ids, of_type.columns
    for i, relation in enumerate(manifest.relations):
        schemas[f"in_edges-{i}"] = pa.schema([]), relation.columns
    for name, table in part.tables().items():
        path = folder / f"{name}.arrow"
        if table.num_rows != rows.get(name, table.num_rows):
            raise damaged(path, f"{rows[name]:,} rows", f"{table.num_rows:,}")
        keys, columns = schemas[name]
        _check_columns(table, keys, columns, path)
    if not 0 <= part.num_interior <= masters:
        raise damaged(
            folder / "part.json", f"interior masters in [0, {masters}]", f"{part.num_interior}"
        )


def _check_columns(
    table: pa.Table, keys: pa.Schema, columns: Mapping[str, ColumnSpec], path: Path
) -> None:
    found = {name: column_spec(table.schema.field(name).type) for name in table.column_names}
    first = table.schema.names[: len(keys)]
    described = {name: spec for name, spec in found.items() if name not in keys.names}
    if (
        first != keys.names
        or table.select(first).schema.types != keys.types
        or described != columns
        or len(found) < table.num_columns
    ):
        expected = ", ".join([*keys.names, *columns])
        raise damaged(path, f"columns {expected} of the manifest's types", f"{table.schema.names}")
    for name in keys.names:
        if table[name].null_count:
            raise damaged(path, f"no missing value in column {name}", "some")


def check_values(part: PartTables, folder: Path, manifest: Manifest, book: Book) -> None:
    """Check that the values of a part's tables that index memory are in range.

    Raises:
        StoreError: If one is not; the message names the file and the column.
    """
    masters, replicas, edges = part.num_masters, part.num_replicas, part.num_edges
    nodes = manifest.num_nodes
    _check_indptr(part.in_indptr, edges, folder / "in_indptr.arrow")
    _check_indptr(part.out_indptr, edges, folder / "out_indptr.arrow")
    for table, name, limit in (
        (part.replicas, "node_key", nodes),
        (part.replicas, "owner", book.num_parts),
        (part.in_edges, "src", replicas),
        (part.in_edges, "in_position", manifest.num_edges),
        (part.out_edges, "dst", replicas),
        (part.out_edges, "csc_position", edges),
        (part.plan, "peer", book.num_parts),
        (part.plan, "master", masters),
        (part.plan, "role", int(ROLE_OUT + ROLE_IN) + 1),
    ):
        file = next(n for n, other in part.tables().items() if other is table)
        _check_below(column_numpy(table, name), limit, folder / f"{file}.arrow", name)
    _check_replicas(part, book, folder / "replicas.arrow")
    _check_plan(part, folder / "plan.arrow")
    _check_masters(part, manifest, folder / "masters.arrow")
    _check_ranges(part, manifest, folder)
    for i, of_type in enumerate(manifest.node_types):
        path = folder / f"masters-{i}.arrow"
        _check_classes(part.node_columns[i], of_type.labels, of_type.splits, path)
        _check_sparse(part.node_columns[i], of_type.columns, path)
    for i, (relation, columns) in enumerate(
        zip(manifest.relations, part.edge_columns, strict=True)
    ):
        if columns is None:
            continue
        path = folder / f"in_edges-{i}.arrow"
        _check_classes(columns, relation.labels, relation.splits, path)
        _check_sparse(columns, relation.columns, path)
        if relation.num_types is not None:
            _check_below(column_numpy(columns, "type"), relation.num_types, path, "type")


def _check_ranges(part: PartTables, manifest: Manifest, folder: Path) -> None:
    """Check the numbers of rows of the columns of each node type and relation."""
    keys = column_numpy(part.masters, "node_key")
    rows = _counts(keys, part.first_node_keys)
    for i, (found, expected) in enumerate(zip(part.node_columns, rows, strict=True)):
        if found.num_rows != expected:
            path = folder / f"masters-{i}.arrow"
            raise damaged(path, f"{expected:,} rows", f"{found.num_rows:,}")
    keys = column_numpy(part.in_edges, "edge_key")
    limit = sum(relation.count for relation in manifest.relations)
    limit *= 2 if manifest.undirected else 1
    _check_below(keys, limit, folder / "in_edges.arrow", "edge_key")
    rows = _counts(keys, part.first_edge_keys)
    for i, (columns, expected) in enumerate(zip(part.edge_columns, rows, strict=True)):
        if columns is not None and columns.num_rows != expected:
            path = folder / f"in_edges-{i}.arrow"
            raise damaged(path, f"{expected:,} rows", f"{columns.num_rows:,}")


def _counts(keys: NDArray[np.int64], first_keys: NDArray[np.int64]) -> list[int]:
    """Return the number of keys in each range."""
    from_here_on = np.zeros(len(first_keys) + 1, np.int64)
    from_here_on[0] = len(keys)
    for i, first_key in enumerate(first_keys[1:].tolist(), start=1):
        from_here_on[i] = np.count_nonzero(keys >= first_key)
    counts: list[int] = (from_here_on[:-1] - from_here_on[1:]).tolist()
    return counts


def _chunks(values: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    for first in range(0, len(values), _CHUNK):
        yield values[first : first + _CHUNK + 1]  # with the first value of the next chunk


def _check_below(values: NDArray[np.integer], limit: int, path: Path, column: str) -> None:
    """Check that values are in [0, limit)."""
    # As unsigned, negative values are larger than any limit: one comparison for both bounds.
    unsigned = values.view(np.dtype(f"u{values.dtype.itemsize}"))
    if len(values) and int(unsigned.max()) >= limit:
        wrong = int(np.flatnonzero(unsigned >= limit)[0])
        raise damaged(path, f"{column} in [0, {limit:,})", f"{values[wrong]} in row {wrong:,}")


def _check_indptr(table: pa.Table, edges: int, path: Path) -> None:
    indptr = column_numpy(table, "indptr")
    descends = any((chunk[1:] < chunk[:-1]).any() for chunk in _chunks(indptr))
    if indptr[0] != 0 or indptr[-1] != edges or descends:
        raise damaged(path, f"row pointers that ascend from 0 to {edges:,}", "others")


def _check_replicas(part: PartTables, book: Book, path: Path) -> None:
    owner, local = (column_numpy(part.replicas, name) for name in ("owner", "owner_local"))
    masters = part.num_masters
    own = np.arange(masters, dtype=np.int32)
    if (owner[:masters] != part.part).any() or (local[:masters] != own).any():
        raise damaged(path, f"the {masters:,} masters of the part first", "others")
    owner_H, local_H = owner[masters:], local[masters:]
    code = owner_H.astype(np.int64) << 32 | local_H
    if (
        (owner_H == part.part).any()
        or (local_H < 0).any()
        or (local_H >= book.masters[owner_H]).any()
        or (code[1:] <= code[:-1]).any()
    ):
        raise damaged(path, "mirrors sorted by owner and row there", "others")
    keys = column_numpy(part.replicas, "node_key")[:masters]
    if (keys != column_numpy(part.masters, "node_key")).any():
        raise damaged(path, "the node keys of masters.arrow", "others")


def _check_plan(part: PartTables, path: Path) -> None:
    peer, master, role = (column_numpy(part.plan, n) for n in ("peer", "master", "role"))
    code = peer.astype(np.int64) << 32 | master
    if (peer == part.part).any() or (role == 0).any() or (code[1:] <= code[:-1]).any():
        raise damaged(path, "mirrors in other parts, sorted by part and master", "others")


def _check_masters(part: PartTables, manifest: Manifest, path: Path) -> None:
    is_whole = manifest.cut == "edge" or manifest.num_parts == 1
    masters = part.num_masters
    if is_whole and column_numpy(part.in_indptr, "indptr")[masters] != part.num_edges:
        raise damaged(path.with_name("in_indptr.arrow"), "in-edges of masters only", "others")
    for side, table in (("in", part.in_indptr), ("out", part.out_indptr)):
        degree = column_numpy(part.masters, f"{side}_degree")
        here = np.diff(column_numpy(table, "indptr")[: masters + 1])
        exact = is_whole and (side == "in" or manifest.num_parts == 1)
        if (degree < here).any() or (degree > (here if exact else manifest.num_edges)).any():
            raise damaged(path, f"the {side}-degrees of the edges", "others")


def _check_sparse(table: pa.Table, columns: Mapping[str, ColumnSpec], path: Path) -> None:
    """Check the indices of sparse columns; Arrow has checked the row pointers."""
    for name in (name for name, spec in columns.items() if spec.sparse):
        if table[name].null_count:
            raise damaged(path, f"no missing value in column {name}", "some")
        matrix = SparseMatrix.of(table[name])
        outside, unsorted = matrix.faults()
        if outside.any() or unsorted.any():
            expected = f"ascending indices below {matrix.width:,} in column {name}"
            row = int(np.flatnonzero(outside | unsorted)[0])
            raise damaged(path, expected, f"others in row {row:,}")


def _check_classes(
    table: pa.Table, labels: Mapping[str, LabelSpec], splits: list[str], path: Path
) -> None:
    for name, spec in labels.items():
        column = f"label:{name}"
        if spec.task == "multiclass":
            _check_below(as_numpy(table[column].drop_null()), spec.num_classes, path, column)
    for name in splits:
        _check_below(column_numpy(table, f"split:{name}"), 4, path, f"split:{name}")
