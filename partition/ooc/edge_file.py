"""The graph's edges as node keys on disk: what partitioners stream and parts are cut from.

Segments come first by half (input edges, then their reverses), then by the rank that wrote them:
that is the order of the edge keys. A segment is raw little-endian arrays: `.src` and `.dst` (int32
if N < 2^31, else int64), and `.key` (int64 edge keys) unless its keys are consecutive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.core.stream import EdgeChunk
from graphtheta.runtime.atomic import atomic_file

__all__ = [
    "EdgeFile",
    "Piece",
    "Segment",
    "SegmentWriter",
    "key_type",
    "read_array",
    "read_into",
    "write_from",
    "write_segments",
]

_INT32_LIMIT = 2**31


def key_type(num_nodes: int) -> np.dtype[Any]:
    """Return the dtype of node keys on disk and in kernels."""
    return np.dtype(np.int32 if num_nodes < _INT32_LIMIT else np.int64)


class Segment(BaseModel):
    """A stretch of edges.

    Attributes:
        name: Of its files, without suffix.
        num_edges: Edges.
        first_key: Edge key of the first; the others follow, unless `keyed`.
        keyed: Whether there is a `.key` file.
    """

    name: str
    num_edges: int
    first_key: int
    keyed: bool


class _Index(BaseModel):
    num_nodes: int
    segments: list[Segment]


class SegmentWriter:
    """Appends edges to a segment of this rank; to be used in a `with` statement.

    Args:
        folder: An existing folder.
        name: Of the segment.
        num_nodes: Nodes of the graph.
        keyed: Whether edge keys have gaps.
    """

    def __init__(self, folder: Path, name: str, num_nodes: int, *, keyed: bool) -> None:
        self._name, self._type, self._keyed = name, key_type(num_nodes), keyed
        suffixes = ("src", "dst", "key") if keyed else ("src", "dst")
        with ExitStack() as opened:  # all of the files, or none
            self._files: list[BinaryIO] = [
                opened.enter_context((folder / f"{name}.{s}").open("wb")) for s in suffixes
            ]
            self._opened = opened.pop_all()
        self._first: int | None = None
        self._count = 0

    def append(self, src: NDArray[Any], dst: NDArray[Any], keys: NDArray[np.int64] | int) -> None:
        """Write edges; `keys` are their edge keys, or that of the first of consecutive ones."""
        if not src.shape[0]:
            return
        if self._first is None:
            self._first = keys if isinstance(keys, int) else int(keys[0])
        self._count += src.shape[0]
        for file, array in zip(self._files, (src, dst), strict=False):
            np.ascontiguousarray(array, self._type).tofile(file)
        if self._keyed:
            if isinstance(keys, int):
                keys = np.arange(keys, keys + src.shape[0], dtype=np.int64)
            np.ascontiguousarray(keys).tofile(self._files[2])

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def segment(self) -> Segment:
        """Return what was written."""
        return Segment(
            name=self._name,
            num_edges=self._count,
            first_key=self._first or 0,
            keyed=self._keyed,
        )


def write_segments(folder: Path, num_nodes: int, mine: list[Segment], comm: Communicator) -> None:
    """Write down the segments of all ranks, in the order of their halves; collective.

    Args:
        folder: Where the segments are.
        num_nodes: Nodes of the graph.
        mine: This rank's segments, one a half, the same halves on every rank.
        comm: The ranks.
    """
    text = _Index(num_nodes=num_nodes, segments=mine).model_dump_json().encode()
    everyone = comm.all_gather(np.frombuffer(text, np.uint8), stage="segments of edges")
    if comm.rank == 0:
        of_rank = [_Index.model_validate_json(t.tobytes()).segments for t in everyone]
        ordered = [segments[half] for half in range(len(mine)) for segments in of_rank]
        index = _Index(num_nodes=num_nodes, segments=ordered)
        with atomic_file(folder / "edges.json") as file:
            file.write_text(index.model_dump_json(indent=1))
    comm.barrier(stage="segments of edges")


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment, and the place of its first edge among all edges."""

    segment: Segment
    first: int


