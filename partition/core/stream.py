"""Stream of a graph's edges, which a partitioner may read in any ranges and any number of times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from graphtheta.partition.core.resources import Resources

__all__ = ["CHUNK_EDGES", "EdgeChunk", "EdgeStream", "EdgesInMemory", "chunk_ranges", "edge_chunks"]

EdgeChunk = tuple[NDArray[Any], NDArray[Any]]

CHUNK_EDGES = 1 << 20  # edges read at a time


class EdgeStream(Protocol):
    """All edges of a graph in the order of their keys; every rank may read every range.

    Edges that the pipeline drops are not in the stream; reverse edges that it adds are.
    """

    @property
    def num_nodes(self) -> int:
        """Number of nodes of the graph (N)."""

    @property
    def num_edges(self) -> int:
        """Number of edges of the graph (E)."""

    def read(self, start: int, stop: int) -> EdgeChunk:
        """Return the node keys of the sources and destinations of edges [start, stop).

        Safe to call from several threads at the same time.

        Shape:
            Two (stop - start,) contiguous arrays of the same dtype: int32 if N < 2^31, else int64.
            They may be read-only.
        """


@dataclass(frozen=True, slots=True)
class EdgesInMemory:
    """Edge stream over two arrays.

    Shape:
        src, dst: (E,) of the same dtype, int32 or int64, in [0, num_nodes).
    """

    num_nodes: int
    src: NDArray[Any]
    dst: NDArray[Any]

    @property
    def num_edges(self) -> int:
        return int(self.src.shape[0])

    def read(self, start: int, stop: int) -> EdgeChunk:
        return self.src[start:stop], self.dst[start:stop]


def chunk_ranges(start: int, stop: int, size: int = CHUNK_EDGES) -> Iterator[tuple[int, int]]:
    """Split [start, stop) into ranges of `size`; the last one may be shorter."""
    for first in range(start, stop, size):
        yield first, min(first + size, stop)


def edge_chunks(stream: EdgeStream, resources: Resources, title: str) -> Iterator[EdgeChunk]:
    """Yield sources and destinations of all edges, chunk by chunk, and show the progress.

    Args:
        stream: Edges of the graph.
        resources: Where progress is shown.
        title: Title of the progress display.
    """
    with resources.progress.phase(title, stream.num_edges, "edges") as advance:
        for start, stop in chunk_ranges(0, stream.num_edges):
            yield stream.read(start, stop)
            advance(stop - start)
