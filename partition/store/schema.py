"""Types, labels and splits of the columns of a table, as stored in the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from graphtheta.data.schema import classes_of
from graphtheta.partition.store.manifest import ColumnSpec, LabelKind, LabelSpec

__all__ = ["Schema", "column_spec", "describe"]

_LABEL, _SPLIT = "label:", "split:"


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns of one table.

    Attributes:
        columns: Type of each column, by name.
        labels: Task of each label column, by name.
        splits: Names of the splits.
        num_types: Largest value of the column `type` plus one; None without that column.
        types: Names of the edge types if they were texts, otherwise None.
    """

    columns: dict[str, ColumnSpec]
    labels: dict[str, LabelSpec]
    splits: list[str]
    num_types: int | None
    types: tuple[str, ...] | None


def describe(columns: pa.Schema, keys: Sequence[str], largest: Mapping[str, int]) -> Schema:
    """Return the description of the columns of a table.

    Args:
        columns: Names and types of all columns.
        keys: Columns to leave out: ids and endpoints.
        largest: Largest value of each integer column, which determines the number of classes.
    """
    types = {field.name: field.type for field in columns if field.name not in keys}
    names = classes_of(columns.field("type")) if "type" in types else ()
    return Schema(
        columns={name: column_spec(dtype) for name, dtype in types.items()},
        labels={
            name.removeprefix(_LABEL): _label(
                dtype, largest.get(name, -1) + 1, classes_of(columns.field(name)) or None
            )
            for name, dtype in types.items()
            if name.startswith(_LABEL)
        },
        splits=[name.removeprefix(_SPLIT) for name in types if name.startswith(_SPLIT)],
        num_types=max(largest.get("type", -1) + 1, len(names)) if "type" in types else None,
        types=names or None,
    )


def column_spec(dtype: pa.DataType) -> ColumnSpec:
    """Return the description of a column's type."""
    if pa.types.is_fixed_size_list(dtype):
        return ColumnSpec(dtype=_dtype(dtype.value_type), width=dtype.list_size)
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
