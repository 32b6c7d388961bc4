"""Spill: rows that are written to files in chunks and read back by bucket.

A spill does the work of a shuffle between ranks through a file system that all ranks see. A rank
sorts each of its chunks by bucket and appends it to one Arrow IPC file, as one record batch, so
that writes are sequential for any number of buckets. A reader maps the slices of its bucket. The
rows of a bucket come back in the order of the chunk numbers, for any assignment of chunks to ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.partition.core.intrinsics import jit
from graphtheta.partition.ooc.array_file import read_arrays, write_arrays

__all__ = [
    "INDEX",
    "ChunkIndex",
    "SpillReader",
    "SpillWriter",
    "bucket_order",
    "read_index",
]

INDEX = ".index"


def bucket_order(
    bucket_R: NDArray[np.integer[Any]], num_buckets: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the stable order of rows by bucket, and the position of each bucket's first row.

    Shape:
        bucket_R: (R,) in [0, B), R < 2^31. Returns (R,) int32 and (B + 1,) int64.
    """
    starts = np.zeros(num_buckets + 1, np.int64)
    order = np.empty(bucket_R.shape[0], np.int32)
    _bucket_order(bucket_R, starts, order)
    return order, starts


class ChunkIndex:
    """Index of a file of a spill: its chunks, and where the rows of each bucket start in them."""

    def __init__(self) -> None:
        self._chunks: list[int] = []
        self._starts: list[NDArray[np.int64]] = []

    def append(self, chunk: int, starts: NDArray[np.int64]) -> None:
        """Add the next chunk of the file; arguments as in `SpillWriter.append`."""
        self._chunks.append(chunk)
        self._starts.append(starts)

    def write(self, path: Path) -> None:
        """Write the index of the file `path` next to it, unless the file has no chunk."""
        if self._chunks:
            chunk, starts = np.array(self._chunks), np.stack(self._starts)
            write_arrays(path.with_suffix(INDEX), chunk=chunk, starts=starts)


def read_index(path: Path) -> list[tuple[int, NDArray[np.int64]]]:
    """Return (chunk, starts) of each chunk of the file `path`, in the order of the file.

    Shape:
        starts: (B + 1,) int64, as returned by `bucket_order`.
    """
    index = read_arrays(path.with_suffix(INDEX))
    return list(zip(index["chunk"].tolist(), index["starts"], strict=True))


class SpillWriter:
    """Writer of one rank's file of a spill; a context manager. Without chunks it writes no file.

    Args:
        folder: An existing folder.
        name: Name of the spill.
        rank: Rank that writes the file.
    """

    def __init__(self, folder: Path, name: str, rank: int) -> None:
        self._path = folder / f"{name}-{rank:05d}.arrow"
        self._sink: pa.OSFile | None = None
        self._writer: pa.RecordBatchFileWriter | None = None
        self._index = ChunkIndex()

    def append(self, chunk: int, rows: pa.RecordBatch, starts: NDArray[np.int64]) -> None:
        """Write a chunk.

        Args:
            chunk: Number of the chunk, unique among all ranks. Readers return chunks in ascending
                order.
            rows: The rows, sorted by bucket, with the same schema for all chunks.
            starts: Position of the first row of each bucket, as returned by `bucket_order`.
        """
        if self._writer is None:
            self._sink = pa.OSFile(str(self._path), "wb")
            self._writer = pa.ipc.new_file(self._sink, rows.schema)
        self._writer.write_batch(rows)
        self._index.append(chunk, starts)

    def __enter__(self) -> SpillWriter:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Close the file, and write its footer and index unless the block failed."""
        if self._writer is None or self._sink is None:
            return
        with self._sink:
            if error is None:
                self._writer.close()
        if error is None:
            self._index.write(self._path)


class SpillReader:
    """Reader of the rows of all ranks, by bucket. Threads may read in parallel.

    Args:
        folder: Folder of the spill.
        name: Name of the spill.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = sorted(folder.glob(f"{name}-[0-9]*.arrow"))
        chunks = [
            (chunk, file, batch, starts)
            for file, path in enumerate(self._paths)
            for batch, (chunk, starts) in enumerate(read_index(path))
        ]
        self._chunks = sorted(chunks, key=lambda chunk: chunk[0])

    def read(
        self, bucket: int, columns: Sequence[str] | None = None
    ) -> list[tuple[int, pa.RecordBatch]]:
        """Return (chunk, rows) of each chunk that has rows of the bucket, memory-mapped.

        Args:
            bucket: The bucket.
            columns: Columns to return. If None, all of them.
        """
        readers = [pa.ipc.open_file(pa.memory_map(str(path))) for path in self._paths]
        slices = []
        for chunk, file, batch, starts in self._chunks:
            start, stop = starts[bucket : bucket + 2].tolist()
            if start < stop:
                rows = readers[file].get_batch(batch).slice(start, stop - start)
                slices.append((chunk, rows if columns is None else rows.select(list(columns))))
        return slices

    def stream(self, bucket: int, column: str) -> Iterator[pa.Array]:
        """Yield one column of each chunk of `read`, mapped only until the next is requested."""
        for _, file, batch, starts in self._chunks:
            start, stop = starts[bucket : bucket + 2].tolist()
            if start < stop:
                reader = pa.ipc.open_file(pa.memory_map(str(self._paths[file])))
                yield reader.get_batch(batch).column(column).slice(start, stop - start)

    @property
    def schema(self) -> pa.Schema | None:
        """Schema of the rows, or None if no rank wrote a chunk."""
        return pa.ipc.open_file(pa.memory_map(str(self._paths[0]))).schema if self._paths else None

    def remove(self) -> None:
        """Delete the files."""
        for path in self._paths:
            for suffix in (".arrow", INDEX):
                path.with_suffix(suffix).unlink(missing_ok=True)


@jit
def _bucket_order(
    bucket: NDArray[np.integer[Any]], starts: NDArray[np.int64], order: NDArray[np.int32]
) -> None:
    for i in range(np.uint64(bucket.shape[0])):
        starts[np.uint64(bucket[i]) + np.uint64(1)] += 1
    for b in range(starts.shape[0] - 1):
        starts[b + 1] += starts[b]
    next_position = starts.copy()
    for i in range(np.uint64(bucket.shape[0])):
        to = np.uint64(bucket[i])
        order[np.uint64(next_position[to])] = np.int32(i)
        next_position[to] += 1
