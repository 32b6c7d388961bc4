"""Read and write folders of Arrow files, each with a JSON record of sizes and hashes of its files.

A file has the Arrow IPC file format, with one record batch and without compression, so that each
column is contiguous in the mapped file.
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from graphtheta.errors import StoreError
from graphtheta.runtime.atomic import atomic_file

__all__ = [
    "FileRecord",
    "FolderRecord",
    "check_folder",
    "damaged",
    "open_table",
    "read_text",
    "record_digest",
    "write_folder",
    "write_table",
]


# MAP_NORESERVE: reserve no swap space for a mapping, which may be larger than memory. The mmap
# module defines it from Python 3.12 on.
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0


class FileRecord(BaseModel):
    """Size in bytes and hash of one file."""

    model_config = ConfigDict(frozen=True)

    size: int
    xxh3: str


class FolderRecord(BaseModel):
    """Record of a folder: `part.json` of a part, or `bucket.json` of a bucket of the index.

    Attributes:
        part: Index of the part or bucket.
        num_interior: Number of interior masters of a part; None for a bucket.
        files: Size and hash of each file, by name.
    """

    model_config = ConfigDict(frozen=True)

    part: int
    num_interior: int | None = None
    files: dict[str, FileRecord]


def record_digest(text: str) -> str:
    """Return the hash of a record's text. It identifies the content of the folder's files."""
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


def write_folder(
    folder: Path,
    record_name: str,
    tables: Mapping[str, pa.Table],
    *,
    part: int,
    num_interior: int | None = None,
) -> None:
    """Create a folder and write tables and, last, their record into it."""
    folder.mkdir()
    files = {f"{name}.arrow": table for name, table in tables.items()}
    record = FolderRecord(
        part=part,
        num_interior=num_interior,
        files={name: write_table(table, folder / name) for name, table in files.items()},
    )
    text = record.model_dump_json(indent=2, exclude_none=True) + "\n"
    with atomic_file(folder / record_name) as file:
        file.write_text(text)


def write_table(table: pa.Table, path: Path) -> FileRecord:
    """Write a table of one chunk, and return its size and hash."""
    with _HashingFile(path) as sink:
        # A table without rows has no batches: write an empty one.
        batches = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
        assert len(batches) == 1, "the tables of a store have one chunk"
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), table.schema) as writer:
            writer.write_batch(batches[0])
        return FileRecord(size=sink.tell(), xxh3=sink.hexdigest())


def read_text(path: Path) -> str:
    """Return the content of a text file of a store.

    Raises:
        StoreError: If the file is missing or not text.
    """
    try:
        with _opened(path) as file:
            return file.read().decode()
    except UnicodeDecodeError:
        raise damaged(path, "text", "other content") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def check_folder(folder: Path, record_name: str, part: int, names: Collection[str]) -> FolderRecord:
    """Return the record of a folder after checking the sizes of its files.

    Args:
        folder: The folder.
        record_name: Name of the file with the record.
        part: Index of the part or bucket.
        names: Names of the tables, each of which is a file.

    Raises:
        StoreError: If the record is not that of this folder, a file is missing or its size is
            wrong.
    """
    path = folder / record_name
    try:
        record = FolderRecord.model_validate_json(read_text(path))
    except ValidationError:
        raise damaged(path, "a list of files", "other content") from None
    files = {f"{name}.arrow" for name in names}
    if record.part != part or set(record.files) != files:
        raise damaged(path, f"files {', '.join(names)} of {folder.name}", "other files")
    for name, file in record.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise _unreadable(path, error) from None
        if size != file.size:
            raise damaged(path, f"{file.size:,} bytes", f"{size:,}")
    return record


def open_table(path: Path, record: FileRecord | None = None) -> pa.Table:
    """Return the table of a file, memory-mapped.

    Args:
        path: The file.
        record: Hash to compare with that of the file's content. If None, it is not compared.

    Raises:
        StoreError: If the file is missing, not an Arrow file of one record batch, or has another
            hash.
    """
    try:
        content = _mapped(path)
        found = None if record is None else str(xxhash.xxh3_128_hexdigest(content))
        if record is not None and found != record.xxh3:
            raise damaged(path, f"content of hash {record.xxh3}", f"{found}")
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(content)))
        batches = reader.num_record_batches
        table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, ValueError, MemoryError):
        raise damaged(path, "an Arrow file", "other content") from None
    except OSError as error:
        if error.errno is None:  # Arrow's own, not the operating system's
            raise damaged(path, "an Arrow file", "other content") from None
        raise _unreadable(path, error) from None
    if batches != 1:
        raise damaged(path, "one record batch", f"{batches}")
    return table


def _mapped(path: Path) -> mmap.mmap:
    # A private mapping is writable, as torch requires, and writing never changes the file.
    with _opened(path) as file:
        return mmap.mmap(
            file.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )


def _opened(path: Path) -> BinaryIO:
    """Return a file of a store, opened for reading; opening a pipe would wait for a writer."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise damaged(path, "a regular file", "a pipe, device or folder")
    return file


def damaged(path: Path, expected: str, got: str) -> StoreError:
    """Return the error for a file that was changed after the store was written."""
    return StoreError(
        f"{path}: expected {expected}, got {got}. "
        "The file was changed or truncated. Copy or build the store again."
    )


def _unreadable(path: Path, error: OSError) -> StoreError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return StoreError(
            f"{path}: expected a file of the store, got none. Copy or build the store again."
        )
    return StoreError(
        f"{path}: expected a readable file, got {error.strerror or error}. Correct it, or copy or "
        "build the store again."
    )


class _HashingFile:
    """File opened for writing that hashes what is written."""

    closed = False

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._hash = xxhash.xxh3_128()
        self._size = 0

    def __enter__(self) -> _HashingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self._size += len(data)
        self._file.write(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Do nothing: Arrow requires the method, and closing the file flushes it."""

    def close(self) -> None:
        """Do nothing: Arrow requires the method, and `__exit__` closes the file."""

    def hexdigest(self) -> str:
        return str(self._hash.hexdigest())
