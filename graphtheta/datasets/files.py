"""Table in files of one format, read by ranges of rows in chunks.

A table is one file, or a folder of files in natural order of their names (part-2 before part-10),
on any file system that pyarrow supports: a path, or a URI such as `s3://bucket/edges`. The data
that is read for a range of rows depends on the format:

- Parquet: the requested row groups and columns. Each group is read once per pass, in batches.
- Arrow IPC: the requested record batches, memory-mapped if the file is local.
- CSV: there is no index, so a pass reads the file from its start to the last requested row. Convert
  large tables to another format.
- Pairs of ids (`.npy`, `.bin`; see `graphtheta.datasets.binary_edges`): memory-mapped too.
"""

from __future__ import annotations

import itertools
import logging
import os
import posixpath
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs

from graphtheta.data.batches import regroup_batches
from graphtheta.data.facts import Facts
from graphtheta.data.mapping import Column, natural_key
from graphtheta.data.survey import survey
from graphtheta.datasets.binary_edges import Npy, Raw
from graphtheta.datasets.formats import Csv, Format, Ipc, Parquet, num_lines
from graphtheta.errors import ConfigError, GraphFormatError, GraphThetaError
from graphtheta.wording import some

__all__ = ["SUFFIXES", "TableFiles", "exists", "names_in", "read_bytes", "suffix"]

_log = logging.getLogger(__name__)

SUFFIXES: dict[str, Callable[[fs.FileSystem, str, Sequence[str], bool], Format]] = {
    ".parquet": Parquet,
    ".arrow": Ipc,
    ".feather": Ipc,
    ".ipc": Ipc,
    ".csv": Csv,
    ".tsv": Csv,
    ".txt": Csv,
    ".npy": Npy,
    ".bin": Raw,
}
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
_HASHED_BYTES = 16 << 20


def suffix(path: str) -> str:
    """Return the suffix of a path that names its format, without that of a compression."""
    stem, last = posixpath.splitext(path)
    return posixpath.splitext(stem)[1] if last in _COMPRESSED else last


