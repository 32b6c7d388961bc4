"""Columns of node and edge tables: their types, validation, and conversion to NumPy.

A node table has `id` (int64 or string) and may have `features` (FixedSizeList of float32 or
float64, or `graphtheta.data.sparse.SparseType`), `label:<name>` and `split:<name>`. An edge table
has `src` and `dst` and may have `attr` (like features), `type` (int64), `weight` (floating),
`label:<name>` and `split:<name>`. Labels are int64 (classes), bool, float32 (regression) or
FixedSizeLists of bool (multi-label) or float32; a missing label is a null. A multi-label with
unknown entries has int8: 0, 1, and -1 for unknown. Splits are int8: 0 none, 1 train, 2 validation,
3 test. Other columns are kept without validation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.sparse import SparseMatrix, is_sparse
from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.wording import rows_text, some

__all__ = [
    "LabelKind",
    "as_numpy",
    "check_finite",
    "classes_of",
    "computable",
    "in_range",
    "is_list",
    "is_number",
    "is_text",
    "matrix_column",
    "named_column",
    "names_of",
    "need_attribute",
    "need_column",
    "need_name",
    "no_nulls",
    "no_nulls_inside",
    "node_table",
    "plain_type",
    "refuse",
    "repeated_ids",
    "validate_edges",
    "validate_nodes",
    "whole",
    "with_classes",
]

_FLOAT32_MAX = float(np.finfo(np.float32).max)

LabelKind = Literal["multiclass", "binary", "multilabel", "regression"]


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of a type are strings."""
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(kind) for is_kind in texts)


def is_list(kind: pa.DataType) -> bool:
    """Return whether values of a type are lists, of one length or of several."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in lists)


def is_number(kind: pa.DataType) -> bool:
    """Return whether values of a type are integers, floating-point numbers or decimals."""
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(is_kind(kind) for is_kind in numbers)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a dictionary, or the type itself."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def computable(array: pa.Array) -> pa.Array:
    """Return an array with a type that Arrow computes with: half floats become float32.

    Decimals of negative scale get scale 0, and views of strings, as Polars has, become strings.
    """
    kind = _computable_type(array.type)
    return array if kind == array.type else array.cast(kind)


def _computable_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_decimal(kind) and kind.scale < 0:
        digits = kind.precision - kind.scale
        return pa.decimal128(digits, 0) if digits <= 38 else pa.decimal256(min(digits, 76), 0)
    if not is_list(kind):
        return kind
    value = _computable_type(plain_type(kind.value_type))
    if value == kind.value_type:
        return kind
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(value, kind.list_size)
    return pa.large_list(value) if pa.types.is_large_list(kind) else pa.list_(value)


def with_classes(field: pa.Field, classes: Sequence[str]) -> pa.Field:
    """Return a field with the names of its classes, in its metadata `classes` as a JSON list."""
    return field.with_metadata({"classes": json.dumps(list(classes))}) if classes else field


def classes_of(field: pa.Field) -> tuple[str, ...]:
    """Return the names of the classes of a field; empty if it has none."""
    return tuple(json.loads((field.metadata or {}).get(b"classes", b"[]")))


def as_numpy(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return a column as NumPy: a read-only view, except for booleans and text, which are copied.

    The value at a null is 0 in columns made by `shape`, and arbitrary in others. A sparse column
    becomes dense, if it fits the free memory.

    Shape:
        (R,), or (R, F) for fixed-size lists of F and sparse columns of F.
    """
    array = whole(column) if isinstance(column, pa.ChunkedArray) else column
    if is_sparse(array.type):
        return SparseMatrix.of(array).dense()
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
        inside = array.values.slice(array.offset * width, len(array) * width)
        return as_numpy(inside).reshape(len(array), width)
    if pa.types.is_boolean(array.type):
        return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)
    if not pa.types.is_primitive(array.type) or not len(array):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    last = array.offset + len(array)
    values = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype(), last)
    values.flags.writeable = False
    return values[array.offset :]