class EdgeFile:
    """The edges of a graph on disk: an `EdgeStream`, with their edge keys.

    Args:
        folder: Where `write_segments` wrote.

    Attributes:
        folder: As given.
        num_nodes: Nodes (N).
        num_edges: Edges (E).
        pieces: The segments, in the order of their edges.
    """

    def __init__(self, folder: Path) -> None:
        index = _Index.model_validate_json((folder / "edges.json").read_text())
        self.folder, self.num_nodes = folder, index.num_nodes
        self.pieces: list[Piece] = []
        self.num_edges = 0
        for segment in index.segments:
            self.pieces.append(Piece(segment, self.num_edges))
            self.num_edges += segment.num_edges

    def read(self, start: int, stop: int) -> EdgeChunk:
        """Return node keys of edges [start, stop), as `EdgeStream.read`."""
        kind = key_type(self.num_nodes)
        return self._array("src", kind, start, stop), self._array("dst", kind, start, stop)

    def keys(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return edge keys of edges [start, stop).

        Shape:
            (stop - start,) int64, ascending.
        """
        arrays = [np.empty(0, np.int64)]
        for segment, first, last in self._cover(start, stop):
            if segment.keyed:
                path = self.folder / f"{segment.name}.key"
                arrays.append(read_array(path, np.dtype(np.int64), first, last))
            else:
                arrays.append(np.arange(segment.first_key + first, segment.first_key + last))
        return np.concatenate(arrays)

    def pieces_of(self, rank: int) -> list[Piece]:
        """Return the segments that a rank wrote, one a half."""
        return [piece for piece in self.pieces if piece.segment.name.endswith(f"-{rank:05d}")]

    def remove_all(self) -> None:
        """Delete the arrays of all segments."""
        for piece in self.pieces:
            self.remove(piece)

    def remove(self, piece: Piece) -> None:
        """Delete the arrays of a segment."""
        for suffix in ("src", "dst", "key"):
            (self.folder / f"{piece.segment.name}.{suffix}").unlink(missing_ok=True)

    def _array(self, suffix: str, kind: np.dtype[Any], start: int, stop: int) -> NDArray[Any]:
        arrays = [
            read_array(self.folder / f"{segment.name}.{suffix}", kind, first, last)
            for segment, first, last in self._cover(start, stop)
        ]
        if len(arrays) == 1:
            return arrays[0]
        return np.concatenate([np.empty(0, kind), *arrays])

    def _cover(self, start: int, stop: int) -> Iterator[tuple[Segment, int, int]]:
        for piece in self.pieces:
            first = max(start - piece.first, 0)
            last = min(stop - piece.first, piece.segment.num_edges)
            if first < last:
                yield piece.segment, first, last


def read_array(path: Path, kind: np.dtype[Any], start: int, stop: int) -> NDArray[Any]:
    """Return elements [start, stop) of a raw array file, in memory of their own.

    Mapped pages would count as this process's memory for as long as the file is open.
    """
    array = np.empty(stop - start, kind)
    with path.open("rb") as file:
        read_into(array, file, start)
    return array


def read_into(array: NDArray[Any], file: BinaryIO, start: int) -> None:
    """Fill an array with the elements of a file from `start` on. Threads may share the file.

    Raises:
        OSError: If the file ends before.
    """
    view = array.view(np.uint8).data
    done, offset = 0, start * array.dtype.itemsize
    while done < len(view):
        count = os.preadv(file.fileno(), [view[done:]], offset + done)
        if count == 0:
            raise OSError(None, "the file is too short", file.name)
        done += count


def write_from(array: NDArray[Any], handle: int, start: int) -> None:
    """Make an array the elements of an open file from `start` on. Threads may share the file."""
    view = np.ascontiguousarray(array).view(np.uint8).data
    done, offset = 0, start * array.dtype.itemsize
    while done < len(view):
        done += os.pwrite(handle, view[done:], offset + done)
