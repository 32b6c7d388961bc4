"""Formats of table files, one class each, which read the schema and ranges of rows."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from pyarrow import fs

from graphtheta.data.batches import rows_per_chunk
from graphtheta.data.facts import Facts
from graphtheta.data.schema import is_text, refuse
from graphtheta.datasets.header import read_header

__all__ = ["Csv", "Format", "Ipc", "Parquet", "Typed", "Types", "num_lines", "open_mapped"]

_CSV_BLOCK_BYTES = 16 << 20
_CSV_OPTIONS = pyarrow.csv.ConvertOptions()
_CSV_TYPES = (pa.int64(), pa.bool_(), pa.float64(), pa.string())  # the first that holds all rows
_HEAD_BYTES = 1 << 16  # of a text, for its header line
_MAGIC = {  # first bytes of what is not text in UTF-8, and the suffix of compressed files
    b"\x1f\x8b": ("gzip data", ".gz"),
    b"BZh91AY&SY": ("bzip2 data", ".bz2"),
    b"\x28\xb5\x2f\xfd": ("Zstandard data", ".zst"),
    b"\x04\x22\x4d\x18": ("LZ4 data", ".lz4"),
    b"\xff\xfe": ("UTF-16", ""),
    b"\xfe\xff": ("UTF-16", ""),
}
_PARQUET_BUFFER_BYTES = 1 << 20
_TEXT_BYTES = 32  # assumed size of a string, where a dictionary hides its length


Types = Mapping[str, pa.DataType | None]


class Format(Protocol):
    """Reader of the files of a table.

    It is made from a file system, the first path, the names of the first columns of a file that
    does not name them, and whether the user named columns.

    Attributes:
        schema: Columns of the first file.
        text: Whether the files are text, in which ids and decimal numbers have no types.
        header_lines: Lines at the beginning of each text that are not rows, except comments.
        note: How the first line of a text was read, if it could be read in another way.
    """

    schema: pa.Schema
    text: bool
    header_lines: int
    note: str

    def widen(self, paths: Sequence[str]) -> None:
        """Choose types in `schema` that hold all rows of some text files, not only the first."""

    def facts(self, paths: Sequence[str], names: Sequence[str]) -> dict[str, Facts]:
        """Return the ranges of columns that are recorded in the files."""

    def count(self, path: str) -> int:
        """Return the number of rows of a file."""

    def stream(self, path: str, start: int, stop: int, types: Types) -> Iterator[pa.RecordBatch]:
        """Yield rows [start, stop) of a file, with at least the named columns.

        Batches of a mapped file may have any size; decoded batches have about the size of a chunk.

        Args:
            path: The file.
            start: First row.
            stop: Row after the last one; may be after the end of the file.
            types: Columns. A text has its ids and decimal numbers read as these types.
        """


class Typed:
    """What formats have in common whose columns have types, and which record no ranges."""

    text = False
    header_lines = 0
    note = ""

    def widen(self, paths: Sequence[str]) -> None:
        raise AssertionError("the types of these files are those of the first one")

    def facts(self, paths: Sequence[str], names: Sequence[str]) -> dict[str, Facts]:
        return {}


def open_mapped(system: fs.FileSystem, path: str) -> pa.NativeFile:
    """Open a file for random access, mapped into memory if it is local."""
    if isinstance(system, fs.LocalFileSystem):
        return pa.memory_map(path)
    return system.open_input_file(path)


class Parquet(Typed):
    """Parquet files: row groups that are decoded in batches."""

    def __init__(
        self, system: fs.FileSystem, path: str, unnamed: Sequence[str], named: bool
    ) -> None:
        self._system = system
        with system.open_input_file(path) as file:
            self.schema = pyarrow.parquet.read_schema(file)

    def count(self, path: str) -> int:
        with self._system.open_input_file(path) as file:
            return int(pyarrow.parquet.read_metadata(file).num_rows)

    def facts(self, paths: Sequence[str], names: Sequence[str]) -> dict[str, Facts]:
        found = {
            name: Facts(self.schema.field(name).type)
            for name in names
            if pa.types.is_integer(self.schema.field(name).type)
        }
        for path in paths if found else ():
            with self._system.open_input_file(path) as file:
                metadata = pyarrow.parquet.read_metadata(file)
            positions = {metadata.schema.column(i).path: i for i in range(metadata.num_columns)}
            for name in list(found):
                for group in range(metadata.num_row_groups):
                    column = metadata.row_group(group).column(positions[name])
                    known = column.statistics
                    if known is None or not known.has_min_max:
                        found.pop(name, None)
                    elif name in found:
                        found[name].widen(known.min, known.max)
        return found

    def stream(self, path: str, start: int, stop: int, types: Types) -> Iterator[pa.RecordBatch]:
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
                    row_bytes = max(row_bytes, _decoded_bytes(group, types) / group.num_rows)
                first += group.num_rows
            left = min(stop, first) - start
            if left <= 0:
                return
            # A batch ends with a small range, so that reading one row decodes one page.
            rows = min(rows_per_chunk(row_bytes), skip + left)
            for batch in parquet.iter_batches(rows, row_groups=groups, columns=list(types)):
                piece = batch.slice(skip, left)
                skip -= min(skip, batch.num_rows)
                left -= piece.num_rows
                if piece.num_rows:
                    yield piece
                if not left:
                    break


def _decoded_bytes(group: pyarrow.parquet.RowGroupMetaData, names: Iterable[str]) -> int:
    size, wanted = 0, frozenset(names)
    for index in range(group.num_columns):
        column = group.column(index)
        steps = column.path_in_schema.split(".")  # values of a list are at name.list.element
        if any(".".join(steps[:end]) in wanted for end in range(1, len(steps) + 1)):
            value_bytes = {"INT32": 4, "FLOAT": 4, "BYTE_ARRAY": _TEXT_BYTES}
            least = column.num_values * value_bytes.get(column.physical_type, 8)
            size += max(column.total_uncompressed_size, least)
    return size


class Ipc(Typed):
    """Arrow IPC files, which include Feather: record batches."""

    def __init__(
        self, system: fs.FileSystem, path: str, unnamed: Sequence[str], named: bool
    ) -> None:
        self._system = system
        with open_mapped(system, path) as file:
            self.schema = pa.ipc.open_file(file).schema

    def count(self, path: str) -> int:
        with open_mapped(self._system, path) as file:
            options = pa.ipc.IpcReadOptions(included_fields=[0])  # batches may be compressed
            reader = pa.ipc.open_file(file, options=options)
            return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))

    def stream(self, path: str, start: int, stop: int, types: Types) -> Iterator[pa.RecordBatch]:
        with open_mapped(self._system, path) as file:
            schema = pa.ipc.open_file(file).schema
            positions = {name: position for position, name in enumerate(schema.names)}
            fields = [positions[name] for name in types if name in positions]
            options = pa.ipc.IpcReadOptions(included_fields=fields)
            reader = pa.ipc.open_file(file, options=options)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            yield from _within(batches, start, stop)


def num_lines(system: fs.FileSystem, path: str) -> int:
    """Return how many lines a text file has that are not blank or a comment: 0, 1 or 2 for more."""
    if (system.get_file_info(path).size or 0) > _HEAD_BYTES:
        return 2
    with system.open_input_stream(path, compression="detect") as file:
        text: str = file.read(_HEAD_BYTES).decode("utf-8", "replace").removeprefix("\ufeff")
    return min(2, sum(bool(line.strip()) and line[0] != "#" for line in text.splitlines()))


class Csv:
    """Text files with fields separated by commas, semicolons, tabs or spaces.

    Attributes:
        header_lines: 1 if each file begins with a line that names its columns, otherwise 0.
    """

    text = True

    def __init__(
        self, system: fs.FileSystem, path: str, unnamed: Sequence[str], named: bool
    ) -> None:
        self._system = system
        with system.open_input_stream(path, compression="detect") as file:
            start = file.read(_HEAD_BYTES)
        _check_text(path, start)
        head = start.decode("utf-8", "replace")
        header = read_header(head, unnamed, named=named)
        self.note = header.note
        self.header_lines = int(header.names is None)
        # Arrow refuses a header line alone, without a line break.
        self._only_line = head if len(head.splitlines()) == 1 and self.header_lines else ""
        self._parse = pyarrow.csv.ParseOptions(delimiter=header.delimiter)
        self._reading = pyarrow.csv.ReadOptions(
            skip_rows=header.skip, column_names=header.names, block_size=_CSV_BLOCK_BYTES
        )
        with self._open(path, {}, None) as reader:
            self.schema = reader.schema

    def widen(self, paths: Sequence[str]) -> None:
        # Arrow chooses the type of a column by the first block of the first file.
        candidates = {f.name: [f.type, *_CSV_TYPES] for f in self.schema}
        for name in {name for name in candidates if self.schema.names.count(name) > 1}:
            del candidates[name]  # not read
        texts = dict.fromkeys(candidates, pa.string())
        for path in paths:
            with self._open(path, texts, list(candidates)) as reader:
                for batch in reader:
                    for name, types in candidates.items():
                        types[:] = [t for t in types if _holds(batch[name], t)]
        fields = [pa.field(name, types[0]) for name, types in candidates.items()]
        self.schema = pa.schema(fields)

    def facts(self, paths: Sequence[str], names: Sequence[str]) -> dict[str, Facts]:
        return {}

    def _open(
        self, path: str, types: Types, names: Sequence[str] | None
    ) -> pyarrow.csv.CSVStreamingReader:
        if self._only_line:
            stream: Any = pa.BufferReader(f"{self._only_line}\n".encode())
        else:
            stream = self._system.open_input_stream(path, compression="detect")
        return pyarrow.csv.open_csv(
            stream,
            read_options=self._reading,
            parse_options=self._parse,
            convert_options=pyarrow.csv.ConvertOptions(column_types=types, include_columns=names),
        )

    def count(self, path: str) -> int:
        name = self.schema.names[0]
        with self._open(path, {name: pa.string()}, [name]) as reader:
            return sum(batch.num_rows for batch in reader)

    def stream(self, path: str, start: int, stop: int, types: Types) -> Iterator[pa.RecordBatch]:
        inferred = {name: self.schema.field(name).type for name in types}
        chosen = {
            name: inferred[name] if kind is None or _is_precise(inferred[name], kind) else kind
            for name, kind in types.items()
        }
        with self._open(path, chosen, list(types)) as reader:
            for batch in _within(reader, start, stop):
                yield _trimmed(batch, types)


def _check_text(path: str, start: bytes) -> None:
    """Raise a GraphFormatError if the beginning of a file is not text in UTF-8."""
    expected, name = "text in UTF-8", posixpath.basename(path)
    for magic, (got, ending) in _MAGIC.items():
        if start.startswith(magic):
            remedy = f"Rename it to {name}{ending}." if ending else "Convert it to UTF-8."
            raise refuse(path, expected, got, remedy)
    if b"\0" in start:
        raise refuse(path, expected, "zero bytes, as in UTF-16 or a binary file", "Convert it.")
    try:
        start.partition(b"\n")[0].decode()
    except UnicodeDecodeError as error:
        if error.end < len(start):  # otherwise a character may continue after the beginning
            got = f"a first line that is not UTF-8 (byte {start[error.start]:#x})"
            raise refuse(path, expected, got, "Convert it, for example from Latin-1.") from None


def _holds(texts: pa.Array, kind: pa.DataType) -> bool:
    """Return whether fields of a text file can be read as values of a type."""
    if is_text(kind):
        return True
    texts = pc.utf8_trim_whitespace(texts)
    texts = texts.filter(pc.invert(pc.is_in(texts, pa.array(_CSV_OPTIONS.null_values))))
    if pa.types.is_null(kind):
        return not len(texts)
    if pa.types.is_boolean(kind):
        known = pa.array([*_CSV_OPTIONS.true_values, *_CSV_OPTIONS.false_values])
        return bool(pc.all(pc.is_in(texts, known)).as_py() is not False)
    try:
        texts.cast(kind)
    except pa.ArrowException:
        return False
    return True


def _is_precise(inferred: pa.DataType, wanted: pa.DataType) -> bool:
    # Integers are not parsed as floating-point numbers, which would round them without a word, and
    # "true" is not parsed as a number.
    is_precise = pa.types.is_integer(inferred) or pa.types.is_boolean(inferred)
    return bool(is_precise and pa.types.is_floating(wanted))


def _trimmed(batch: pa.RecordBatch, types: Types) -> pa.RecordBatch:
    """Return a batch in which empty texts are null, and ids have no surrounding spaces."""
    columns = batch.columns
    for index, kind in enumerate(types.values()):
        texts = columns[index]
        if pa.types.is_binary(texts.type):  # what Arrow reads other encodings as
            raise ValueError(f"text that is not UTF-8 in the column {batch.schema.names[index]!r}")
        if pa.types.is_string(texts.type):
            texts = texts if kind is None else pc.utf8_trim_whitespace(texts)
            columns[index] = pc.if_else(pc.equal(texts, ""), None, texts)
    return pa.record_batch(columns, names=list(types))


def _within(batches: Iterator[pa.RecordBatch], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    first = 0
    for batch in batches:
        begin, end = max(start - first, 0), min(stop - first, batch.num_rows)
        if begin < end:
            yield batch.slice(begin, end - begin)
        first += batch.num_rows
        if first >= stop:
            break
