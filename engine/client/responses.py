"""Responses of several servers, checked and combined into arrays in the order of the query.

A response is not trusted: its columns must have the expected names and types, and its numbers must
be in range, before they are used as positions or returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.data.sparse import SparseMatrix, is_sparse
from graphtheta.engine.wire.chunks import decode_response
from graphtheta.engine.wire.protocol import COLUMN
from graphtheta.errors import EngineError

__all__ = [
    "Responses",
    "Types",
    "answer_of",
    "check_range",
    "check_table",
    "fill_missing",
    "sent",
    "wrong",
]

_Ids = NDArray[np.int64]
_OtherParts = tuple[_Ids, NDArray[np.int32], _Ids]

Types = Mapping[str, pa.DataType]
_ROW = {"row": pa.int32()}
_OTHER_PARTS = {"row": pa.int32(), "part": pa.int32(), "in_degree": pa.int64()}


def wrong(expected: str, got: object) -> EngineError:
    """Return the exception for a response that is not as expected."""
    return EngineError(f"response: expected {expected}, got {got}. Check the server.")


@contextmanager
def answer_of(address: str) -> Iterator[None]:
    """Name the server in the `EngineError` of a response that is not as expected."""
    try:
        yield
    except EngineError as error:
        raise type(error)(f"{address}: {error}") from None


def sent(types: Types) -> dict[str, pa.DataType]:
    """Return the types of columns of the graph by their names in responses."""
    return {COLUMN + name: kind for name, kind in types.items()}


def check_table(table: pa.RecordBatch, types: Types) -> None:
    """Check the names and types of all columns, and that only columns of the graph have nulls.

    Raises:
        EngineError: If a column is missing, unknown, or of another type.
    """
    found = {field.name: field.type for field in table.schema}
    if len(found) != table.num_columns or found != types:
        text = (
            ", ".join(f"{name} {kind}" for name, kind in some.items()) for some in (types, found)
        )
        raise wrong(*(f"columns {columns or 'none'}" for columns in text))
    for name in found:
        if not name.startswith(COLUMN) and table[name].null_count:
            raise wrong(f"a value of '{name}' in every row", "nulls")
        if is_sparse(table[name].type):
            outside, unsorted = SparseMatrix.of(table[name]).faults()
            if outside.any() or unsorted.any():
                raise wrong(f"ascending indices of its columns in '{name}'", "others")


def check_range(values: NDArray[Any], below: int, what: str) -> None:
    """Check that numbers are in [0, `below`).

    Raises:
        EngineError: If one is not.
    """
    if len(values) and not 0 <= values.min() <= values.max() < below:
        outside = values[(values < 0) | (values >= below)][0]
        raise wrong(f"{what} in [0, {below:,})", outside)


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
    def decode(
        cls,
        received: list[bytes],
        rows: NDArray[np.int64],
        types: Types | None,
        num_parts: int = 0,
    ) -> Responses:
        """Decode and check the response of one server.

        Args:
            received: Messages of the response; `row` counts the rows of the request.
            rows: (R,) rows of the query that the request covers.
            types: Type of each column except `row`. If None, they are not checked.
            num_parts: Number of parts of which the response may name others. 0 if it may not.

        Raises:
            EngineError: If the response is incomplete, or not as expected.
        """
        responses = cls([], [])
        for table, other_parts in decode_response(received):
            if table is not None:
                described = {field.name: field.type for field in table.schema}
                check_table(table, _ROW | dict(described if types is None else types))
                row = as_numpy(table["row"])
                check_range(row, len(rows), "rows of the request")
                responses.tables.append((rows[row], table))
            if other_parts is not None:
                check_table(other_parts, _OTHER_PARTS)
                row, part, degree = (as_numpy(other_parts[n]) for n in _OTHER_PARTS)
                check_range(row, len(rows), "rows of the request")
                check_range(part, num_parts, "other parts")
                check_range(degree, 1 << 32, "in-degrees")
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

    def distinct_rows(self) -> _Ids:
        """Return the `rows`, each of which must be there once.

        Raises:
            EngineError: If one is repeated.
        """
        rows = self.rows
        if len(rows) and np.bincount(rows).max() > 1:
            raise wrong("each row once", f"row {np.bincount(rows).argmax():,} again")
        return rows

    def numbers(self, name: str, dtype: Any) -> NDArray[Any]:
        """Return a column that the service adds, such as `edge_key`, of all tables."""
        arrays = [as_numpy(table[name]) for _, table in self.tables]
        return np.concatenate([np.zeros(0, dtype), *arrays])

    def ids(self, name: str, below: int = 1 << 63) -> _Ids:
        """Return a column of ids in [0, `below`) of all tables.

        Raises:
            EngineError: If one is outside.
        """
        ids = self.numbers(name, np.int64)
        check_range(ids, below, f"values of '{name}'")
        return ids

    def graph_column(self, name: str, kind: pa.DataType) -> pa.Array:
        """Return a column of the graph, of all tables; `kind` is its type."""
        return pa.concat_arrays([pa.array([], kind), *self._arrays(name)])

    def by_row(self, types: Types, num_rows: int) -> dict[str, NDArray[Any]]:
        """Return columns of the graph in the order of the query, one value for each row.

        Args:
            types: Type of each column.
            num_rows: Number of rows of the query.

        Shape:
            Returns (num_rows,) or (num_rows, width) each.

        Raises:
            EngineError: If rows are missing or repeated.
        """
        rows = self.distinct_rows()
        if types and len(rows) != num_rows:
            raise wrong(f"{num_rows:,} rows", f"{len(rows):,}")
        return {name: self._by_row(name, num_rows, kind) for name, kind in types.items()}

    def _by_row(self, name: str, num_rows: int, kind: pa.DataType) -> NDArray[Any]:
        arrays = self._arrays(name)
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
        Returns (rows,), or (rows, width) for fixed-size lists and sparse columns. Text is an array
        of Python objects.
    """
    if is_sparse(array.type):
        return as_numpy(array)
    if _is_plain(array):
        return as_numpy(array).copy()
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        inside = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        present = fill_missing(inside).reshape(len(array), kind.list_size)
        if not array.null_count:
            return present
        if present.dtype == np.bool_:
            present = present.astype(np.int8)
        present[np.asarray(array.is_null())] = np.nan if present.dtype.kind == "f" else -1
        return present
    if pa.types.is_boolean(kind) and not array.null_count:
        return as_numpy(array)
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        missing = np.nan if pa.types.is_floating(kind) else -1
        return as_numpy(array.fill_null(missing)).copy()
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _is_plain(array: pa.Array) -> bool:
    """Return whether a column holds numbers without nulls."""
    if pa.types.is_fixed_size_list(array.type):
        width = array.type.list_size
        return not array.null_count and _is_plain(
            array.values.slice(array.offset * width, len(array) * width)
        )
    is_number = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    return bool(is_number) and not array.null_count