def matrix_column(values_RF: NDArray[Any]) -> pa.Array:
    """Return a matrix as a FixedSizeList column, without a copy if it is C-contiguous.

    Shape:
        values_RF: (R, F) numbers. Returns R rows.
    """
    flat = pa.array(np.ascontiguousarray(values_RF).reshape(-1))
    if not values_RF.shape[1]:
        return pa.array([[]] * len(values_RF), pa.list_(flat.type, 0))
    return pa.FixedSizeListArray.from_arrays(flat, values_RF.shape[1])


def node_table(ids: Any, features: Any, labels: Any, split: NDArray[np.int8]) -> pa.Table:
    """Return a node table with features, the label `y` and the split `split`.

    Shape:
        features: (N, F) NumPy array, or a column. ids, labels, split: (N,) NumPy or Arrow arrays.
    """
    features = matrix_column(features) if isinstance(features, np.ndarray) else features
    return pa.table({"id": ids, "features": features, "label:y": labels, "split:split": split})


def validate_nodes(table: pa.Table, where: str, first_row: int = 0) -> None:
    """Validate a node table, or a chunk of its rows.

    It does not check whether ids are unique, which needs the whole table.

    Args:
        table: Columns as described in this module.
        where: Name of the table in messages.
        first_row: Number of the first row, for messages.

    Raises:
        GraphFormatError: If a column has another type; an id is null; a feature is null, NaN or
            infinite; a label is negative or NaN; a split is out of range.
    """
    _validate(table, where, first_row, {"id": _check_id, "features": _check_matrix})


def validate_edges(table: pa.Table, where: str, first_row: int = 0) -> None:
    """Validate an edge table, or a chunk of its rows.

    Args:
        table: Columns as described in this module.
        where: Name of the table in messages.
        first_row: Number of the first row, for messages.

    Raises:
        GraphFormatError: If a column has another type; `src` or `dst` is null; an attribute or
            weight is null, NaN or infinite; a type or label is negative; a split is out of range.
    """
    checks = {
        "src": _check_id,
        "dst": _check_id,
        "attr": _check_matrix,
        "type": _check_type,
        "weight": _check_weight,
    }
    _validate(table, where, first_row, checks)


_Check = Callable[[pa.Array, str, int], None]


def _validate(table: pa.Table, where: str, first_row: int, checks: Mapping[str, _Check]) -> None:
    prefixed = {"label": _check_label, "split": _check_split}
    for name in table.column_names:
        check = checks.get(name) or (":" in name and prefixed.get(name.split(":")[0]))
        if check:
            check(whole(table[name]), f"{where}: {name}", first_row)


def no_nulls(array: pa.Array, where: str, first_row: int) -> None:
    """Raise a GraphFormatError that names the rows if some values are null."""
    if array.null_count:
        rows = first_row + np.flatnonzero(array.is_null())
        raise refuse(
            where, "a value in every row", f"nulls in {rows_text(rows)}", "Fill or drop these rows."
        )


def in_range(
    array: pa.Array, low: int, high: int | None, where: str, first_row: int, expected: str
) -> None:
    """Raise a GraphFormatError that names the first row if a number is not in [low, high]."""
    bad = pc.less(array, low)
    if high is not None:
        bad = pc.or_(bad, pc.greater(array, high))
    rows = np.flatnonzero(bad.fill_null(False))
    if len(rows):
        raise refuse(
            where,
            expected,
            f"{array[int(rows[0])]} in {rows_text(first_row + rows)}",
            _remedy(where),
        )


def check_finite(array: pa.Array, where: str, first_row: int) -> None:
    """Raise a GraphFormatError that names the rows if float32 cannot hold some numbers.

    Rows with a null are missing labels; nulls in other columns are refused before.
    """
    values = as_numpy(array)
    if not values.size or (values.min() >= -_FLOAT32_MAX and values.max() <= _FLOAT32_MAX):
        return  # the usual case, without a copy; NaN fails both comparisons
    columns = values.T if values.ndim == 2 else values[None]
    bad = ~(np.abs(columns) <= _FLOAT32_MAX).all(axis=0)  # also of NaN
    if array.null_count:
        bad &= array.is_valid().to_numpy(zero_copy_only=False)
    rows = first_row + np.flatnonzero(bad)
    if len(rows):
        odd = np.atleast_1d(values[rows[0] - first_row])
        largest = np.abs(odd[np.isfinite(odd)]).max(initial=0)
        if largest > _FLOAT32_MAX:
            expected, got = (
                f"numbers up to {_FLOAT32_MAX:.2g}, the range of float32",
                f"{largest:g}",
            )
        else:
            expected, got = "finite numbers", "NaN or inf"
        raise refuse(where, expected, f"{got} in {rows_text(rows)}", _remedy(where))


