"""Folders of Arrow files, each with a JSON record of its files' sizes and hashes.

A file is Arrow's IPC file format, one record batch, no compression: each column is one stretch of
memory of the mapped file.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from graphtheta.errors import StoreError
from graphtheta.partition.store.part import PartTables

__all__ = [
    "FileRecord",
    "FolderRecord",
    "check_folder",
    "damaged",
    "open_table",
    "part_digest",
    "read_text",
    "record_digest",
    "verify_folder",
    "write_folder",
    "write_table",
]


# A mapping larger than memory is no promise to write all of it. Python names it from 3.12 on.
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0


class FileRecord(BaseModel):
    """Size in bytes and hash of one file."""

    model_config = ConfigDict(frozen=True)

    size: int
    xxh3: str


class FolderRecord(BaseModel):
    """What a folder holds: `part.json` of a part, `bucket.json` of a bucket of the index.

    Attributes:
        part: Index of the part or bucket.
        num_interior: Interior masters of a part; None for a bucket.
        files: The files by name.
    """

    model_config = ConfigDict(frozen=True)

    part: int
    num_interior: int | None = None
    files: dict[str, FileRecord]

    def text(self) -> str:
        """Return the record as it is written."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"


def part_digest(part: PartTables) -> str:
    """Return the hash of a part's content: that of its `part.json`, written or not."""
    files = {f"{name}.arrow": write_table(table, None) for name, table in part.tables().items()}
    return record_digest(
        FolderRecord(part=part.part, num_interior=part.num_interior, files=files).text()
    )


def record_digest(text: str) -> str:
    """Return the hash of a folder's record, which stands for the content of its files."""
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


def write_folder(
    folder: Path,
    record_name: str,
    tables: Mapping[str, pa.Table],
    *,
    part: int,
    num_interior: int | None = None,
) -> None:
    """Write tables and their record into a new folder."""
    folder.mkdir()
    files = {f"{name}.arrow": table for name, table in tables.items()}
    record = FolderRecord(
        part=part,
        num_interior=num_interior,
        files={name: write_table(table, folder / name) for name, table in files.items()},
    )
    (folder / record_name).write_text(record.text())


def write_table(table: pa.Table, path: Path | None) -> FileRecord:
    """Write a table of one chunk and return its record; without a path only compute that."""
    with _Hashing(path) as sink:
        # A table without rows has no batch of its own.
        batches = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
        assert len(batches) == 1, "a store's tables are of one chunk"
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), table.schema) as writer:
            writer.write_batch(batches[0])
        return FileRecord(size=sink.tell(), xxh3=sink.hexdigest())


def read_text(path: Path) -> str:
    """Return the text of a file of a store.

    Raises:
        StoreError: If it is missing or not text.
    """
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path) from None
    except UnicodeDecodeError:
        raise damaged(path, "text", "something else") from None


def check_folder(folder: Path, record_name: str) -> FolderRecord:
    """Return a folder's record after comparing its files' sizes.

    Raises:
        StoreError: If a file is missing or of another size.
    """
    path = folder / record_name
    try:
        record = FolderRecord.model_validate_json(read_text(path))
    except ValidationError:
        raise damaged(path, "a list of files", "something else") from None
    for name, file in record.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise _missing(path) from None
        if size != file.size:
            raise damaged(path, f"{file.size:,} bytes", f"{size:,}")
    return record


def open_table(path: Path) -> pa.Table:
    """Return a file's table, memory-mapped.

    Raises:
        StoreError: If the file is missing or not an Arrow file of one record batch.
    """
    try:
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(_mapped(path))))
        batches = reader.num_record_batches
        table = reader.read_all()
    except FileNotFoundError:
        raise _missing(path) from None
    except (pa.ArrowException, OSError, ValueError):
        raise damaged(path, "an Arrow file", "something else") from None
    if batches != 1:
        raise damaged(path, "one record batch", f"{batches}")
    return table


def _mapped(path: Path) -> mmap.mmap:
    # Private: tensors over a column may be written to, and the file still never changes.
    with path.open("rb") as file:
        return mmap.mmap(
            file.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )


def verify_folder(folder: Path, record_name: str) -> str:
    """Hash the files of a folder and return the digest of its record.

    Raises:
        StoreError: If a file is missing or its content is not what was written.
    """
    for name, file in check_folder(folder, record_name).files.items():
        found = _hash_file(folder / name)
        if found != file.xxh3:
            raise damaged(folder / name, f"content of hash {file.xxh3}", found)
    return record_digest(read_text(folder / record_name))


def damaged(path: Path, expected: str, got: str) -> StoreError:
    """Return the error of a file that is not what it was when the store was written."""
    return StoreError(
        f"{path}: expected {expected}, got {got}. "
        "The file was altered or cut short; copy or build the store again."
    )


def _missing(path: Path) -> StoreError:
    return StoreError(
        f"{path}: expected a file of the store, got none. Copy or build the store again."
    )


def _hash_file(path: Path) -> str:
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            hasher.update(piece)
    return str(hasher.hexdigest())


class _Hashing:
    """A file to write to that hashes what passes; without a path it only hashes."""

    closed = False

    def __init__(self, path: Path | None) -> None:
        self._file: BinaryIO | None = path.open("wb") if path else None
        self._hash = xxhash.xxh3_128()
        self._size = 0

    def __enter__(self) -> _Hashing:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self._size += len(data)
        if self._file:
            self._file.write(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Arrow asks for it; closing the file does it."""

    def close(self) -> None:
        """Arrow asks for it; `__exit__` does it."""

    def hexdigest(self) -> str:
        return str(self._hash.hexdigest())
