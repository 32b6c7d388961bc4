"""From the pieces of several servers' answers to arrays in the order that was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.engine.wire.chunks import tables_of
from graphtheta.engine.wire.limits import COLUMN
from graphtheta.errors import EngineError

__all__ = ["Answers", "best_drawn", "filled"]


@dataclass
class Answers:
    """Pieces of one question: tables whose `row` counts the rows of the whole question.

    Attributes:
        tables: (row, the other columns).
        elsewhere: Of lists that go on at servers not asked yet: (row, part, in_degree).
    """

    tables: list[tuple[NDArray[np.int64], pa.RecordBatch]]
    elsewhere: list[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]]

    @classmethod
    def of(cls, chunks: list[bytes], rows: NDArray[np.int64]) -> Answers:
        """Read one server's answer to a question about some rows."""
        found = cls([], [])
        for chunk in chunks:
            table, more = tables_of(chunk)
            if table is not None:
                found.tables.append((rows[as_numpy(table["row"])], table))
            if more is not None:
                row, part, degree = (as_numpy(more[n]) for n in ("row", "part", "in_degree"))
                found.elsewhere.append((rows[row], part, degree))
        return found

    def add(self, others: Answers) -> None:
        """Add the pieces of others."""
        self.tables += others.tables
        self.elsewhere += others.elsewhere

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of all pieces."""
        return np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in self.tables)])

    def numbers(self, name: str, dtype: Any) -> NDArray[Any]:
        """Return numbers that are no column of the graph's, of all pieces."""
        arrays = [as_numpy(table[name]) for _, table in self.tables]
        return np.concatenate([np.zeros(0, dtype), *arrays])

    def arrays(self, name: str) -> list[pa.Array]:
        """Return a column of the graph's, of all pieces."""
        return [table[COLUMN + name] for _, table in self.tables]

    def placed(self, name: str, num_rows: int, empty: pa.DataType) -> NDArray[Any]:
        """Return a column of the graph's by row, of which every row has one.

        Shape:
            Returns (num_rows,) or (num_rows, width).

        Raises:
            EngineError: If rows are missing.
        """
        arrays = self.arrays(name)
        if sum(len(array) for array in arrays) != num_rows:
            raise EngineError(f"answer: expected {num_rows:,} rows of '{name}', got others.")
        if not arrays or not all(_is_plain(array) for array in arrays):
            array = pa.concat_arrays([pa.array([], empty), *arrays]) if arrays else None
            array = pa.array([], empty) if array is None else array
            order = np.empty(num_rows, np.int64)
            order[self.rows] = np.arange(num_rows)
            return filled(array.take(pa.array(order)))
        first = as_numpy(arrays[0])
        placed = np.empty((num_rows, *first.shape[1:]), first.dtype)
        for (rows, _), array in zip(self.tables, arrays, strict=True):
            placed[rows] = as_numpy(array)
        return placed


def filled(array: pa.Array) -> NDArray[Any]:
    """Return a column as an array: of what is missing, integers and booleans are -1, reals NaN.

    Shape:
        Returns (rows,), or (rows, width) of fixed-size lists; text is of Python objects.
    """
    if not array.null_count:
        return as_numpy(array).copy()
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        width, present = kind.list_size, array.drop_null()
        values = filled(present)
        if values.dtype == np.bool_:
            values = values.astype(np.int8)
        missing = np.nan if values.dtype.kind == "f" else -1
        out = np.full((len(array), width), missing, values.dtype)
        out[np.asarray(array.is_valid())] = values
        return out
    if pa.types.is_boolean(kind):
        return as_numpy(array.cast(pa.int8()).fill_null(-1)).copy()
    if pa.types.is_floating(kind):
        return as_numpy(array.fill_null(np.nan)).copy()
    if pa.types.is_integer(kind):
        return as_numpy(array.fill_null(-1)).copy()
    return np.asarray(array.to_numpy(zero_copy_only=False))


def best_drawn(
    row: NDArray[np.int64],
    rank: NDArray[np.float64],
    draw: NDArray[np.int32],
    fanout: int,
    *,
    replace: bool,
) -> NDArray[np.int64]:
    """Return which candidates of draws by weight are drawn, of all parts that hold some of a list.

    Shape:
        row, rank, draw: (C,). Returns (D,) places of candidates.
    """
    order = np.lexsort((rank, draw, row)) if replace else np.lexsort((rank, row))
    row = row[order]
    group = row if not replace else row * fanout + draw[order]
    first = np.flatnonzero(np.append(True, group[1:] != group[:-1])[: len(group)])
    number = np.arange(len(group)) - np.repeat(first, np.diff(np.append(first, len(group))))
    chosen: NDArray[np.int64] = order[number < (1 if replace else fanout)]
    return chosen


def _is_plain(array: pa.Array) -> bool:
    kind = array.type.value_type if pa.types.is_fixed_size_list(array.type) else array.type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind)) and not array.null_count
