"""Formats of table files, one class each, which read the schema and ranges of rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from pyarrow import fs

from graphtheta.data.batches import rows_per_chunk

__all__ = ["Csv", "Format", "Ipc", "Parquet", "open_mapped"]

_CSV_BLOCK_BYTES = 16 << 20
_PARQUET_BUFFER_BYTES = 1 << 20
_TEXT_BYTES = 32  # assumed size of a string, where a dictionary hides its length


class Format(Protocol):
    """Reader of the files of a table, made from a file system, the first path, and column names.

    Attributes:
        schema: Columns of the first file.
    """

    schema: pa.Schema

    def count(self, path: str) -> int:
        """Return the number of rows of a file."""

    def stream(
        self, path: str, start: int, stop: int, names: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows [start, stop) of a file, with at least the named columns.

        Batches of a mapped file may have any size; decoded batches have about the size of a chunk.
        """


def open_mapped(system: fs.FileSystem, path: str) -> pa.NativeFile:
    """Open a file for random access, mapped into memory if it is local."""
    if isinstance(system, fs.LocalFileSystem):
        return pa.memory_map(path)
    return system.open_input_file(path)


class Parquet:
    """Parquet files: row groups that are decoded in batches."""

    def __init__(self, system: fs.FileSystem, path: str, unnamed: Sequence[str]) -> None:
        self._system = system
        with system.open_input_file(path) as file:
            self.schema = pyarrow.parquet.read_schema(file)

    def count(self, path: str) -> int:
        with self._system.open_input_file(path) as file:
            return int(pyarrow.parquet.read_metadata(file).num_rows)

    def stream(
        self, path: str, start: int, stop: int, names: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        with self._system.open_input_file(path) as file:
            # With read-ahead, a column of a whole row group would be in memory.
            parquet = pyarrow.parquet.ParquetFile(
                file, buffer_size=_PARQUET_BUFFER_BYTES, pre_buffer=False
            )
            groups: list[int] = []
            skip, row_bytes, first = 0, 0.0, 0
            for index in range(parquet.num_row_groups):
                group = parquet.metadata.row_group(index)
                if first < stop and start < first + group.num_rows:
                    skip = skip if groups else max(start - first, 0)
                    groups.append(index)
                    row_bytes = max(row_bytes, _decoded_bytes(group, names) / group.num_rows)
                first += group.num_rows
            left = stop - start
            # A batch ends with a small range, so that reading one row decodes one page.
            rows = min(rows_per_chunk(row_bytes), skip + left)
            for batch in parquet.iter_batches(rows, row_groups=groups, columns=list(names)):
                piece = batch.slice(skip, left)
                skip -= min(skip, batch.num_rows)
                left -= piece.num_rows
                if piece.num_rows:
                    yield piece
                if not left:
                    break


def _decoded_bytes(group: pyarrow.parquet.RowGroupMetaData, names: Sequence[str]) -> int:
    size = 0
    for index in range(group.num_columns):
        column = group.column(index)
        path = column.path_in_schema
        if any(path == name or path.startswith(f"{name}.") for name in names):
            value_bytes = {"INT32": 4, "FLOAT": 4, "BYTE_ARRAY": _TEXT_BYTES}
            least = column.num_values * value_bytes.get(column.physical_type, 8)
            size += max(column.total_uncompressed_size, least)
    return size


class Ipc:
    """Arrow IPC files, which include Feather: record batches."""

    def __init__(self, system: fs.FileSystem, path: str, unnamed: Sequence[str]) -> None:
        self._system = system
        with open_mapped(system, path) as file:
            self.schema = pa.ipc.open_file(file).schema

    def count(self, path: str) -> int:
        with open_mapped(self._system, path) as file:
            options = pa.ipc.IpcReadOptions(included_fields=[0])  # batches may be compressed
            reader = pa.ipc.open_file(file, options=options)
            return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))

    def stream(
        self, path: str, start: int, stop: int, names: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        with open_mapped(self._system, path) as file:
            schema = pa.ipc.open_file(file).schema
            fields = [schema.names.index(name) for name in names if name in schema.names]
            options = pa.ipc.IpcReadOptions(included_fields=fields)
            reader = pa.ipc.open_file(file, options=options)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            yield from _within(batches, start, stop)


class Csv:
    """Text files with fields separated by commas, semicolons, tabs or spaces."""

    def __init__(self, system: fs.FileSystem, path: str, unnamed: Sequence[str]) -> None:
        self._system = system
        with system.open_input_stream(path, compression="detect") as file:
            head = file.read(1 << 16).decode("utf-8", "replace").splitlines()
        skip = next((i for i, line in enumerate(head) if line and line[0] != "#"), len(head))
        delimiter, names = _dialect(head[skip : skip + 2], unnamed)
        self._parse = pyarrow.csv.ParseOptions(delimiter=delimiter)
        self._reading = pyarrow.csv.ReadOptions(
            skip_rows=skip, column_names=names, block_size=_CSV_BLOCK_BYTES
        )
        with self._open(path, {}, None) as reader:
            # Decimal numbers in text have no type: read them as float32, the type for training.
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

    def stream(
        self, path: str, start: int, stop: int, names: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        types = {name: self.schema.field(name).type for name in names}
        with self._open(path, types, list(names)) as reader:
            yield from _within(reader, start, stop)


def _within(batches: Iterator[pa.RecordBatch], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    first = 0
    for batch in batches:
        begin, end = max(start - first, 0), min(stop - first, batch.num_rows)
        if begin < end:
            yield batch.slice(begin, end - begin)
        first += batch.num_rows
        if first >= stop:
            break


def _dialect(lines: Sequence[str], unnamed: Sequence[str]) -> tuple[str, list[str] | None]:
    """Return the delimiter, and the names of the columns if the first line does not have them."""
    delimiter = next((d for d in "\t,; " if lines and d in lines[0]), ",")
    rows = [[field.strip().strip('"') for field in line.split(delimiter)] for line in lines]
    if not unnamed or not rows or set(unnamed) <= set(rows[0]):
        return delimiter, None
    # If a word is above a number, the first line contains names; otherwise it is data.
    if len(rows) > 1 and any(
        not _NUMBER.fullmatch(above) and _NUMBER.fullmatch(below)
        for above, below in zip(rows[0], rows[1], strict=False)
    ):
        return delimiter, None
    rest = range(len(unnamed), len(rows[0]))
    return delimiter, [*unnamed, *(f"column_{i}" for i in rest)][: len(rows[0])]


_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")
