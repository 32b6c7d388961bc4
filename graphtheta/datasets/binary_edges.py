"""Formats of edge lists that are arrays of pairs of ids: NumPy files and raw binary files.

- `.npy`: integers of shape (E, 2), or (2, E) like PyTorch Geometric's edge_index; (2, 2) is read as
  two rows of (source, destination).
- `.bin`: little-endian pairs without a header. The type precedes the suffix, as in
  `edges.u32.bin` and `edges.i64.bin`. The default is u32, as in the binary edge lists of HEP, 2PS
  and others (Mayer, Jacobsen, "Hybrid edge partitioner", SIGMOD 2021).

Such a file does not name its columns. Their names are those of the edge table's options, `src` and
`dst` by default. A local file is mapped into memory.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs

from graphtheta.data.batches import CHUNK_ROWS
from graphtheta.data.schema import refuse
from graphtheta.datasets.formats import Typed, Types, open_mapped
from graphtheta.errors import ConfigError

__all__ = ["Npy", "Raw"]

_RAW_TYPES = {"u32": "<u4", "i32": "<i4", "u64": "<u8", "i64": "<i8"}


class _Pairs(Typed):
    """Format of pairs of ids, which a subclass finds in a file by `_layout`."""

    def __init__(
        self, system: fs.FileSystem, path: str, unnamed: Sequence[str], named: bool
    ) -> None:
        self._system = system
        self.schema = pa.schema([(name, pa.int64()) for name in _names(path, unnamed)])

    def _layout(self, file: pa.NativeFile, path: str) -> tuple[np.dtype[Any], int, int]:
        """Return the type of an id, the offset of the pairs, and the distance of their ends.

        The distance is the number of ids from a source to its destination: 1 for pairs in a row.
        """
        raise NotImplementedError

    def stream(self, path: str, start: int, stop: int, types: Types) -> Iterator[pa.RecordBatch]:
        with open_mapped(self._system, path) as file:
            kind, begin, distance = self._layout(file, path)
            for first in range(start, stop, CHUNK_ROWS):
                count = min(CHUNK_ROWS, stop - first)
                if distance == 1:
                    offset = begin + 2 * first * kind.itemsize
                    ends = list(_values(file, offset, 2 * count, kind).reshape(count, 2).T)
                else:
                    offsets = (begin + (first + skip) * kind.itemsize for skip in (0, distance))
                    ends = [_values(file, offset, count, kind) for offset in offsets]
                yield _batch(ends, self.schema, path)


class Npy(_Pairs):
    """Format of an integer array of pairs in a NumPy file."""

    def count(self, path: str) -> int:
        with open_mapped(self._system, path) as file:
            shape, _, _ = _header(file, path)
        return _num_pairs(shape)

    def _layout(self, file: pa.NativeFile, path: str) -> tuple[np.dtype[Any], int, int]:
        shape, fortran, kind = _header(file, path)
        # (E, 2) by columns and (2, E) by rows have the same layout: sources, then destinations.
        separate = fortran == (shape[1] == 2)
        return kind, file.tell(), _num_pairs(shape) if separate else 1


class Raw(_Pairs):
    """Format of little-endian pairs without a header."""

    def count(self, path: str) -> int:
        pair_bytes = 2 * _raw_type(path).itemsize
        size = self._system.get_file_info(path).size
        if size % pair_bytes:
            raise refuse(
                path,
                f"pairs of {pair_bytes} bytes",
                f"{size:,} bytes, {size % pair_bytes} too many",
                "Copy the file again, or put its type into its name, as in edges.i64.bin.",
            )
        return int(size // pair_bytes)

    def _layout(self, file: pa.NativeFile, path: str) -> tuple[np.dtype[Any], int, int]:
        return _raw_type(path), 0, 1


def _names(path: str, unnamed: Sequence[str]) -> Sequence[str]:
    if posixpath.splitext(path)[1] not in (".npy", ".bin"):
        raise ConfigError(f"{path}: expected an uncompressed file of pairs. Decompress the file.")
    if len(unnamed) != 2:
        raise ConfigError(
            f"{path}: expected a table of nodes, got pairs of ids. Give the nodes as Parquet, "
            f"Arrow or CSV."
        )
    return unnamed


def _raw_type(path: str) -> np.dtype[Any]:
    name = posixpath.splitext(posixpath.splitext(path)[0])[1].removeprefix(".")
    if re.fullmatch(r"[uif]\d+", name) and name not in _RAW_TYPES:
        raise refuse(
            path, f"a type among {', '.join(_RAW_TYPES)} in its name", name, "Convert the file."
        )
    return np.dtype(_RAW_TYPES.get(name, "<u4"))


def _header(file: pa.NativeFile, path: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a NumPy file and leave the file position at the data."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, fortran, kind = read(file)
    if len(shape) != 2 or 2 not in shape:
        raise refuse(path, "shape (E, 2) or (2, E)", f"shape {shape}", "Save an array of pairs.")
    if kind.kind not in "iu":
        raise refuse(path, "integers", kind, "Convert the ids, or use a Parquet table.")
    size, needed = file.size(), file.tell() + shape[0] * shape[1] * kind.itemsize
    if size < needed:
        raise refuse(path, f"{needed:,} bytes", f"{size:,}", "Copy the file again.")
    return shape, fortran, kind


def _num_pairs(shape: tuple[int, ...]) -> int:
    return shape[0] if shape[1] == 2 else shape[1]


def _values(
    file: pa.NativeFile, offset: int, count: int, kind: np.dtype[Any]
) -> NDArray[np.integer[Any]]:
    file.seek(offset)
    buffer = file.read_buffer(count * kind.itemsize)
    if buffer.size != count * kind.itemsize:
        raise ValueError("an end of the file before its last pair")
    return np.frombuffer(buffer, kind)


def _batch(
    ends: Sequence[NDArray[np.integer[Any]]], schema: pa.Schema, path: str
) -> pa.RecordBatch:
    for name, end in zip(schema.names, ends, strict=True):
        if end.dtype == np.uint64 and len(end) and end.max() >> np.uint64(63):
            raise refuse(f"{path}: {name}", "ids that fit int64", end.max(), "Renumber the nodes.")
    columns = [np.ascontiguousarray(end, np.int64) for end in ends]
    return pa.record_batch([pa.array(column) for column in columns], schema=schema)