def _check_id(array: pa.Array, where: str, first_row: int) -> None:
    if not (pa.types.is_int64(array.type) or pa.types.is_string(array.type)):
        raise refuse(where, "int64 or string", array.type, "Convert the ids.")
    no_nulls(array, where, first_row)


def _check_matrix(array: pa.Array, where: str, first_row: int) -> None:
    kind = array.type
    if is_sparse(kind):
        _check_sparse(array, where, first_row)
        return
    if not pa.types.is_fixed_size_list(kind) or kind.value_type not in (pa.float32(), pa.float64()):
        raise refuse(where, "fixed-size lists of float32 or float64", kind, "Convert the column.")
    no_nulls(array, where, first_row)
    no_nulls_inside(array, where, first_row)
    check_finite(array, where, first_row)


def _check_sparse(array: pa.Array, where: str, first_row: int) -> None:
    no_nulls(array, where, first_row)
    matrix = SparseMatrix.of(array)
    for faulty, expected in zip(
        matrix.faults(), (f"indices below {matrix.width:,}", "ascending indices"), strict=True
    ):
        if faulty.any():
            rows = first_row + np.flatnonzero(faulty)
            raise refuse(where, expected, f"others in {rows_text(rows)}", "Correct the column.")
    if matrix.values is not None and not (abs(matrix.values) <= _FLOAT32_MAX).all():
        wrong = matrix.rows[~(abs(matrix.values) <= _FLOAT32_MAX)]
        got = f"others in {rows_text(np.unique(first_row + wrong))}"
        raise refuse(where, "finite numbers in the range of float32", got, _remedy(where))


def no_nulls_inside(array: pa.Array, where: str, first_row: int) -> None:
    """Raise a GraphFormatError that names the rows if fixed-size lists contain nulls."""
    width = array.type.list_size
    inside = array.values.slice(array.offset * width, len(array) * width)
    if not inside.null_count:
        return
    missing = inside.is_null().to_numpy(zero_copy_only=False).reshape(len(array), width).any(axis=1)
    rows = np.flatnonzero(missing & array.is_valid().to_numpy(zero_copy_only=False))
    if len(rows):
        raise refuse(
            where,
            "lists without nulls",
            f"nulls in {rows_text(first_row + rows)}",
            "Fill them or drop the rows.",
        )


def _check_type(array: pa.Array, where: str, first_row: int) -> None:
    if array.type not in (pa.int32(), pa.int64()):
        raise refuse(where, "int32 or int64", array.type, "Number the edge types.")
    no_nulls(array, where, first_row)
    in_range(array, 0, None, where, first_row, "edge types from 0")


def _check_weight(array: pa.Array, where: str, first_row: int) -> None:
    if array.type not in (pa.float32(), pa.float64()):
        raise refuse(where, "float32 or float64", array.type, "Convert the column.")
    no_nulls(array, where, first_row)
    check_finite(array, where, first_row)


