"""Casts of Arrow arrays that name the first row whose value does not fit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graphtheta.data.schema import as_numpy, in_range, is_list, no_nulls, refuse
from graphtheta.data.sparse import SparseMatrix, is_sparse, sparse_column
from graphtheta.wording import rows_text

__all__ = ["cast_exactly", "entries_of", "lists_of"]


def cast_exactly(array: pa.Array, target: pa.DataType, where: str, first_row: int) -> pa.Array:
    """Return an array of another type; integers must fit exactly.

    Args:
        array: The values.
        target: The type.
        where: Name of the column in messages.
        first_row: Number of the first row, for messages.

    Raises:
        GraphFormatError: If a value does not fit; the message names its row.
    """
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


def lists_of(array: pa.Array, target: pa.DataType, where: str, first_row: int) -> pa.Array:
    """Return lists as fixed-size lists, whose length they must have.

    Raises:
        GraphFormatError: If a list has another length, or a value does not fit.
    """
    lengths = pc.list_value_length(array)
    odd = np.flatnonzero(pc.fill_null(pc.not_equal(lengths, target.list_size), False))
    if len(odd):
        raise refuse(
            where,
            f"lists of length {target.list_size} as in the first row",
            f"length {lengths[int(odd[0])]} in {rows_text([first_row + int(odd[0])])}",
            "Give every row the same length.",
        )
    return cast_exactly(array, target, where, first_row)


def entries_of(
    array: pa.Array, kind: pa.DataType, width: int, where: str, first_row: int
) -> SparseMatrix:
    """Return a sparse column, or lists of pairs of an index and a value, as a sparse matrix.

    Args:
        array: The rows.
        kind: Type of the values.
        width: Number of columns.
        where: Name of the column in messages.
        first_row: Number of the first row, for messages.

    Raises:
        GraphFormatError: If a row or a part of a pair is null, or an index is out of range.
    """
    no_nulls(array, where, first_row)
    if is_sparse(array.type):
        return SparseMatrix.of(array)
    rows, pairs = pc.list_parent_indices(array), array.flatten()
    index, value = (pc.struct_field(pairs, name) for name in ("index", "value"))
    for part in (index, value):
        if part.null_count:
            found = first_row + np.unique(rows.filter(part.is_null()).to_numpy())
            raise refuse(where, "pairs without nulls", f"nulls in {rows_text(found)}", "Fill them.")
    index = index.cast(pa.int64())
    in_range(index, 0, width - 1, where, 0, f"indices from 0 to {width - 1:,}")
    values = as_numpy(value.cast(kind, safe=False))
    column = sparse_column(rows.to_numpy(), index.to_numpy(), values, (len(array), width))
    return SparseMatrix.of(column)
