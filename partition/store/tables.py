"""Access to the columns of tables as NumPy arrays, and the normalised layout of stored tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy, whole
from graphtheta.errors import PartitionError

__all__ = ["column_numpy", "column_valid", "contiguous"]


def column_numpy(table: pa.Table, name: str) -> NDArray[Any]:
    """Return a column as a read-only array, without a copy except for booleans and text.

    The value of an Arrow null is unspecified; see `column_valid`.

    Shape:
        Returns (rows,), or (rows, width) for a fixed-size list.
    """
    return as_numpy(table[name])


def column_valid(table: pa.Table, name: str) -> NDArray[np.bool_] | None:
    """Return a mask of the rows of a column that are not null, or None if no row is null.

    Shape:
        Returns (rows,) bool.
    """
    column = table[name]
    if column.null_count == 0:
        return None
    valid: NDArray[np.bool_] = column.is_valid().to_numpy()
    return valid


def contiguous(table: pa.Table) -> pa.Table:
    """Return a table with one chunk per column and without metadata: equal content, equal bytes.

    Raises:
        PartitionError: If a column does not fit one chunk (2 GiB of text).
    """
    arrays = [whole(column) for column in table.columns]
    for name, array in zip(table.column_names, arrays, strict=True):
        if isinstance(array, pa.ChunkedArray):  # 32-bit offsets are too small for one chunk
            raise PartitionError(
                f"partition: expected less than 2 GiB of text in column {name!r} of one part, "
                "got more. Use more parts."
            )
    schema = pa.schema(
        [pa.field(n, a.type) for n, a in zip(table.column_names, arrays, strict=True)]
    )
    return pa.Table.from_arrays(arrays, schema=schema)
