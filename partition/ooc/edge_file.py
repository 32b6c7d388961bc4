"""Edges of a graph as node keys in raw binary files, in segments that ranks write in parallel.

Segments are ordered by direction (input edges, then their reverses), then by the rank that wrote
them, which is the order of the edge keys. A segment is up to three raw little-endian arrays: `.src`
and `.dst` (int32 if N < 2^31, else int64), and `.key` (int64 edge keys) unless the keys are
consecutive. `edges.json` lists the segments.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.core.stream import EdgeChunk
from graphtheta.runtime.atomic import atomic_file

__all__ = [
    "EdgeFile",
    "Segment",
    "SegmentWriter",
    "key_dtype",
    "read_array",
    "read_into",
    "write_from",
    "write_segments",
]

_INT32_LIMIT = 2**31


def key_dtype(num_nodes: int) -> np.dtype[Any]:
    """Return the dtype of node keys in files and in compiled code."""
    return np.dtype(np.int32 if num_nodes < _INT32_LIMIT else np.int64)


class Segment(BaseModel):
    """Consecutive edges, written by one rank.

    Attributes:
        name: Name of its files, without suffix.
        num_edges: Number of edges.
        first_key: Edge key of the first edge. The keys are consecutive unless `keyed`.
        keyed: Whether there is a `.key` file.
        first: Position of the first edge among all edges, set by `EdgeFile`.
    """

    name: str
    num_edges: int
    first_key: int
    keyed: bool
    first: int = Field(default=0, exclude=True)

    @property
    def last(self) -> int:
        """Position after the last edge."""
        return self.first + self.num_edges


class _Index(BaseModel):
    num_nodes: int
    segments: list[Segment]


class SegmentWriter:
    """Writer of a segment; a context manager.

    Args:
        folder: An existing folder.
        name: Name of the segment.
        num_nodes: Number of nodes of the graph.
        keyed: Whether to write the edge keys, because they are not consecutive.
    """

    def __init__(self, folder: Path, name: str, num_nodes: int, *, keyed: bool) -> None:
        self._name, self._dtype, self._keyed = name, key_dtype(num_nodes), keyed
        suffixes = ("src", "dst", "key") if keyed else ("src", "dst")
        with ExitStack() as opened:  # closes the others if a file cannot be opened
            self._files: list[BinaryIO] = [
                opened.enter_context((folder / f"{name}.{s}").open("wb")) for s in suffixes
            ]
            self._opened = opened.pop_all()
        self._first: int | None = None
        self._count = 0

    def append(self, src: NDArray[Any], dst: NDArray[Any], keys: NDArray[np.int64] | int) -> None:
        """Write edges; `keys` are their edge keys, or the first key if they are consecutive."""
        if not src.shape[0]:
            return
        if self._first is None:
            self._first = keys if isinstance(keys, int) else int(keys[0])
        self._count += src.shape[0]
        for file, array in zip(self._files, (src, dst), strict=False):
            np.ascontiguousarray(array, self._dtype).tofile(file)
        if self._keyed:
            if isinstance(keys, int):
                keys = np.arange(keys, keys + src.shape[0], dtype=np.int64)
            np.ascontiguousarray(keys).tofile(self._files[2])

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def segment(self) -> Segment:
        """Return the description of the written segment."""
        return Segment(
            name=self._name,
            num_edges=self._count,
            first_key=self._first or 0,
            keyed=self._keyed,
        )


def write_segments(folder: Path, num_nodes: int, mine: list[Segment], comm: Communicator) -> None:
    """Write `edges.json`, the list of the segments of all ranks; collective.

    Args:
        folder: Folder of the segments.
        num_nodes: Number of nodes of the graph.
        mine: Segments of this rank, one for each direction; every rank has the same directions.
        comm: The ranks.
    """
    text = _Index(num_nodes=num_nodes, segments=mine).model_dump_json().encode()
    everyone = comm.all_gather(np.frombuffer(text, np.uint8), stage="segments of edges")
    if comm.rank == 0:
        of_rank = [_Index.model_validate_json(t.tobytes()).segments for t in everyone]
        ordered = [segments[d] for d in range(len(mine)) for segments in of_rank]
        index = _Index(num_nodes=num_nodes, segments=ordered)
        with atomic_file(folder / "edges.json") as file:
            file.write_text(index.model_dump_json(indent=1))
    comm.barrier(stage="segments of edges")


class EdgeFile:
    """Edges of a graph in files: an `EdgeStream` that also has edge keys.

    Args:
        folder: Folder with the segments and `edges.json`.

    Attributes:
        folder: The folder.
        num_nodes: Number of nodes (N).
        num_edges: Number of edges (E).
        segments: The segments, in the order of their edges.
    """

    def __init__(self, folder: Path) -> None:
        index = _Index.model_validate_json((folder / "edges.json").read_text())
        self.folder, self.num_nodes = folder, index.num_nodes
        self.segments: list[Segment] = []
        self.num_edges = 0
        for segment in index.segments:
            self.segments.append(segment.model_copy(update={"first": self.num_edges}))
            self.num_edges += segment.num_edges

    def read(self, start: int, stop: int) -> EdgeChunk:
        return self._array("src", start, stop), self._array("dst", start, stop)

    def keys(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the edge keys of edges [start, stop).

        Shape:
            (stop - start,) int64, ascending.
        """
        arrays = [np.empty(0, np.int64)]
        for segment, first, last in self._overlaps(start, stop):
            if segment.keyed:
                path = self.folder / f"{segment.name}.key"
                arrays.append(read_array(path, np.dtype(np.int64), first, last))
            else:
                arrays.append(np.arange(segment.first_key + first, segment.first_key + last))
        return np.concatenate(arrays)

    def segments_of(self, rank: int) -> list[Segment]:
        """Return the segments that a rank wrote, one for each direction."""
        return [segment for segment in self.segments if segment.name.endswith(f"-{rank:05d}")]

    def remove_all(self) -> None:
        """Delete the files of all segments."""
        for segment in self.segments:
            self.remove(segment)

    def remove(self, segment: Segment) -> None:
        """Delete the files of a segment."""
        for suffix in ("src", "dst", "key"):
            (self.folder / f"{segment.name}.{suffix}").unlink(missing_ok=True)

    def _array(self, suffix: str, start: int, stop: int) -> NDArray[Any]:
        dtype = key_dtype(self.num_nodes)
        arrays = [
            read_array(self.folder / f"{segment.name}.{suffix}", dtype, first, last)
            for segment, first, last in self._overlaps(start, stop)
        ]
        if len(arrays) == 1:
            return arrays[0]
        return np.concatenate([np.empty(0, dtype), *arrays])

    def _overlaps(self, start: int, stop: int) -> Iterator[tuple[Segment, int, int]]:
        """Yield (segment, first, last): the ranges within segments that make up [start, stop)."""
        for segment in self.segments:
            first = max(start - segment.first, 0)
            last = min(stop - segment.first, segment.num_edges)
            if first < last:
                yield segment, first, last


