"""A table in Parquet, Arrow IPC or CSV files, read by ranges of rows.

A table is one file, or a folder of files in natural order of their names (part-2 before part-10),
on any file system pyarrow knows: a path, or a URI such as `s3://bucket/edges`. Of Parquet only the
row groups and columns that are asked for are read, of Arrow IPC only the batches. CSV has no index:
every reader scans it up to its rows, so convert large tables.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from pyarrow import fs

from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.shaping import natural_key

__all__ = ["SUFFIXES", "TableFiles", "exists", "suffix"]

SUFFIXES = {
    ".parquet": "parquet",
    ".arrow": "ipc",
    ".feather": "ipc",
    ".ipc": "ipc",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
}
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
_BLOCK_BYTES = 16 << 20


def suffix(path: str) -> str:
    """Return the suffix of a path that says its format; that of a compression does not."""
    stem, last = posixpath.splitext(path)
    return posixpath.splitext(stem)[1] if last in _COMPRESSED else last


class TableFiles:
    """The files of one table, as one sequence of rows.

    Args:
        uri: A path or URI of a file or folder.
        unnamed: Names of the first columns of a CSV file without a header line; empty: it has one.

    Attributes:
        uri: As given, for messages.
        names: Names of the columns.
        num_rows: Rows of all files.

    Raises:
        ConfigError: If there is no such file, or it is of no known format.
        GraphFormatError: If it cannot be read.
    """

    def __init__(self, uri: str, unnamed: Sequence[str] = ()) -> None:
        self.uri = uri
        self._system, self._paths = _find(uri)
        kinds = sorted({suffix(path) for path in self._paths})
        if len(kinds) > 1 or kinds[0] not in SUFFIXES:
            raise ConfigError(
                f"{uri}: expected files of one of {', '.join(SUFFIXES)}, got "
                f"{', '.join(kinds) or 'none'}. Convert them, or give the table's own folder."
            )
        with _reading(uri):
            open_format = _FORMATS[SUFFIXES[kinds[0]]]
            self._format = open_format(self._system, self._paths[0], unnamed)
            self._counts = [self._format.count(path) for path in self._paths]
        self.names = self._format.schema.names
        self.num_rows = sum(self._counts)

    def rows(self, start: int, stop: int, names: Sequence[str]) -> pa.Table:
        """Return rows [start, stop) of the named columns.

        Raises:
            GraphFormatError: If a file cannot be read, or lacks a column the first file has.
        """
        fields = [self._format.schema.field(name) for name in names]
        parts = [pa.schema(fields).empty_table()]
        first = 0
        with _reading(self.uri):
            for path, count in zip(self._paths, self._counts, strict=True):
                begin, end = max(start - first, 0), min(stop - first, count)
                if begin < end:
                    part = self._format.read(path, begin, end, names)
                    parts.append(part.select(list(names)).replace_schema_metadata(None))
                first += count
            return pa.concat_tables(parts[1:] or parts)

    def update(self, state: Any) -> None:
        """Feed the files' bytes to a hash."""
        with _reading(self.uri):
            for path in self._paths:
                state.update(posixpath.basename(path).encode())
                with self._system.open_input_stream(path, compression=None) as file:
                    while block := file.read(_BLOCK_BYTES):
                        state.update(block)


def exists(uri: str) -> bool:
    """Return whether there is a file or folder at a path or URI."""
    try:
        system, path = _system(uri)
        return bool(system.get_file_info(path).type != fs.FileType.NotFound)
    except (OSError, ValueError):
        return False


def _system(uri: str) -> tuple[fs.FileSystem, str]:
    if "://" in uri:
        system, path = fs.FileSystem.from_uri(uri)
        return system, path
    return fs.LocalFileSystem(), os.path.abspath(uri)


def _find(uri: str) -> tuple[fs.FileSystem, list[str]]:
    try:
        system, path = _system(uri)
        info = system.get_file_info(path)
        folder = info.type == fs.FileType.Directory
        found = system.get_file_info(fs.FileSelector(path, recursive=True)) if folder else []
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{uri}: expected a path or URI of files, got {_reason(error)}. Correct it."
        ) from None
    if info.type == fs.FileType.File:
        return system, [path]
    # A leading _ or . marks what writers leave beside the data: _SUCCESS, .part-0.crc.
    paths = [i.path for i in found if i.type == fs.FileType.File and i.base_name[0] not in "_."]
    if not paths:
        raise ConfigError(f"{uri}: expected a file or a folder of files, got none. Check the path.")
    return system, sorted(paths, key=natural_key)


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        if isinstance(error, GraphFormatError):
            raise
        raise GraphFormatError(
            f"{uri}: expected a readable table, got {_reason(error)}. Write the file again."
        ) from None


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


# One class a format


class _Format(Protocol):
    schema: pa.Schema

    def count(self, path: str) -> int: ...
    def read(self, path: str, start: int, stop: int, names: Sequence[str]) -> pa.Table: ...


