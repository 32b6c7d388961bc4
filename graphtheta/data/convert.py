"""Conversion of a user's columns to the columns of node and edge tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.mapping import Column, ColumnKind
from graphtheta.data.schema import (
    as_numpy,
    check_finite,
    computable,
    in_range,
    is_list,
    is_number,
    is_text,
    matrix_column,
    no_nulls,
    no_nulls_inside,
    refuse,
    whole,
    with_classes,
)
from graphtheta.data.sparse import (
    SparseMatrix,
    is_pairs,
    is_sparse,
    sparse_column,
    with_entries,
)
from graphtheta.wording import rows_text, some

__all__ = ["SPLITS", "convert", "one_split", "schema_of", "split_columns"]

SPLITS = {"": 0, "none": 0, "train": 1, "val": 2, "valid": 2, "validation": 2, "test": 3}


def schema_of(plan: Mapping[str, Column]) -> pa.Schema:
    """Return the types of the columns of a plan that `graphtheta.data.survey` has completed.

    Texts that are numbered are in the metadata `classes` of a field, as a JSON list.
    """
    return pa.schema([_field(name, column) for name, column in plan.items()])


def _field(name: str, column: Column) -> pa.Field:
    field = with_classes(pa.field(name, column.type), column.classes)
    return with_entries(field, *column.entries) if column.entries else field


def convert(
    table: pa.Table, plan: Mapping[str, Column], where: str, first_row: int = 0
) -> pa.Table:
    """Convert an input table to the columns of a plan, each of one Arrow chunk.

    Args:
        table: Input table, or some rows of it.
        plan: Result of `graphtheta.data.survey.survey`.
        where: Name of the input in messages.
        first_row: Number of the first row, for messages.

    Raises:
        GraphFormatError: If a value does not fit its column; the message names column and row.
    """
    columns = []
    for name, column in plan.items():
        inputs = [whole(table[source]) for source in column.inputs]
        if column.kind != "other":
            inputs = [computable(array) for array in inputs]
        title = f"{where}: {column.title(name)}"
        columns.append(_CONVERT[column.kind](column, inputs, title, first_row))
    return pa.table(columns, schema=schema_of(plan))


def _target(column: Column) -> pa.DataType:
    assert column.type is not None, "the survey chooses a type for each column"
    return column.type


def _cast(array: pa.Array, target: pa.DataType, where: str, first_row: int) -> pa.Array:
    """Cast an array; integers must fit exactly."""
    try:
        return array.cast(target)
    except pa.ArrowInvalid:
        row = _first_misfit(array, target)
    what = target.value_type if is_list(target) else target
    raise refuse(
        where,
        f"values that {what} holds exactly",
        f"{array[row].as_py()!r} in {rows_text([first_row + row])}",
        "Correct the value, or leave the column out.",
    )


def _first_misfit(array: pa.Array, target: pa.DataType) -> int:
    low, high = 0, len(array)  # a value in this range cannot be cast
    while high - low > 1:
        middle = (low + high) // 2
        try:
            array.slice(low, middle - low).cast(target)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def _ids(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    (array,) = inputs
    no_nulls(array, where, first_row)
    return _cast(array, column.type, where, first_row)


def _matrix(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    target = _target(column)
    if is_sparse(target):
        return _sparse(column, inputs, where, first_row)
    if len(inputs) == 1 and is_list(inputs[0].type) and not column.indices:
        if not is_pairs(inputs[0].type):
            return _lists(inputs[0], target, where, first_row)
    values = np.empty((len(inputs[0]), target.list_size), target.value_type.to_pandas_dtype())
    last = 0
    for name, array, width in zip(column.inputs, inputs, column.widths, strict=True):
        title = where if len(inputs) == 1 else f"{where}, column {name}"
        no_nulls(array, title, first_row)
        first, last = last, last + width
        if name in column.indices:
            values[:, first:last] = _members(array, width)
            continue
        values[:, first:last] = _dense(array, target.value_type, width, title, first_row)
    return matrix_column(values)


def _dense(
    array: pa.Array, kind: pa.DataType, width: int, where: str, first_row: int
) -> NDArray[Any]:
    """Return one input of features as a matrix."""
    if is_pairs(array.type) or is_sparse(array.type):
        rows, indices, values = _entries(array, kind, width, where, first_row)
        matrix = np.zeros((len(array), width), kind.to_pandas_dtype())
        np.add.at(matrix, (rows, indices), values)
        return matrix
    if is_list(array.type):
        dense = _lists(array, pa.list_(kind, width), where, first_row)
        no_nulls_inside(dense, where, first_row)
    else:
        dense = _cast(array, kind, where, first_row)
    check_finite(dense, where, first_row)
    return as_numpy(dense).reshape(len(dense), width)


def _sparse(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    """Return inputs of features next to each other as one sparse column."""
    target, first = _target(column), 0
    if len(inputs) == 1 and inputs[0].type == target:
        return inputs[0]
    kind, pieces = target.dtype, []
    for name, array, width in zip(column.inputs, inputs, column.widths, strict=True):
        title = where if len(inputs) == 1 else f"{where}, column {name}"
        no_nulls(array, title, first_row)
        if name in column.indices:
            rows, indices = _indices(array)
            values = np.ones(len(rows), kind.to_pandas_dtype())
        elif is_pairs(array.type) or is_sparse(array.type):
            rows, indices, values = _entries(array, kind, width, title, first_row)
        else:
            matrix = _dense(array, kind, width, title, first_row)
            rows, indices = np.nonzero(matrix)
            values = matrix[rows, indices]
        pieces.append((rows, indices.astype(np.int64) + first, values))
        first += width
    rows, indices, values = (np.concatenate(of) for of in zip(*pieces, strict=True))
    given = None if target.value_type is None else values
    return sparse_column(rows, indices, given, (len(inputs[0]), target.width))


def _entries(
    array: pa.Array, kind: pa.DataType, width: int, where: str, first_row: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the row, column and value of each entry of a sparse column or of lists of pairs."""
    dtype = kind.to_pandas_dtype()
    if is_sparse(array.type):
        matrix = SparseMatrix.of(array)
        values = np.ones(len(matrix.indices)) if matrix.values is None else matrix.values
        return matrix.rows, matrix.indices, values.astype(dtype)
    rows, pairs = pc.list_parent_indices(array), array.flatten()
    index, value = (pc.struct_field(pairs, name) for name in ("index", "value"))
    for part in (index, value):
        if part.null_count:
            found = first_row + np.unique(rows.filter(part.is_null()).to_numpy())
            raise refuse(where, "pairs without nulls", f"nulls in {rows_text(found)}", "Fill them.")
    index = index.cast(pa.int64())
    in_range(index, 0, width - 1, where, 0, f"indices from 0 to {width - 1:,}")
    return rows.to_numpy(), index.to_numpy(), as_numpy(value.cast(kind, safe=False))


