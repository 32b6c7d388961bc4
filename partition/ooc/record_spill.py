"""Spill of fixed-size records: rows that are written to files and read back by bucket.

A record lies within one cache line, so that moving or reading it costs one memory access, and the
rows of a bucket are read into one array. For columns of any type see
`graphtheta.partition.ooc.spill`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.ooc.edge_file import read_into, write_from
from graphtheta.partition.ooc.spill import INDEX, ChunkIndex, read_index
from graphtheta.partition.ooc.thread_buffers import ThreadBuffers

__all__ = ["RecordReader", "RecordWriter"]


class RecordWriter:
    """Writer of one rank's file of records; a context manager.

    Args:
        folder: An existing folder.
        name: Name of the spill.
        rank: Rank that writes the file.
    """

    def __init__(self, folder: Path, name: str, rank: int) -> None:
        self._path = folder / f"{name}-{rank:05d}.records"
        self._index = ChunkIndex()

    def __enter__(self) -> RecordWriter:
        self._file: BinaryIO = self._path.open("wb")
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if error is None:
            self._index.write(self._path)

    def write(self, rows: NDArray[Any], first: int) -> None:
        """Write a chunk into the file, from row `first` on. Threads may write in parallel."""
        write_from(rows, self._file.fileno(), first)

    def append(self, chunk: int, starts: NDArray[np.int64]) -> None:
        """Add the next chunk of the file to the index; arguments as in `SpillWriter.append`."""
        self._index.append(chunk, starts)


class RecordReader:
    """Reader of the records of all ranks, by bucket. Threads may read in parallel.

    Args:
        folder: Folder of the spill.
        name: Name of the spill.
        dtype: Type of a record.
    """

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._paths: list[Path] = []
        slices: list[tuple[int, int, int, NDArray[np.int64]]] = []
        for path in sorted(folder.glob(f"{name}-[0-9]*{INDEX}")):
            first = 0
            for chunk, starts in read_index(path):
                slices.append((chunk, len(self._paths), first, starts))
                first += int(starts[-1])
            self._paths.append(path.with_suffix(".records"))
        self._slices = sorted(slices, key=lambda chunk: chunk[0])

    def read(self, bucket: int, buffers: ThreadBuffers) -> NDArray[Any]:
        """Return the rows of a bucket in the order of the chunks.

        They are in the buffer "records" of `buffers`: the thread's next call overwrites them.

        Shape:
            (R,) records.
        """
        ranges = list(self._ranges(bucket))
        size = sum(stop - start for _, start, stop in ranges)
        rows, done = buffers.take("records", size, self._dtype), 0
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("rb")) for path in self._paths]
            for file, start, stop in ranges:
                read_into(rows[done : done + stop - start], files[file], start)
                done += stop - start
        return rows

    def remove(self) -> None:
        """Delete the files."""
        for path in self._paths:
            path.unlink(missing_ok=True)
            path.with_suffix(INDEX).unlink(missing_ok=True)

    def _ranges(self, bucket: int) -> Iterator[tuple[int, int, int]]:
        for _, file, first, starts in self._slices:
            start, stop = starts[bucket : bucket + 2].tolist()
            if start < stop:
                yield file, first + start, first + stop