def _check_label(array: pa.Array, where: str, first_row: int) -> None:
    kind = array.type
    listed = (pa.float32(), pa.bool_(), pa.int8())
    if pa.types.is_fixed_size_list(kind) and kind.value_type in listed:
        no_nulls_inside(array, where, first_row)
    elif kind not in (pa.int64(), pa.bool_(), pa.float32()):
        raise refuse(
            where,
            "int64, bool, float32 or fixed-size lists of bool, int8 or float32",
            kind,
            "Convert the labels.",
        )
    if pa.types.is_int64(kind):
        in_range(array, 0, None, where, first_row, "classes from 0")
    elif pa.types.is_int8(getattr(kind, "value_type", kind)):
        expected = "0 and 1, or -1 for unknown"
        high, low = (as_numpy(array).max(axis=1, initial=0), as_numpy(array).min(axis=1, initial=0))
        rows = pa.array(np.where(high > 1, high, low), mask=array.is_null().to_numpy(False))
        in_range(rows, -1, 1, where, first_row, expected)
    elif pa.types.is_float32(getattr(kind, "value_type", kind)):
        check_finite(array, where, first_row)


def _check_split(array: pa.Array, where: str, first_row: int) -> None:
    if not pa.types.is_int8(array.type):
        raise refuse(where, "int8", array.type, "Convert the split.")
    no_nulls(array, where, first_row)
    in_range(array, 0, 3, where, first_row, "0 none, 1 train, 2 validation or 3 test")


def _remedy(where: str) -> str:
    return f"Correct {'them; write a null for a missing label' if ': label:' in where else 'them'}."


def need_column(name: str, available: Sequence[str], where: str, option: str = "") -> str:
    """Return `name`, or raise a ConfigError that lists the existing columns and names an option."""
    if name not in available:
        raise ConfigError(
            f"{where}: expected a column {name!r}, got columns "
            f"{', '.join(available) or 'none'}. Name one of these{f' ({option})' * bool(option)}."
        )
    return name


def need_attribute(given: object, name: str, where: str, expected: str) -> None:
    """Raise a GraphFormatError if an object is not of an expected kind, which has an attribute."""
    if not hasattr(given, name):
        remedy = "Graph.from_arrow, from_pyg, from_dgl and from_networkx convert graphs."
        raise refuse(where, expected, type(given).__name__, remedy)


def need_name(name: object, present: Iterable[str], what: str, none: str = "Leave it out.") -> None:
    """Raise a ConfigError that lists the names if a name is not among them.

    Args:
        name: The given name.
        present: Names to choose from.
        what: What is named, and its option, as in `label (--label)`.
        none: What the user can do if there is no name to choose.
    """
    names = sorted(present)
    if not isinstance(name, str) or name not in names:
        expected = f"one of {', '.join(names)}" if names else "none, as the graph has none"
        remedy = "Choose one of these." if names else none
        got = repr(name) if isinstance(name, str) else type(name).__name__
        raise ConfigError(f"{what}: expected {expected}, got {got}. {remedy}")


def names_of(kind: str, table: pa.Table) -> tuple[str, ...]:
    """Return the names of a table's columns of a kind, `label` or `split`."""
    prefix = f"{kind}:"
    return tuple(n.removeprefix(prefix) for n in table.column_names if n.startswith(prefix))


def named_column(kind: str, table: pa.Table, name: str | None) -> str:
    """Return the column of a label or split.

    Args:
        kind: `label` or `split`.
        table: Node table of a graph.
        name: Name of the label or split. If None, the only one, or `y` or `split` if there are
            several.

    Raises:
        ConfigError: If there is no such column.
    """
    names = names_of(kind, table)
    if name is None:
        name = names[0] if len(names) == 1 else {"label": "y"}.get(kind, kind)
    if name not in names:
        raise ConfigError(
            f"graph: expected a {kind} {name!r}, got {some(names, len(names)) or 'none'}. "
            f"Name one of these."
        )
    return f"{kind}:{name}"


def repeated_ids(where: str, ids: pa.Array) -> GraphFormatError:
    """Return the exception for ids that are in several rows of the node table `where`."""
    got = f"{some(ids.slice(0, 3).to_pylist(), len(ids))} more than once"
    return refuse(f"{where}: id", "unique ids", got, "Remove the duplicate rows.")


def refuse(where: str, expected: str, got: object, remedy: str) -> GraphFormatError:
    """Return the exception for an input that is not as expected."""
    return GraphFormatError(f"{where}: expected {expected}, got {got}. {remedy}")


def whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one Arrow array, with dictionaries decoded."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
