"""Sparse columns: rows of which only the values other than 0 are stored.

A row is a list of column indices in ascending order, with a value for each of them, or without
values if all are 1. As an Arrow array, the offsets of the lists are the row pointers of a CSR
matrix, so that a column in memory or in a mapped file is read as one without a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.errors import GraphFormatError

__all__ = [
    "MAX_WIDTH",
    "SparseMatrix",
    "SparseType",
    "entries_of",
    "is_pairs",
    "is_sparse",
    "pays",
    "row_bytes",
    "sparse_column",
    "with_entries",
]

MAX_WIDTH = 1 << 24  # columns of a sparse column: a model has a row of weights for each
_GAIN = 4  # a column is stored sparse if that takes at most a fourth of the bytes
_ENTRIES = b"entries"  # key of a field's metadata


class SparseType(pa.ExtensionType):
    """Arrow type of sparse rows.

    It is stored as a large list of `index` (int32) and `value`, or of indices if all values are 1;
    programs that do not know the type read it as such.

    Args:
        width: Number of columns of the matrix.
        value_type: float32 or float64. If None, all values are 1.
    """

    def __init__(self, width: int, value_type: pa.DataType | None = None) -> None:
        self.width, self.value_type = width, value_type
        entry: pa.DataType = pa.int32()
        if value_type is not None:
            index = pa.field("index", pa.int32(), nullable=False)
            entry = pa.struct([index, pa.field("value", value_type, nullable=False)])
        super().__init__(pa.large_list(entry), "graphtheta.sparse")

    def __arrow_ext_serialize__(self) -> bytes:
        return str(self.width).encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> SparseType:
        entry = storage.value_type
        value_type = entry.field("value").type if pa.types.is_struct(entry) else None
        found = cls(int(serialized), value_type)
        if found.storage_type != storage:
            raise pa.ArrowInvalid(f"a sparse column stored as {storage}")
        return found

    @property
    def dtype(self) -> pa.DataType:
        """Type of the values of the matrix: float32 if all are 1."""
        return self.value_type or pa.float32()

    @property
    def entry_bytes(self) -> int:
        """Bytes of one index with its value."""
        return 4 + (0 if self.value_type is None else self.value_type.bit_width // 8)

    def __str__(self) -> str:
        return f"sparse {'ones' if self.value_type is None else self.dtype}[{self.width}]"

    __repr__ = __str__


pa.register_extension_type(SparseType(1))


def is_sparse(kind: pa.DataType) -> bool:
    """Return whether a column of a type is sparse."""
    return isinstance(kind, SparseType)


def is_pairs(kind: pa.DataType) -> bool:
    """Return whether the values of a type are lists of a column index and a value."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists or not pa.types.is_struct(kind.value_type):
        return False
    entry = kind.value_type
    names = {entry.field(i).name for i in range(entry.num_fields)}
    if names != {"index", "value"} or entry.num_fields != 2:
        return False
    return bool(pa.types.is_integer(entry.field("index").type))