class TableFiles:
    """Files of one table, as one sequence of rows.

    Args:
        uri: Path or URI of a file or folder, or several of them on one file system.
        unnamed: Names of the first columns of a file that does not name its columns: a CSV file
            without a header line, or pairs of ids. If empty, the file must name them.
        named: Whether the user named columns, so that a text file must have a header line.

    Attributes:
        uri: The path or URI, for messages; of several, the first.
        names: Names of the columns.
        note: How the first line of a text file was read, if it could be read in another way.
        metadata: Metadata of the schema of an Arrow or Parquet file.

    Raises:
        ConfigError: If there is no such file, or its format is unknown.
        GraphFormatError: If the file cannot be read.
    """

    def __init__(
        self, uri: str | Sequence[str], unnamed: Sequence[str] = (), *, named: bool = False
    ) -> None:
        uris = [uri] if isinstance(uri, str) else uri
        self.uri = uri = uris[0]
        found = [_find(one) for one in uris]
        self._system, self._paths = found[0][0], [path for _, paths in found for path in paths]
        kinds = sorted({suffix(path) for path in self._paths})
        if len({SUFFIXES.get(kind) for kind in kinds}) > 1 or kinds[0] not in SUFFIXES:
            raise ConfigError(
                f"{uri}: expected files of one of {', '.join(SUFFIXES)}, got "
                f"{', '.join(kinds) or 'none'}. Convert them, or use a folder of one table."
            )
        make = SUFFIXES[kinds[0]]
        lines = self._num_lines() if make is Csv else [2] * len(self._paths)
        first = self._paths[lines.index(max(lines))]
        with _reading(self._where(first)):
            self._format = make(self._system, first, unnamed, named)
        with_rows = [n > self._format.header_lines for n in lines]
        self._paths = list(itertools.compress(self._paths, with_rows)) or [first]
        self.names = self._format.schema.names
        self.note = self._format.note
        self.metadata: Mapping[bytes, bytes] = self._format.schema.metadata or {}
        if not self._format.text:  # a text has no index that counts its rows: see `survey`
            _ = self._counts  # now, so that a file that shrinks later is noticed

    def _num_lines(self) -> list[int]:
        with _reading(self.uri):
            lines = [num_lines(self._system, path) for path in self._paths]
        blank = [path for path, count in zip(self._paths, lines, strict=True) if not count]
        if blank and any(lines):
            _log.warning("%s: skipped empty files: %s", self.uri, some(blank, len(blank)))
        return lines

    @cached_property
    def _counts(self) -> list[int]:
        counts = []
        for path in self._paths:
            with _reading(self._where(path)):
                counts.append(self._format.count(path))
        return counts

    @property
    def num_rows(self) -> int:
        """Number of rows of all files."""
        return sum(self._counts)

    def survey(
        self, plan: Mapping[str, Column], train: NDArray[np.bool_] | None = None
    ) -> dict[str, Column]:
        """Return a plan of columns with the type of each one, from a pass over all rows if needed.

        Args:
            plan: The columns.
            train: Training rows, as for `graphtheta.data.survey.survey`.

        Raises:
            GraphFormatError: As for `graphtheta.data.survey.survey`, or if a file cannot be read.
        """
        wide = [n for c in plan.values() if c.kind in ("matrix", "weight") for n in c.inputs]
        with _reading(self.uri):
            known = self._format.facts(self._paths, wide)
        try:
            return self._survey(plan, known, train)
        except GraphFormatError as error:
            # A text file whose first rows have another type, such as integers before fractions.
            if not (self._format.text and isinstance(error.__context__, pa.ArrowInvalid)):
                raise
            try:
                self._format.widen(self._paths)
            except (OSError, ValueError, pa.ArrowException):
                raise error from None
        return self._survey(plan, known, train)

    def _survey(
        self,
        plan: Mapping[str, Column],
        known: Mapping[str, Facts],
        train: NDArray[np.bool_] | None,
    ) -> dict[str, Column]:
        counts = []

        def read(types: Mapping[str, pa.DataType | None]) -> Iterator[pa.Table]:
            for path in self._paths:
                rows = 0
                with _reading(self._where(path)):
                    for batch in self._format.stream(path, 0, sys.maxsize, types):
                        rows += batch.num_rows
                        yield pa.table(batch.select(list(types)))
                counts.append(rows)

        schema, text = self._format.schema, self._format.text
        decided = survey(plan, schema, read, self.uri, text, known, train)
        if len(counts) == len(self._paths):
            self._counts = counts
        return decided

    def stream(
        self, start: int, stop: int, types: Mapping[str, pa.DataType | None]
    ) -> Iterator[pa.Table]:
        """Yield rows [start, stop) of some columns, in chunks of `graphtheta.data.batches`.

        Args:
            start: First row.
            stop: Row after the last one.
            types: Columns, and the type as which a text file reads its ids and decimal numbers. If
                None, the type of the values in its first rows.

        Raises:
            GraphFormatError: If a file cannot be read, or lacks a column of the first file.
        """
        chunk = None
        for chunk in regroup_batches(self._batches(start, stop, types)):
            yield chunk
        if chunk is None:
            yield pa.schema([self._format.schema.field(name) for name in types]).empty_table()

    def _batches(
        self, start: int, stop: int, types: Mapping[str, pa.DataType | None]
    ) -> Iterator[pa.RecordBatch]:
        first = 0
        for path, count in zip(self._paths, self._counts, strict=True):
            begin, end = max(start - first, 0), min(stop - first, count)
            if begin < end:
                with _reading(self._where(path)):
                    for batch in self._format.stream(path, begin, end, types):
                        yield batch.select(list(types)).replace_schema_metadata(None)
                        begin += batch.num_rows
                    if begin != end:
                        raise ValueError(f"only {begin:,} of its rows")
            first += count

    def _where(self, path: str) -> str:
        return self.uri if len(self._paths) == 1 else path

    def read(self, names: Sequence[str]) -> pa.Table:
        """Return some columns of all rows.

        Raises:
            GraphFormatError: As for `stream`.
        """
        return pa.concat_tables(self.stream(0, self.num_rows, dict.fromkeys(names)))

    def stamp(self) -> list[tuple[str, int, int]]:
        """Return name, size in bytes and modification time in nanoseconds of each file."""
        with _reading(self.uri):
            return [
                (info.path, info.size or 0, info.mtime_ns or 0)
                for info in self._system.get_file_info(self._paths)
            ]

    def update(self, state: Any) -> None:
        """Update a hash with the bytes of all files."""
        with _reading(self.uri):
            for path in self._paths:
                state.update(posixpath.basename(path).encode())
                with self._system.open_input_stream(path, compression=None) as file:
                    while block := file.read(_HASHED_BYTES):
                        state.update(block)


def exists(uri: str) -> bool:
    """Return whether there is a file or folder at a path or URI."""
    try:
        system, path = _system(uri)
        return bool(system.get_file_info(path).type != fs.FileType.NotFound)
    except (OSError, ValueError):
        return False


def names_in(uri: str) -> list[str]:
    """Return the names in a folder in natural order; none if it is no folder or cannot be read."""
    try:
        system, path = _system(uri)
        if system.get_file_info(path).type != fs.FileType.Directory:
            return []
        found = system.get_file_info(fs.FileSelector(path))
    except (OSError, ValueError):
        return []
    return sorted((info.base_name for info in found), key=natural_key)


def read_bytes(uri: str) -> bytes:
    """Return the content of a small file.

    Raises:
        GraphFormatError: If it cannot be read.
    """
    with _reading(uri):
        system, path = _system(uri)
        with system.open_input_stream(path, compression=None) as file:
            return bytes(file.read())


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
    # Names of files that are not data begin with _ or a dot: _SUCCESS, .part-0.crc.
    paths = [i.path for i in found if i.type == fs.FileType.File and i.base_name[0] not in "_."]
    if not paths:
        raise ConfigError(f"{uri}: expected a file or a folder of files, got none. Check the path.")
    return system, sorted(paths, key=natural_key)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        if isinstance(error, GraphThetaError):
            raise
        raise GraphFormatError(
            f"{where}: expected a readable table, got {_reason(error)}. Write the file again."
        ) from None


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
