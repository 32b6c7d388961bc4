"""Types, labels and splits of the columns of a table, as stored in the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from graphtheta.data.encode.recipe import encoding_of, input_of
from graphtheta.data.schema import classes_of
from graphtheta.data.sparse import is_sparse
from graphtheta.data.types import EdgeTable, NodeTable
from graphtheta.partition.store.manifest import (
    ColumnSpec,
    LabelKind,
    LabelSpec,
    NodeTypeSpec,
    RelationSpec,
)

__all__ = ["column_spec", "describe_edges", "describe_nodes"]

_LABEL, _SPLIT = "label:", "split:"


def describe_nodes(table: NodeTable, largest: Mapping[str, int]) -> NodeTypeSpec:
    """Return the description of a node type.

    Args:
        table: Its table.
        largest: Largest value of each integer column, which determines the number of classes.
    """
    return NodeTypeSpec(
        name=table.name,
        id_type=str(table.schema.field("id").type),
        **_range(table, _columns(table.schema, ("id",)), largest),
    )


def describe_edges(table: EdgeTable, largest: Mapping[str, int]) -> RelationSpec:
    """Return the description of a relation; for the arguments see `describe_nodes`."""
    columns = _columns(table.schema, ("src", "dst"))
    names = classes_of(columns.field("type")) if "type" in columns.names else ()
    num_types = max(largest.get("type", -1) + 1, len(names))
    return RelationSpec(
        **table.relation._asdict(),
        num_types=num_types if "type" in columns.names else None,
        type_names=names or None,
        **_range(table, columns, largest),
    )


def _columns(schema: pa.Schema, keys: Sequence[str]) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in keys])


def _range(
    table: NodeTable | EdgeTable, columns: pa.Schema, largest: Mapping[str, int]
) -> dict[str, Any]:
    """Return the fields that node types and relations have in common."""
    return {
        "first_key": table.first_key,
        "count": table.num_rows,
        "columns": {field.name: column_spec(field.type) for field in columns},
        "labels": {
            field.name.removeprefix(_LABEL): _label(
                field.type, largest.get(field.name, -1) + 1, classes_of(field) or None
            )
            for field in columns
            if field.name.startswith(_LABEL)
        },
        "splits": [n.removeprefix(_SPLIT) for n in columns.names if n.startswith(_SPLIT)],
        "inputs": {field.name: name for field in table.schema if (name := input_of(field))},
        "encodings": tuple(encoded for field in columns for encoded in encoding_of(field)),
    }


def column_spec(dtype: pa.DataType) -> ColumnSpec:
    """Return the description of a column's type."""
    if pa.types.is_fixed_size_list(dtype):
        return ColumnSpec(dtype=_dtype(dtype.value_type), width=dtype.list_size)
    if is_sparse(dtype):
        spec = ColumnSpec(dtype=_dtype(dtype.dtype), width=dtype.width, sparse="values")
        return spec if dtype.value_type else spec.model_copy(update={"sparse": "ones"})
    return ColumnSpec(dtype=_dtype(dtype))


def _dtype(dtype: pa.DataType) -> str:
    # Arrow calls float32 "float" and float64 "double".
    return {"float": "float32", "double": "float64"}.get(str(dtype), str(dtype))


def _label(dtype: pa.DataType, num_classes: int, classes: tuple[str, ...] | None) -> LabelSpec:
    if pa.types.is_fixed_size_list(dtype):
        task: LabelKind = "regression" if pa.types.is_float32(dtype.value_type) else "multilabel"
        return LabelSpec(task=task, num_classes=dtype.list_size)
    if pa.types.is_boolean(dtype):
        return LabelSpec(task="binary", num_classes=2, classes=classes)
    if pa.types.is_integer(dtype):
        num_classes = max(num_classes, len(classes or ()))
        return LabelSpec(task="multiclass", num_classes=num_classes, classes=classes)
    return LabelSpec(task="regression", num_classes=1)