def _indices(lists: pa.Array) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the row and the index of each entry of lists of indices, without nulls."""
    rows, indices = pc.list_parent_indices(lists), lists.flatten()
    known = indices.is_valid()
    return rows.filter(known).to_numpy(), indices.filter(known).to_numpy()


def _members(lists: pa.Array, width: int) -> NDArray[np.bool_]:
    """Return whether each list of indices contains each index."""
    members = np.zeros((len(lists), width), np.bool_)
    members[_indices(lists)] = True
    return members


def _lists(array: pa.Array, target: pa.DataType, where: str, first_row: int) -> pa.Array:
    """Cast lists, which must have the length of the target."""
    lengths = pc.list_value_length(array)
    odd = np.flatnonzero(pc.fill_null(pc.not_equal(lengths, target.list_size), False))
    if len(odd):
        raise refuse(
            where,
            f"lists of length {target.list_size} as in the first row",
            f"length {lengths[int(odd[0])]} in {rows_text([first_row + int(odd[0])])}",
            "Give every row the same length.",
        )
    return _cast(array, target, where, first_row)


def _label(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    (array,), target = inputs, _target(column)
    if column.indices:
        return _with_nulls(matrix_column(_members(array, target.list_size)), array.is_null())
    if is_list(array.type):
        width = target.list_size if is_list(target) else 1
        value = target.value_type if is_list(target) else target
        if pa.types.is_int8(value):
            array = _with_unknown(array, width, where, first_row)
        rows = _lists(array, pa.list_(value, width), where, first_row)
        if is_list(target):
            no_nulls_inside(rows, where, first_row)
            return _zero_under_nulls(rows)
        array = pc.list_element(rows, 0)  # a null in a list of one is a missing label
    if is_text(array.type):
        array = _numbers_of(array, column.classes)
    if pa.types.is_boolean(target) and is_number(array.type):
        array = pc.not_equal(array, pa.scalar(0, array.type))
    return _zero_under_nulls(_cast(array, target, where, first_row))


def _with_unknown(lists: pa.Array, width: int, where: str, first_row: int) -> pa.Array:
    """Return multi-labels as int8, with -1 for NaN and nulls inside of lists."""
    rows = _lists(lists, pa.list_(pa.float32(), width), where, first_row)
    values = rows.values.slice(rows.offset * width, len(rows) * width)
    filled = pc.if_else(pc.is_finite(values).fill_null(False), values, -1.0).cast(pa.int8())
    return _with_nulls(pa.FixedSizeListArray.from_arrays(filled, width), rows.is_null())


def _with_nulls(rows: pa.Array, missing: pa.Array) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(rows.values, rows.type.list_size, mask=missing)


def _numbers_of(array: pa.Array, classes: Sequence[str]) -> pa.Array:
    return pc.index_in(array.cast(pa.string()), pa.array(classes)).cast(pa.int64())


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


def _split(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    if len(inputs) == 3:
        train, val, test = (
            _split(column, [array], where, first_row).to_numpy() > 0 for array in inputs
        )
        return pa.array(one_split(train, val, test, where, first_row))
    (array,) = inputs
    kind = array.type
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.int8()).fill_null(0)
    if pa.types.is_boolean(kind):
        return array.cast(pa.int8()).fill_null(0)
    if pa.types.is_integer(kind):
        in_range(array, 0, 3, where, first_row, "0 none, 1 train, 2 validation or 3 test")
        return array.cast(pa.int8()).fill_null(0)
    if not is_text(kind):
        raise refuse(where, "words, integers or booleans", kind, "Convert the column.")
    words = pc.utf8_lower(array.cast(pa.string()).fill_null(""))
    position = pc.index_in(words, pa.array(list(SPLITS)))
    if position.null_count:
        odd = pc.unique(words.filter(position.is_null())).to_pylist()
        raise refuse(where, "train, val, test or none", some(odd, len(odd)), "Correct the words.")
    return pa.array(np.array(list(SPLITS.values()), np.int8)[position.to_numpy()])


def split_columns(
    masks: Mapping[str, NDArray[Any] | None], num_rows: int, where: str
) -> dict[str, pa.Array]:
    """Return the `split:<name>` columns of masks for training, validation and test, in this order.

    Args:
        masks: Booleans, or 0 and 1, by the name of the mask in messages. None is an empty mask.
        num_rows: Number of rows of the table.
        where: Name of the input in messages.

    Shape:
        masks: (num_rows,) for the column `split:split`; (num_rows, R) for the columns `split:0`,
            ... and `split:split`, which is equal to `split:0`.

    Raises:
        GraphFormatError: If a mask has another shape or other values, or a row is in two of them.
    """
    given = {name: mask for name, mask in masks.items() if mask is not None}
    shape = next(iter(given.values())).shape
    for name, mask in given.items():
        title = f"{where}: {name}"
        if mask.shape != shape or len(mask) != num_rows or 0 in shape[1:]:
            got = f"shape {mask.shape}"
            raise refuse(title, f"a mask of {num_rows:,} rows, as the others", got, "Correct it.")
        odd = np.argwhere((mask != 0) & (mask != 1))
        if len(odd):
            got = f"{mask[tuple(odd[0])]} in {rows_text(np.unique(odd[:, 0]))}"
            raise refuse(title, "booleans, or 0 and 1", got, "Correct the mask.")
    train, val, test = (
        np.zeros(shape, np.bool_) if mask is None else mask.astype(np.bool_)
        for mask in masks.values()
    )
    if train.ndim == 1:
        return {"split:split": pa.array(one_split(train, val, test, where))}
    runs = [
        pa.array(one_split(train[:, r], val[:, r], test[:, r], where))
        for r in range(train.shape[1])
    ]
    return {"split:split": runs[0], **{f"split:{r}": run for r, run in enumerate(runs)}}


def one_split(
    train: NDArray[np.bool_],
    val: NDArray[np.bool_],
    test: NDArray[np.bool_],
    where: str,
    first_row: int = 0,
) -> NDArray[np.int8]:
    """Return the split of three masks: 0 none, 1 train, 2 validation, 3 test.

    Raises:
        GraphFormatError: If a row is in two of the masks.
    """
    twice = np.flatnonzero(train.astype(np.int8) + val + test > 1)
    if len(twice):
        raise refuse(
            where,
            "every row in at most one of train, validation, test",
            f"several in {rows_text(first_row + twice)}",
            "Make the masks disjoint.",
        )
    return (train + np.int8(2) * val + np.int8(3) * test).astype(np.int8)


def _number(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    (array,) = inputs
    if is_text(array.type):
        return _numbers_of(array, column.classes)
    return _cast(array, column.type, where, first_row)


def _other(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    return inputs[0]


_CONVERT: dict[ColumnKind, Callable[[Column, Sequence[pa.Array], str, int], pa.Array]] = {
    "id": _ids,
    "matrix": _matrix,
    "label": _label,
    "split": _split,
    "type": _number,
    "weight": _number,
    "other": _other,
}
