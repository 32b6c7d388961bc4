"""The topology as a partitioner sees it: ranges of edges, read as often as it likes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

__all__ = ["BLOCK_EDGES", "EdgeBlock", "EdgeStream", "EdgesInMemory", "blocks"]

EdgeBlock = tuple[NDArray[Any], NDArray[Any]]

BLOCK_EDGES = 1 << 20  # edges that are read at a time where the size does not matter


class EdgeStream(Protocol):
    """All edges of a graph in the order of their keys; every rank may read every range.

    Edges that the builder drops are not in it; reverse edges that it adds are.
    """

    @property
    def num_nodes(self) -> int:
        """Nodes of the graph (N)."""

    @property
    def num_edges(self) -> int:
        """Edges of the graph (E)."""

    def read(self, start: int, stop: int) -> EdgeBlock:
        """Return node keys of the sources and destinations of edges [start, stop).

        Safe to call from several threads at once.

        Shape:
            Two (stop - start,) contiguous arrays of one dtype: int32 if N < 2^31, else int64;
            perhaps read-only.
        """


@dataclass(frozen=True, slots=True)
class EdgesInMemory:
    """A stream over two arrays.

    Shape:
        src, dst: (E,) of one dtype, int32 or int64, in [0, num_nodes).
    """

    num_nodes: int
    src: NDArray[Any]
    dst: NDArray[Any]

    @property
    def num_edges(self) -> int:
        """Edges of the graph (E)."""
        return int(self.src.shape[0])

    def read(self, start: int, stop: int) -> EdgeBlock:
        """Return sources and destinations of edges [start, stop)."""
        return self.src[start:stop], self.dst[start:stop]


def blocks(start: int, stop: int, size: int = BLOCK_EDGES) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) into ranges of `size`, the last one shorter."""
    for first in range(start, stop, size):
        yield first, min(first + size, stop)
