"""Mapping of a user's columns to the columns of node and edge tables."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graphtheta.data.schema import (
    as_numpy,
    in_range,
    matrix_column,
    need_column,
    no_nulls,
    no_nulls_inside,
    one_split,
    refuse,
    some,
    whole,
)
from graphtheta.errors import ConfigError

__all__ = [
    "SPLITS",
    "Column",
    "ColumnOptions",
    "EdgeOptions",
    "Names",
    "NodeOptions",
    "missing_rows",
    "natural_key",
    "options_by_table",
    "plan_edges",
    "plan_nodes",
    "shape",
]

ColumnKind = Literal["id", "matrix", "label", "split", "type", "weight", "other"]
Names = str | Sequence[str] | Mapping[str, str | Sequence[str]]
SPLITS = {"": 0, "none": 0, "train": 1, "val": 2, "valid": 2, "validation": 2, "test": 3}


class NodeOptions(TypedDict, total=False):
    """Names of the columns of a node table, as described in `ColumnOptions`."""

    id: str | None
    features: str | Sequence[str] | None
    labels: Names | None
    splits: Names | None


class EdgeOptions(TypedDict, total=False):
    """Names of the columns of an edge table, as described in `ColumnOptions`."""

    src: str
    dst: str
    edge_features: str | Sequence[str] | None
    edge_type: str | None
    edge_weight: str | None


class ColumnOptions(NodeOptions, EdgeOptions, total=False):
    """Names of the columns of a user's node and edge tables; all are optional.

    Attributes:
        id: Column of node ids, integers or strings; `id` by default. If None, the ids of a table in
            memory are its row numbers.
        features: List column, or scalar columns as names or a glob such as `"f_*"`, combined in
            natural order (f_2 before f_10). If None, the column `features`, if there is one.
        labels: Label columns, or a mapping of label names to columns. If None, the columns named
            `label:<name>`. A null is a missing label.
        splits: Split columns, in the same form. Their values are `train`, `val` (or `valid`,
            `validation`) and `test`, or 0 to 3, or booleans (True for train). A mapping may give
            three boolean columns for a name: train, validation, test. If None, the columns named
            `split:<name>`.
        src: Column of source ids; `src` by default.
        dst: Column of destination ids; `dst` by default.
        edge_features: Features of edges, in the same form as `features`; become `attr`. If None,
            the column `attr`, if there is one.
        edge_type: Column of edge types, integers from 0; becomes `type`. If None, the column
            `type`, if there is one.
        edge_weight: Column of edge weights; becomes `weight`. If None, the column `weight`, if
            there is one.
    """


def options_by_table(columns: ColumnOptions) -> tuple[NodeOptions, EdgeOptions]:
    """Return the options of `plan_nodes` and those of `plan_edges`."""
    nodes = {name: value for name, value in columns.items() if name in NodeOptions.__annotations__}
    edges = {name: value for name, value in columns.items() if name not in nodes}
    return cast(NodeOptions, nodes), cast(EdgeOptions, edges)


@dataclass(frozen=True, slots=True)
class Column:
    """Origin of one column of a node or edge table.

    Attributes:
        kind: Kind of the column, which determines its type and checks.
        inputs: Names of the input columns that it is made from.
    """

    kind: ColumnKind
    inputs: tuple[str, ...]


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which f_2 comes before f_10."""
    return [
        (int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)
    ]


def plan_nodes(
    available: Sequence[str],
    where: str,
    *,
    id: str | None = "id",
    features: str | Sequence[str] | None = None,
    labels: Names | None = None,
    splits: Names | None = None,
) -> dict[str, Column]:
    """Return the origin of each column of a node table.

    Args:
        available: Column names of the input table.
        where: Name of the input in messages.
        id: Column of original ids. If None, the table has none.
        features: As in `ColumnOptions`.
        labels: As in `ColumnOptions`.
        splits: As in `ColumnOptions`.

    Raises:
        ConfigError: If a named column does not exist; the message lists the existing ones.
    """
    plan = {} if id is None else {"id": Column("id", (need_column(id, available, where),))}
    plan |= _matrix("features", features, available, where)
    plan |= _named("label", labels, available, where)
    plan |= _named("split", splits, available, where)
    return plan


