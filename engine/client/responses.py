"""Responses of several servers, combined into arrays in the order of the query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.engine.wire.chunks import decode_chunk
from graphtheta.engine.wire.protocol import COLUMN
from graphtheta.errors import EngineError

__all__ = ["Responses", "fill_missing"]


_Ids = NDArray[np.int64]
_OtherParts = tuple[_Ids, NDArray[np.int32], _Ids]


@dataclass
class Responses:
    """Tables that together answer a query.

    Attributes:
        tables: Each table with the rows of the query that its rows belong to.
        other_parts: Rows whose edges continue at parts of other servers: (row, part, in_degree).
    """

    tables: list[tuple[_Ids, pa.RecordBatch]]
    other_parts: list[_OtherParts]

    @classmethod
    def decode(cls, chunks: list[bytes], rows: NDArray[np.int64]) -> Responses:
        """Decode the response of one server.

        Args:
            chunks: `Chunk` messages, whose `row` counts the rows of the request.
            rows: (R,) rows of the query that the request covers.
        """
        responses = cls([], [])
        for chunk in chunks:
            table, other_parts = decode_chunk(chunk)
            if table is not None:
                responses.tables.append((rows[as_numpy(table["row"])], table))
            if other_parts is not None:
                row, part, degree = (as_numpy(other_parts[n]) for n in ("row", "part", "in_degree"))
                responses.other_parts.append((rows[row], part, degree))
        return responses

    def extend(self, others: Responses) -> None:
        """Append the tables of other responses."""
        self.tables += others.tables
        self.other_parts += others.other_parts

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of the query for each row of the tables."""
        return np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in self.tables)])

    def numbers(self, name: str, dtype: Any) -> NDArray[Any]:
        """Return a column that the service adds, such as `edge_key`, of all tables."""
        arrays = [as_numpy(table[name]) for _, table in self.tables]
        return np.concatenate([np.zeros(0, dtype), *arrays])

    def graph_column(self, name: str, kind: pa.DataType) -> pa.Array:
        """Return a column of the graph, of all tables; `kind` is its type."""
        return pa.concat_arrays([pa.array([], kind), *self._arrays(name)])

    def by_row(self, name: str, num_rows: int, kind: pa.DataType) -> NDArray[Any]:
        """Return a column of the graph in the order of the query, one value for each row.

        Args:
            name: Name of the column.
            num_rows: Number of rows of the query.
            kind: Type of the column.

        Shape:
            Returns (num_rows,) or (num_rows, width).

        Raises:
            EngineError: If rows are missing.
        """
        arrays = self._arrays(name)
        count = sum(len(array) for array in arrays)
        if count != num_rows:
            raise EngineError(f"response: expected {num_rows:,} rows of '{name}', got {count:,}.")
        if not arrays or not all(_is_plain(array) for array in arrays):
            order = np.empty(num_rows, np.int64)
            order[self.rows] = np.arange(num_rows)
            return fill_missing(self.graph_column(name, kind).take(pa.array(order)))
        first = as_numpy(arrays[0])
        values = np.empty((num_rows, *first.shape[1:]), first.dtype)
        for (rows, _), array in zip(self.tables, arrays, strict=True):
            values[rows] = as_numpy(array)
        return values

    def joined_other_parts(self) -> _OtherParts:
        """Return `other_parts` as three arrays: rows, parts and in-degrees."""
        empty = np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)
        columns = zip(empty, *self.other_parts, strict=True)
        row, part, degree = (np.concatenate(column) for column in columns)
        return row, part, degree

    def _arrays(self, name: str) -> list[pa.Array]:
        return [table[COLUMN + name] for _, table in self.tables]


def fill_missing(array: pa.Array) -> NDArray[Any]:
    """Return a column as NumPy, with -1 for missing integers and booleans and NaN for floats.

    Shape:
        Returns (rows,), or (rows, width) for fixed-size lists. Text is an array of Python objects.
    """
    if not array.null_count:
        return as_numpy(array).copy()
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        present = fill_missing(array.drop_null())
        if present.dtype == np.bool_:
            present = present.astype(np.int8)
        missing = np.nan if present.dtype.kind == "f" else -1
        values = np.full((len(array), kind.list_size), missing, present.dtype)
        values[np.asarray(array.is_valid())] = present
        return values
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        missing = np.nan if pa.types.is_floating(kind) else -1
        return as_numpy(array.fill_null(missing)).copy()
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _is_plain(array: pa.Array) -> bool:
    """Return whether a column holds numbers without nulls."""
    kind = array.type.value_type if pa.types.is_fixed_size_list(array.type) else array.type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind)) and not array.null_count
