"""Fixed-size rows on their way to buckets: as a spill, but of raw records.

An edge that stands in one line of cache is moved and looked up at the cost of one access, and a
bucket's rows are read into one array. Columns of any type go by `graphtheta.partition.ooc.spill`.
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
    """One rank's file of records; to be used in a `with` statement.

    Args:
        folder: An existing folder.
        name: Of the spill.
        rank: Whose file it is.
    """

    def __init__(self, folder: Path, name: str, rank: int) -> None:
        self._path = folder / f"{name}-{rank:05d}.records"
        self._index = ChunkIndex()

    def __enter__(self) -> RecordWriter:
        self._file: BinaryIO = self._path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._index.write(self._path)

    def write(self, rows: NDArray[Any], first: int) -> None:
        """Write a chunk as rows `first` and on of the file. Several threads may do so at once."""
        write_from(rows, self._file.fileno(), first)

    def append(self, chunk: int, starts: NDArray[np.int64]) -> None:
        """Note a chunk, in the order of the file; arguments as of `SpillWriter.append`."""
        self._index.append(chunk, starts)


class RecordReader:
    """What all ranks wrote, by bucket. Threads may read at the same time.

    Args:
        folder: Where the records are.
        name: Of the spill.
        kind: Type of a record.
    """

    def __init__(self, folder: Path, name: str, kind: np.dtype[Any]) -> None:
        self._kind = kind
        self._paths: list[Path] = []
        slices: list[tuple[int, int, int, NDArray[np.int64]]] = []
        for path in sorted(folder.glob(f"{name}-[0-9]*{INDEX}")):
            first = 0
            for chunk, starts in read_index(path):
                slices.append((chunk, len(self._paths), first, starts))
                first += int(starts[-1])
            self._paths.append(path.with_suffix(".records"))
        self._slices = sorted(slices, key=lambda one: one[0])

    def read(self, bucket: int, workspace: ThreadBuffers) -> NDArray[Any]:
        """Return the bucket's rows, in the order of the chunks; valid until the thread's next call.

        Shape:
            (R,) records.
        """
        ranges = list(self._ranges(bucket))
        size = sum(stop - start for _, start, stop in ranges)
        rows, done = workspace.take("records", size, self._kind), 0
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