def with_entries(field: pa.Field, rows: int, entries: int) -> pa.Field:
    """Return the field of a sparse column with its mean number of entries in a row, rounded up."""
    mean = str(-(-entries // max(rows, 1)))
    return field.with_metadata({**(field.metadata or {}), _ENTRIES: mean})


def row_bytes(field: pa.Field) -> int:
    """Return the mean bytes of a row of a sparse column, which its metadata gives if it is known.

    Otherwise it is the most that a sparse column takes.
    """
    kind: SparseType = field.type
    dense = kind.width * kind.dtype.bit_width // 8
    entries = (field.metadata or {}).get(_ENTRIES)
    return dense // _GAIN if entries is None else 8 + int(entries) * kind.entry_bytes


def pays(rows: int, entries: int, kind: SparseType) -> bool:
    """Return whether a matrix takes at most a fourth of the bytes if it is stored sparse.

    With fewer zeros, products with a dense matrix are faster than those with a sparse one.

    Args:
        rows: Number of rows.
        entries: Number of values other than 0.
        kind: Type of the sparse column.
    """
    dense = rows * kind.width * kind.dtype.bit_width // 8
    return bool(_GAIN * (8 * rows + entries * kind.entry_bytes) <= dense)


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """Sparse matrix by rows (CSR). The indices of a row ascend.

    Attributes:
        indptr: (R + 1,) int64: the entries of row i are [indptr[i], indptr[i + 1]).
        indices: (Z,) int32 column of each entry.
        values: (Z,) value of each entry; None if all are 1.
        width: Number of columns (F).
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[Any] | None
    width: int

    @classmethod
    def of(cls, column: pa.Array | pa.ChunkedArray) -> SparseMatrix:
        """Return the matrix of a sparse column, without a copy if it is one chunk."""
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        lists, kind = column.storage, column.type
        indptr = lists.offsets.to_numpy() if len(lists) else np.zeros(1, np.int64)
        first, last = int(indptr[0]), int(indptr[-1])
        inside = lists.values.slice(first, last - first)
        values = None
        if kind.value_type is not None:
            values = inside.field("value").to_numpy()
            inside = inside.field("index")
        return cls(indptr - first if first else indptr, inside.to_numpy(), values, kind.width)

    def column(self) -> pa.Array:
        """Return the matrix as an Arrow column, without a copy."""
        value_type = None if self.values is None else pa.from_numpy_dtype(self.values.dtype)
        kind = SparseType(self.width, value_type)
        entries = pa.array(self.indices)
        if self.values is not None:
            fields = list(kind.storage_type.value_type)
            entries = pa.StructArray.from_arrays([entries, pa.array(self.values)], fields=fields)
        storage = kind.storage_type
        lists = pa.LargeListArray.from_arrays(pa.array(self.indptr), entries, type=storage)
        return pa.ExtensionArray.from_storage(kind, lists)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return len(self.indptr) - 1, self.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values: float32 if all are 1."""
        return np.dtype(np.float32) if self.values is None else self.values.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        of_values = 0 if self.values is None else self.values.nbytes
        return self.indptr.nbytes + self.indices.nbytes + of_values

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Row of each entry: (Z,)."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.indptr))

    @cached_property
    def entries_by_column(self) -> NDArray[np.int64]:
        """Number of entries of each column: (F,)."""
        return np.bincount(self.indices, minlength=self.width)

    def scipy(self) -> Any:
        """Return the matrix as a `scipy.sparse.csr_array`, with the same values."""
        import scipy.sparse

        values = np.ones(len(self.indices), np.float32) if self.values is None else self.values
        return scipy.sparse.csr_array((values, self.indices, self.indptr), shape=self.shape)

    def dense(self) -> NDArray[Any]:
        """Return all values: (R, F).

        Raises:
            GraphFormatError: If they do not fit the free memory.
        """
        size = self.shape[0] * self.width * self.dtype.itemsize
        free = psutil.virtual_memory().available
        if size > free:
            raise GraphFormatError(
                f"sparse column: expected memory for its {self.shape[0]:,} rows of {self.width:,} "
                f"values as a dense matrix, {size / 1e9:.1f} GB, got {free / 1e9:.1f} GB. Read "
                "fewer rows at a time, or keep it sparse."
            )
        values = np.zeros(self.shape, self.dtype)
        values[self.rows, self.indices] = 1 if self.values is None else self.values
        return values

    def faults(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which rows have an index outside of the matrix, and which have unsorted indices.

        Shape:
            Returns (R,) and (R,).
        """
        outside, unsorted = (np.zeros(self.shape[0], np.bool_) for _ in range(2))
        if len(self.indices):
            unsigned = self.indices.view(np.uint32)  # negative ones are larger than any width
            if int(unsigned.max()) >= self.width:
                outside[self.rows[unsigned >= self.width]] = True
            if not (descends := self.indices[1:] <= self.indices[:-1]).any():
                return outside, unsorted
            starts = self.indptr[1:-1]
            descends[starts[(starts > 0) & (starts < len(self.indices))] - 1] = False
            unsorted[self.rows[1:][descends]] = True
        return outside, unsorted


def sparse_column(
    rows: NDArray[Any],
    indices: NDArray[Any],
    values: NDArray[Any] | None,
    shape: tuple[int, int],
) -> pa.Array:
    """Return a sparse column from entries in any order.

    Entries at the same position are added; without values, they are one entry. Zeros are dropped.

    Args:
        rows: (Z,) row of each entry.
        indices: (Z,) column of each entry, in [0, shape[1]).
        values: (Z,) value of each entry, float32 or float64; if None, all are 1.
        shape: Number of rows and columns.
    """
    num_rows, width = shape
    position = rows.astype(np.int64) * width + indices
    if (position[1:] <= position[:-1]).any():
        order = np.argsort(position, kind="stable")
        position = position[order]
        starts = np.flatnonzero(np.append(True, position[1:] != position[:-1]))
        position = position[starts]
        if values is not None:
            values = np.add.reduceat(values[order], starts)
    if values is not None and not values.all():
        position, values = position[values != 0], values[values != 0]
    rows, indices = np.divmod(position, width) if width else (position, position)
    indptr = np.zeros(num_rows + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=num_rows), out=indptr[1:])
    return SparseMatrix(indptr, indices.astype(np.int32), values, width).column()


def entries_of(column: pa.ChunkedArray) -> int:
    """Return the number of entries of a sparse column."""
    return sum(int(pc.sum(pc.list_value_length(c.storage)).as_py() or 0) for c in column.chunks)
