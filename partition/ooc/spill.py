"""Rows on their way to buckets: files of chunks, each sorted by the bucket of its rows.

A spill is what a shuffle between machines would send, on a file system that all ranks see. Every
rank appends its chunks to one Arrow IPC file, a record batch a chunk, so that disks see sequential
writes however many buckets there are; a reader maps the slices of its bucket. Rows of a bucket come
back in the order of the chunks, whichever rank wrote them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
    """Return the stable order of rows by bucket, and where each bucket's rows start in it.

    Shape:
        bucket_R: (R,) in [0, B), R < 2^31. Returns (R,) int32 and (B + 1,) int64.
    """
    starts = np.zeros(num_buckets + 1, np.int64)
    order = np.empty(bucket_R.shape[0], np.int32)
    _bucket_order(bucket_R, starts, order)
    return order, starts


class ChunkIndex:
    """Which chunks a file holds, and where the rows of each bucket start in them."""

    def __init__(self) -> None:
        self._chunks: list[int] = []
        self._starts: list[NDArray[np.int64]] = []

    def append(self, chunk: int, starts: NDArray[np.int64]) -> None:
        """Note the next chunk of the file."""
        self._chunks.append(chunk)
        self._starts.append(starts)

    def write(self, path: Path) -> None:
        """Write the index beside the file `path`; without a chunk there is none."""
        if self._chunks:
            chunk, starts = np.array(self._chunks), np.stack(self._starts)
            write_arrays(path.with_suffix(INDEX), chunk=chunk, starts=starts)


def read_index(path: Path) -> list[tuple[int, NDArray[np.int64]]]:
    """Return the chunks of the file `path`, in its order, and where each bucket starts in them.

    Shape:
        Starts are (B + 1,) int64.
    """
    index = read_arrays(path.with_suffix(INDEX))
    return list(zip(index["chunk"].tolist(), index["starts"], strict=True))


class SpillWriter:
    """One rank's file of a spill; to be used in a `with` statement.

    Args:
        folder: An existing folder.
        name: Of the spill.
        rank: Whose file it is.
    """

    def __init__(self, folder: Path, name: str, rank: int) -> None:
        self._path = folder / f"{name}-{rank:05d}.arrow"
        self._sink: pa.OSFile | None = None
        self._writer: pa.RecordBatchFileWriter | None = None
        self._index = ChunkIndex()

    def append(self, chunk: int, rows: pa.RecordBatch, starts: NDArray[np.int64]) -> None:
        """Write a chunk.

        Args:
            chunk: A number that ascends in the order of the rows, over all ranks.
            rows: Sorted by bucket; the same schema every time.
            starts: Where each bucket's rows start, as `bucket_order` says.
        """
        if self._writer is None:
            self._sink = pa.OSFile(str(self._path), "wb")
            self._writer = pa.ipc.new_file(self._sink, rows.schema)
        self._writer.write_batch(rows)
        self._index.append(chunk, starts)

    def __enter__(self) -> SpillWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the file, whole unless something failed; without a chunk there is none."""
        if self._writer is None or self._sink is None:
            return
        with self._sink:
            if kind is None:
                self._writer.close()
        if kind is None:
            self._index.write(self._path)


class SpillReader:
    """What all ranks spilled, by bucket. Threads may read at the same time.

    Args:
        folder: Where the spill is.
        name: Of the spill.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = sorted(folder.glob(f"{name}-[0-9]*.arrow"))
        chunks = [
            (chunk, file, batch, starts)
            for file, path in enumerate(self._paths)
            for batch, (chunk, starts) in enumerate(read_index(path))
        ]
        self._chunks = sorted(chunks, key=lambda one: one[0])

    def read(
        self, bucket: int, columns: Sequence[str] | None = None
    ) -> list[tuple[int, pa.RecordBatch]]:
        """Return (chunk, the bucket's rows in it) of each chunk that has some, memory-mapped.

        The mapping lasts as long as what is returned.
        """
        readers = [pa.ipc.open_file(pa.memory_map(str(path))) for path in self._paths]
        slices = []
        for chunk, file, batch, starts in self._chunks:
            start, stop = starts[bucket : bucket + 2].tolist()
            if start < stop:
                rows = readers[file].get_batch(batch).slice(start, stop - start)
                slices.append((chunk, rows if columns is None else rows.select(list(columns))))
        return slices

    @property
    def schema(self) -> pa.Schema | None:
        """Schema of the rows; None if nothing was spilled."""
        return pa.ipc.open_file(pa.memory_map(str(self._paths[0]))).schema if self._paths else None

    def remove(self) -> None:
        """Delete the files."""
        for path in self._paths:
            for suffix in (".arrow", INDEX):
                path.with_suffix(suffix).unlink(missing_ok=True)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _bucket_order(
    bucket: NDArray[np.integer[Any]], starts: NDArray[np.int64], order: NDArray[np.int32]
) -> None:  # pragma: no cover - compiled
    for i in range(np.uint64(bucket.shape[0])):
        starts[np.uint64(bucket[i]) + np.uint64(1)] += 1
    for b in range(starts.shape[0] - 1):
        starts[b + 1] += starts[b]
    place = starts.copy()
    for i in range(np.uint64(bucket.shape[0])):
        to = np.uint64(bucket[i])
        order[np.uint64(place[to])] = np.int32(i)
        place[to] += 1