def read_array(path: Path, dtype: np.dtype[Any], start: int, stop: int) -> NDArray[Any]:
    """Return a copy of elements [start, stop) of a raw array file.

    The file is not memory-mapped: mapped pages would count as memory of this process.
    """
    array = np.empty(stop - start, dtype)
    with path.open("rb") as file:
        read_into(array, file, start)
    return array


def read_into(array: NDArray[Any], file: BinaryIO, start: int) -> None:
    """Fill an array with the elements of an open file from `start` on. Threads may share the file.

    Raises:
        OSError: If the file is too short.
    """
    view = array.view(np.uint8).data
    done, offset = 0, start * array.dtype.itemsize
    while done < len(view):
        count = os.preadv(file.fileno(), [view[done:]], offset + done)
        if count == 0:
            raise OSError(None, "the file is too short", file.name)
        done += count


def write_from(array: NDArray[Any], handle: int, start: int) -> None:
    """Write an array as elements `start` and following of an open file. Threads may share the file.

    Args:
        array: The elements.
        handle: File descriptor.
        start: Position of the first element in the file.
    """
    view = np.ascontiguousarray(array).view(np.uint8).data
    done, offset = 0, start * array.dtype.itemsize
    while done < len(view):
        done += os.pwrite(handle, view[done:], offset + done)