def plan_edges(
    available: Sequence[str],
    where: str,
    *,
    src: str = "src",
    dst: str = "dst",
    edge_features: str | Sequence[str] | None = None,
    edge_type: str | None = None,
    edge_weight: str | None = None,
) -> dict[str, Column]:
    """Return the origin of each column of an edge table.

    Args:
        available: Column names of the input table.
        where: Name of the input in messages.
        src: Column of source ids.
        dst: Column of destination ids.
        edge_features: As in `ColumnOptions`.
        edge_type: As in `ColumnOptions`.
        edge_weight: As in `ColumnOptions`.

    Raises:
        ConfigError: If a named column does not exist; the message lists the existing ones.
    """
    plan = {
        "src": Column("id", (need_column(src, available, where),)),
        "dst": Column("id", (need_column(dst, available, where),)),
    }
    plan |= _matrix("attr", edge_features, available, where)
    given_by_kind: dict[ColumnKind, str | None] = {"type": edge_type, "weight": edge_weight}
    for kind, given in given_by_kind.items():
        if given is not None or kind in available:
            plan[kind] = Column(kind, (need_column(given or kind, available, where),))
    return plan | _named("label", None, available, where) | _named("split", None, available, where)


def _matrix(
    target: str, given: str | Sequence[str] | None, available: Sequence[str], where: str
) -> dict[str, Column]:
    if given is None:
        return {target: Column("matrix", (target,))} if target in available else {}
    if isinstance(given, str) and given not in available and set(given) & set("*?["):
        found = sorted(fnmatch.filter(available, given), key=natural_key)
        if not found:
            need_column(given, available, where)
        return {target: Column("matrix", tuple(found))}
    names = [given] if isinstance(given, str) else list(given)
    if not names:
        raise ConfigError(f"{where}: expected columns for {target}, got an empty list. Name some.")
    return {target: Column("matrix", tuple(need_column(n, available, where) for n in names))}


def _named(
    kind: Literal["label", "split"], given: Names | None, available: Sequence[str], where: str
) -> dict[str, Column]:
    prefix = f"{kind}:"
    if given is None:
        return {name: Column(kind, (name,)) for name in available if name.startswith(prefix)}
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Mapping):
        given = {name.removeprefix(prefix): name for name in given}
    plan = {}
    for name, columns in given.items():
        inputs = (columns,) if isinstance(columns, str) else tuple(columns)
        if len(inputs) != 1 and (kind != "split" or len(inputs) != 3):
            raise ConfigError(
                f"{where}: expected one column for {prefix}{name}"
                f"{', or three (train, validation, test)' if kind == 'split' else ''}, "
                f"got {len(inputs)}. Correct the number of columns."
            )
        plan[prefix + name] = Column(kind, tuple(need_column(c, available, where) for c in inputs))
    return plan


def shape(table: pa.Table, plan: Mapping[str, Column], where: str, first_row: int = 0) -> pa.Table:
    """Convert an input table to the columns of a plan, each of one Arrow chunk.

    Args:
        table: Input table, or some rows of it.
        plan: Result of `plan_nodes` or `plan_edges`.
        where: Name of the input in messages.
        first_row: Number of the first row, for messages.

    Raises:
        GraphFormatError: If the type of a column does not fit its kind, or lists have different
            lengths.
    """
    columns = {}
    for name, column in plan.items():
        inputs = [whole(table[source]) for source in column.inputs]
        label = name if column.inputs == (name,) else f"{name} (from {some(column.inputs, 1)})"
        columns[name] = _SHAPE[column.kind](inputs, f"{where}: {label}", first_row)
    return pa.table(columns)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in lists)


