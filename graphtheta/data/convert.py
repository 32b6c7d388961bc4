"""Conversion of a user's columns to the columns of node and edge tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.encode.cast import cast_exactly, lists_of
from graphtheta.data.encode.categorical import Embedding
from graphtheta.data.encode.numeric import is_vector
from graphtheta.data.encode.recipe import with_encoding, with_input
from graphtheta.data.mapping import Column, ColumnKind
from graphtheta.data.schema import (
    as_numpy,
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
    SparseType,
    is_sparse,
    sparse_column,
    with_entries,
)
from graphtheta.wording import rows_text, some

__all__ = ["SPLITS", "convert", "one_split", "schema_of", "split_columns"]

SPLITS = {"": 0, "none": 0, "train": 1, "val": 2, "valid": 2, "validation": 2, "test": 3}


def schema_of(plan: Mapping[str, Column]) -> pa.Schema:
    """Return the types of the columns of a plan that `graphtheta.data.survey` has completed.

    Texts that are numbered are in the metadata `classes` of a field, as a JSON list, and the fitted
    encoders of features in the metadata `encoding`.
    """
    return pa.schema([_field(name, column) for name, column in plan.items()])


def _field(name: str, column: Column) -> pa.Field:
    field = with_classes(pa.field(name, column.type), column.classes)
    field = with_entries(field, *column.entries) if column.entries else field
    if column.kind in ("id", "type", "weight"):
        field = with_input(field, column.inputs[0])
    return with_encoding(field, column.encoded)


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


def _ids(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    (array,) = inputs
    no_nulls(array, where, first_row)
    return cast_exactly(array, column.type, where, first_row)


def _matrix(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    target = _target(column)
    if len(inputs) == 1 and inputs[0].type == target:
        return inputs[0]
    if len(inputs) == 1 and is_vector(column.encoded[0].encoder, inputs[0].type):
        return lists_of(inputs[0], target, where, first_row)  # without a copy, if possible
    kind = target.dtype if is_sparse(target) else target.value_type
    pieces = []
    for encoded, array in zip(column.encoded, inputs, strict=True):
        title = where if len(inputs) == 1 else f"{where}, column {encoded.column}"
        if pa.types.is_null(array.type):
            array = array.cast(encoded.encoder.blank)
        pieces.append(encoded.encoder.encode(array, kind, title, first_row))
    if is_sparse(target):
        return _joined(pieces, target, len(inputs[0]))
    values = np.empty((len(inputs[0]), target.list_size), kind.to_pandas_dtype())
    last = 0
    for piece in pieces:
        first, last = last, last + piece.shape[1]
        matrix = piece.dense() if isinstance(piece, SparseMatrix) else piece
        with np.errstate(over="ignore"):  # what float32 does not hold is refused afterwards
            values[:, first:last] = matrix
    return matrix_column(values)


def _joined(
    pieces: Sequence[NDArray[Any] | SparseMatrix], target: SparseType, num_rows: int
) -> pa.Array:
    """Return matrices next to each other as one sparse column."""
    first = 0
    entries: list[tuple[NDArray[Any], ...]] = []
    for piece in pieces:
        rows: NDArray[Any]
        indices: NDArray[Any]
        if isinstance(piece, SparseMatrix):
            rows, indices, values = piece.rows, piece.indices, piece.values
            values = np.ones(len(rows)) if values is None else values
        else:
            rows, indices = np.nonzero(piece)
            values = piece[rows, indices]
        with np.errstate(over="ignore"):
            values = values.astype(target.dtype.to_pandas_dtype())
        entries.append((rows, indices.astype(np.int64) + first, values))
        first += piece.shape[1]
    rows, indices, values = (np.concatenate(of) for of in zip(*entries, strict=True))
    given = None if target.value_type is None else values
    return sparse_column(rows, indices, given, (num_rows, target.width))


def _code(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    encoder = column.encoded[0].encoder
    assert isinstance(encoder, Embedding), "only embeddings have codes"
    array = inputs[0]
    return encoder.codes(array.cast(encoder.blank) if pa.types.is_null(array.type) else array)


def _members(lists: pa.Array, width: int) -> NDArray[np.bool_]:
    """Return whether each list of indices contains each index."""
    members = np.zeros((len(lists), width), np.bool_)
    rows, indices = pc.list_parent_indices(lists), lists.flatten()
    known = indices.is_valid()
    members[rows.filter(known).to_numpy(), indices.filter(known).to_numpy()] = True
    return members


def _label(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    (array,), target = inputs, _target(column)
    if column.indices:
        return _with_nulls(matrix_column(_members(array, target.list_size)), array.is_null())
    if is_list(array.type):
        width = target.list_size if is_list(target) else 1
        value = target.value_type if is_list(target) else target
        if pa.types.is_int8(value):
            array = _with_unknown(array, width, where, first_row)
        rows = lists_of(array, pa.list_(value, width), where, first_row)
        if is_list(target):
            no_nulls_inside(rows, where, first_row)
            return _zero_under_nulls(rows)
        array = pc.list_element(rows, 0)  # a null in a list of one is a missing label
    if is_text(array.type):
        array = _numbers_of(array, column.classes)
    if pa.types.is_boolean(target) and is_number(array.type):
        array = pc.not_equal(array, pa.scalar(0, array.type))
    return _zero_under_nulls(cast_exactly(array, target, where, first_row))


def _with_unknown(lists: pa.Array, width: int, where: str, first_row: int) -> pa.Array:
    """Return multi-labels as int8, with -1 for NaN and nulls inside of lists."""
    rows = lists_of(lists, pa.list_(pa.float32(), width), where, first_row)
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
    if column.drawn is not None:
        for array in inputs:
            no_nulls(array, where, first_row)
        return pa.array(column.drawn.draw(inputs))
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
    return cast_exactly(array, column.type, where, first_row)


def _other(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    return inputs[0]


def _kept(column: Column, inputs: Sequence[pa.Array], where: str, first_row: int) -> pa.Array:
    array = inputs[0].cast(_target(column))
    if pa.types.is_floating(array.type):
        return array.fill_null(math.nan)
    no_nulls(array, where, first_row)
    return array


_CONVERT: dict[ColumnKind, Callable[[Column, Sequence[pa.Array], str, int], pa.Array]] = {
    "id": _ids,
    "matrix": _matrix,
    "code": _code,
    "label": _label,
    "split": _split,
    "type": _number,
    "weight": _number,
    "kept": _kept,
    "other": _other,
}
