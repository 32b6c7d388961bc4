"""The topology as a partitioner sees it: chunks of edges, read as often as it likes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["EdgeChunk", "EdgeStream"]

EdgeChunk = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class EdgeStream:
    """This rank's edges as chunks of (src_key, dst_key); iterating starts anew each time.

    Attributes:
        num_nodes: Nodes of the whole graph (N).
        num_edges: Edges of the whole graph (E), over all ranks.
        chunks: This rank's edges. A list of one chunk is an in-memory graph; anything whose
            `__iter__` reads from the start will do, a generator will not.

    Shape:
        Each chunk: two (C,) int64 arrays of node keys, in [0, N).
    """

    num_nodes: int
    num_edges: int
    chunks: Iterable[EdgeChunk]

    def __iter__(self) -> Iterator[EdgeChunk]:
        return iter(self.chunks)

    def whole(self) -> EdgeChunk:
        """Return this rank's edges as one chunk."""
        chunks = list(self)
        if len(chunks) == 1:
            return chunks[0]
        empty = np.empty(0, np.int64)
        src = np.concatenate([empty, *(src for src, _ in chunks)])
        return src, np.concatenate([empty, *(dst for _, dst in chunks)])