def _ids(inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    (array,) = inputs
    if not (pa.types.is_integer(array.type) or _is_text(array.type)):
        raise refuse(where, "integers or strings", array.type, "Convert the ids.")
    target = pa.string() if _is_text(array.type) else pa.int64()
    no_nulls(array, where, first_row)
    return _cast(array, target, where, "ids")


def _cast(array: pa.Array, target: pa.DataType, where: str, what: str) -> pa.Array:
    try:
        return array.cast(target)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise refuse(where, f"{what} that fit {target}", reason, "Correct the values.") from None


def _features(inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    if len(inputs) == 1 and _is_list(inputs[0].type):
        return _list_of(_float_of(inputs[0].type.value_type, where), inputs[0], where, first_row)
    kinds = [_float_of(array.type, where) for array in inputs]
    wide = pa.float64() if pa.float64() in kinds else pa.float32()
    values = np.empty((len(inputs[0]), len(inputs)), wide.to_pandas_dtype())
    for column, array in enumerate(inputs):
        no_nulls(array, where, first_row)
        values[:, column] = array.cast(wide).to_numpy(zero_copy_only=False)
    return matrix_column(values)


def _float_of(kind: pa.DataType, where: str) -> pa.DataType:
    if pa.types.is_float64(kind):
        return pa.float64()
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pa.float32()
    raise refuse(where, "numbers or lists of numbers", kind, "Encode the column as numbers.")


def _list_of(kind: pa.DataType, array: pa.Array, where: str, first_row: int) -> pa.Array:
    lengths = pc.list_value_length(array)
    widths = pc.unique(lengths.drop_null())
    if len(widths) > 1:
        odd = np.flatnonzero(pc.fill_null(pc.not_equal(lengths, widths[0]), False))
        raise refuse(
            where,
            f"lists of length {widths[0]} as in the first row",
            f"length {lengths[int(odd[0])]} in row {first_row + int(odd[0])}",
            "Give every row the same length.",
        )
    width = widths[0].as_py() if len(widths) else getattr(array.type, "list_size", 0)
    return _cast(array, pa.list_(kind, width), where, "values")


def _label(inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    (array,) = inputs
    kind = array.type
    inner = kind.value_type if _is_list(kind) else kind
    if pa.types.is_floating(inner):
        target = pa.float32()
    elif pa.types.is_boolean(inner) or (_is_list(kind) and pa.types.is_integer(inner)):
        target = pa.bool_()
    elif pa.types.is_integer(inner) or pa.types.is_null(inner):
        target = pa.int64()
    else:
        raise refuse(where, "numbers or booleans", kind, "Number the classes from 0.")
    if not _is_list(kind):
        return _zero_under_nulls(_cast(array, target, where, "labels"))
    if pa.types.is_integer(inner):
        _zero_or_one(array, where, first_row)
    listed = _list_of(target, array, where, first_row)
    no_nulls_inside(listed, where, first_row)
    rows = _zero_under_nulls(listed)
    if rows.type.list_size != 1:
        return rows
    return pa.array(as_numpy(rows)[:, 0], target, mask=np.asarray(rows.is_null()))


def _zero_or_one(array: pa.Array, where: str, first_row: int) -> None:
    values = array.flatten()
    odd = np.flatnonzero(pc.or_(pc.less(values, 0), pc.greater(values, 1)).fill_null(False))
    if len(odd):
        row = first_row + pc.list_parent_indices(array)[int(odd[0])].as_py()
        got = f"{values[int(odd[0])]} in row {row}"
        raise refuse(where, "0 and 1 (multi-label)", got, "Correct the labels.")


def missing_rows(count: int, kind: pa.DataType) -> pa.Array:
    """Return `count` missing labels of a fixed-size list type."""
    return _zero_under_nulls(pa.nulls(count, kind))


def _zero_under_nulls(array: pa.Array) -> pa.Array:
    # Values at nulls are arbitrary otherwise, so that equal tables would differ in their bytes.
    if not array.null_count or getattr(array.type, "list_size", 1) == 0:
        return array
    missing = array.is_null().to_numpy(zero_copy_only=False)
    values = np.array(as_numpy(array))
    values[missing] = 0
    if values.ndim == 1:
        return pa.array(values, array.type, mask=missing)
    flat = pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=pa.array(missing))


def _split(inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    if len(inputs) == 3:
        train, val, test = (_split([array], where, first_row).to_numpy() > 0 for array in inputs)
        return pa.array(one_split(train, val, test, where))
    (array,) = inputs
    kind = array.type
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.int8()).fill_null(0)
    if pa.types.is_boolean(kind):
        return array.cast(pa.int8()).fill_null(0)
    if pa.types.is_integer(kind):
        in_range(array, 0, 3, where, first_row, "0 none, 1 train, 2 validation or 3 test")
        return array.cast(pa.int8()).fill_null(0)
    if not _is_text(kind):
        raise refuse(where, "words, integers or booleans", kind, "Convert the column.")
    words = pc.utf8_lower(array.cast(pa.string()).fill_null(""))
    position = pc.index_in(words, pa.array(list(SPLITS)))
    if position.null_count:
        odd = pc.unique(words.filter(position.is_null())).to_pylist()
        raise refuse(where, "train, val, test or none", some(odd, len(odd)), "Correct the words.")
    return pa.array(np.array(list(SPLITS.values()), np.int8)[position.to_numpy()])


def _type(inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    (array,) = inputs
    if not pa.types.is_integer(array.type):
        raise refuse(where, "integers from 0", array.type, "Number the edge types.")
    return _cast(array, pa.int64(), where, "edge types")


def _weight(inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    return inputs[0].cast(_float_of(inputs[0].type, where))


_SHAPE: dict[ColumnKind, Callable[[Sequence[pa.Array], str, int], pa.Array]] = {
    "id": _ids,
    "matrix": _features,
    "label": _label,
    "split": _split,
    "type": _type,
    "weight": _weight,
    "other": lambda inputs, where, first_row: inputs[0],
}
