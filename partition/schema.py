"""What the columns of a graph hold, as the manifest says it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.manifest import ColumnSpec, LabelSpec, Task
from graphtheta.partition.read import GraphBlock

__all__ = ["Schema", "describe"]

_LABEL, _SPLIT = "label:", "split:"


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of one table.

    Attributes:
        columns: Type of each column.
        labels: What each label column holds, by name.
        splits: Names of the splits.
    """

    columns: dict[str, ColumnSpec]
    labels: dict[str, LabelSpec]
    splits: list[str]


def describe(graph: GraphBlock, comm: Communicator) -> tuple[Schema, Schema, int | None]:
    """Return the schema of the nodes, that of the edges, and the number of edge types; collective.

    Classes are counted over all ranks: the largest label plus one.

    Communication:
        One all-reduce of 8 bytes for each column of classes or types.
    """
    tables = (graph.node_columns, graph.edge_columns)
    counted = [
        (table, name)
        for table in tables
        for name in table.column_names
        if pa.types.is_integer(table[name].type)
        and (name.startswith(_LABEL) or (table is graph.edge_columns and name == "type"))
    ]
    largest = [pc.max(table[name]).as_py() for table, name in counted]
    counts = np.array([0 if value is None else value + 1 for value in largest], np.int64)
    comm.all_reduce(counts, "max", stage="count classes")
    nodes, edges = (
        {name: int(c) for (t, name), c in zip(counted, counts, strict=True) if t is table}
        for table in tables
    )
    return _schema(tables[0], nodes), _schema(tables[1], edges), edges.get("type")


def _schema(table: pa.Table, num_classes: dict[str, int]) -> Schema:
    types = dict(zip(table.column_names, table.schema.types, strict=True))
    return Schema(
        columns={name: _column(kind) for name, kind in types.items()},
        labels={
            name.removeprefix(_LABEL): _label(kind, num_classes.get(name, 0))
            for name, kind in types.items()
            if name.startswith(_LABEL)
        },
        splits=[name.removeprefix(_SPLIT) for name in types if name.startswith(_SPLIT)],
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
        task: Task = "multilabel" if pa.types.is_boolean(kind.value_type) else "regression"
        return LabelSpec(task=task, num_classes=kind.list_size)
    if pa.types.is_boolean(kind):
        return LabelSpec(task="binary", num_classes=2)
    if pa.types.is_integer(kind):
        return LabelSpec(task="multiclass", num_classes=num_classes)
    return LabelSpec(task="regression", num_classes=1)
