"""What the columns of a graph hold, as the manifest says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from graphtheta.partition.store.manifest import ColumnSpec, LabelKind, LabelSpec

__all__ = ["Schema", "describe"]

_LABEL, _SPLIT = "label:", "split:"


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of one table.

    Attributes:
        columns: Type of each column.
        labels: What each label column holds, by name.
        splits: Names of the splits.
        num_types: Largest value of the column `type` plus one; None without that column.
    """

    columns: dict[str, ColumnSpec]
    labels: dict[str, LabelSpec]
    splits: list[str]
    num_types: int | None


def describe(columns: pa.Schema, keys: Sequence[str], largest: Mapping[str, int]) -> Schema:
    """Return what the columns of a table hold.

    Args:
        columns: Names and types.
        keys: Columns that are none of the user's.
        largest: Largest value of integer columns of all rows; classes are counted from 0 to it.
    """
    types = {
        name: kind
        for name, kind in zip(columns.names, columns.types, strict=True)
        if name not in keys
    }
    return Schema(
        columns={name: _column(kind) for name, kind in types.items()},
        labels={
            name.removeprefix(_LABEL): _label(kind, largest.get(name, -1) + 1)
            for name, kind in types.items()
            if name.startswith(_LABEL)
        },
        splits=[name.removeprefix(_SPLIT) for name in types if name.startswith(_SPLIT)],
        num_types=largest.get("type", -1) + 1 if "type" in types else None,
    )


def _column(kind: pa.DataType) -> ColumnSpec:
    if pa.types.is_fixed_size_list(kind):
        return ColumnSpec(dtype=_dtype(kind.value_type), width=kind.list_size)
    return ColumnSpec(dtype=_dtype(kind))


def _dtype(kind: pa.DataType) -> str:
    # Arrow calls float32 "float" and float64 "double".
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def _label(kind: pa.DataType, num_classes: int) -> LabelSpec:
    if pa.types.is_fixed_size_list(kind):
        task: LabelKind = "multilabel" if pa.types.is_boolean(kind.value_type) else "regression"
        return LabelSpec(task=task, num_classes=kind.list_size)
    if pa.types.is_boolean(kind):
        return LabelSpec(task="binary", num_classes=2)
    if pa.types.is_integer(kind):
        return LabelSpec(task="multiclass", num_classes=num_classes)
    return LabelSpec(task="regression", num_classes=1)