class _Parquet:
    def __init__(self, system: fs.FileSystem, path: str, unnamed: Sequence[str]) -> None:
        self._system = system
        with system.open_input_file(path) as file:
            self.schema = pyarrow.parquet.read_schema(file)

    def count(self, path: str) -> int:
        with self._system.open_input_file(path) as file:
            return int(pyarrow.parquet.read_metadata(file).num_rows)

    def read(self, path: str, start: int, stop: int, names: Sequence[str]) -> pa.Table:
        with self._system.open_input_file(path) as file:
            parquet = pyarrow.parquet.ParquetFile(file)
            parts, first = [], 0
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                begin, end = max(start - first, 0), min(stop - first, rows)
                if begin < end:
                    table = parquet.read_row_group(group, list(names))
                    parts.append(table.slice(begin, end - begin))
                first += rows
        return pa.concat_tables(parts)


class _Ipc:
    def __init__(self, system: fs.FileSystem, path: str, unnamed: Sequence[str]) -> None:
        self._system = system
        with self._open(path) as file:
            self.schema = pa.ipc.open_file(file).schema

    def _open(self, path: str) -> pa.NativeFile:
        if isinstance(self._system, fs.LocalFileSystem):
            return pa.memory_map(path)
        return self._system.open_input_file(path)

    def count(self, path: str) -> int:
        with self._open(path) as file:
            reader = pa.ipc.open_file(file)
            return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))

    def read(self, path: str, start: int, stop: int, names: Sequence[str]) -> pa.Table:
        parts, first = [], 0
        with self._open(path) as file:
            reader = pa.ipc.open_file(file)
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index).select(list(names))
                begin, end = max(start - first, 0), min(stop - first, batch.num_rows)
                if begin < end:
                    parts.append(batch.slice(begin, end - begin))
                first += batch.num_rows
        return pa.Table.from_batches(parts)


class _Csv:
    def __init__(self, system: fs.FileSystem, path: str, unnamed: Sequence[str]) -> None:
        self._system = system
        with system.open_input_stream(path, compression="detect") as file:
            head = file.read(1 << 16).decode("utf-8", "replace").splitlines()
        skip = next((i for i, line in enumerate(head) if line and line[0] != "#"), len(head))
        delimiter, names = _dialect(head[skip : skip + 2], unnamed)
        self._parse = pyarrow.csv.ParseOptions(delimiter=delimiter)
        self._reading = pyarrow.csv.ReadOptions(
            skip_rows=skip, column_names=names, block_size=_BLOCK_BYTES
        )
        with self._open(path, {}, None) as reader:
            # A decimal in text has no width: float32, what networks are trained in.
            self.schema = pa.schema(
                [f.with_type(pa.float32()) if f.type == pa.float64() else f for f in reader.schema]
            )

    def _open(
        self, path: str, types: dict[str, pa.DataType], names: Sequence[str] | None
    ) -> pyarrow.csv.CSVStreamingReader:
        return pyarrow.csv.open_csv(
            self._system.open_input_stream(path, compression="detect"),
            read_options=self._reading,
            parse_options=self._parse,
            convert_options=pyarrow.csv.ConvertOptions(column_types=types, include_columns=names),
        )

    def count(self, path: str) -> int:
        name = self.schema.names[0]
        with self._open(path, {name: self.schema.field(name).type}, [name]) as reader:
            return sum(batch.num_rows for batch in reader)

    def read(self, path: str, start: int, stop: int, names: Sequence[str]) -> pa.Table:
        types = {name: self.schema.field(name).type for name in names}
        parts, first = [], 0
        with self._open(path, types, list(names)) as reader:
            for batch in reader:
                begin, end = max(start - first, 0), min(stop - first, batch.num_rows)
                if begin < end:
                    parts.append(batch.slice(begin, end - begin))
                first += batch.num_rows
                if first >= stop:
                    break
        return pa.Table.from_batches(parts)


def _dialect(lines: Sequence[str], unnamed: Sequence[str]) -> tuple[str, list[str] | None]:
    """Return the delimiter, and the columns' names if the first line does not hold them."""
    delimiter = next((d for d in "\t,; " if lines and d in lines[0]), ",")
    rows = [[field.strip().strip('"') for field in line.split(delimiter)] for line in lines]
    if not unnamed or not rows or set(unnamed) <= set(rows[0]):
        return delimiter, None
    # Words above numbers are names; the other way round, or alike, the first line is data.
    if len(rows) > 1 and any(
        not _NUMBER.fullmatch(above) and _NUMBER.fullmatch(below)
        for above, below in zip(rows[0], rows[1], strict=False)
    ):
        return delimiter, None
    rest = range(len(unnamed), len(rows[0]))
    return delimiter, [*unnamed, *(f"column_{i}" for i in rest)][: len(rows[0])]


_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")
_FORMATS: dict[str, Callable[[fs.FileSystem, str, Sequence[str]], _Format]] = {
    "parquet": _Parquet,
    "ipc": _Ipc,
    "csv": _Csv,
}
