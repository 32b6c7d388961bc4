"""Edges whose part follows from the edge alone: each rank places a range of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.partitioner import EdgeParts
from graphtheta.partition.resources import Resources
from graphtheta.partition.stream import EdgeStream, blocks
from graphtheta.partition.workers import Workers

__all__ = ["place_own_range"]

Place = Callable[[NDArray[Any], NDArray[Any], NDArray[np.int32]], None]


def place_own_range(
    stream: EdgeStream, resources: Resources, title: str, place: Place
) -> Iterator[EdgeParts]:
    """Yield the parts of this rank's share of the edges, block by block.

    Args:
        stream: The edges.
        resources: Blocks are read and placed by its threads, one each.
        title: What the progress is called.
        place: Compiled, without the global lock: (src, dst, parts), writes parts.
    """
    first, last = resources.share(0, stream.num_edges)

    def work(block: tuple[int, int]) -> EdgeParts:
        src, dst = stream.read(*block)
        parts = np.empty(src.shape[0], np.int32)
        place(src, dst, parts)
        return block[0], parts

    with (
        resources.progress.phase(title, last - first, "edges") as advance,
        Workers(resources.threads) as workers,
    ):
        for start, parts in workers.ahead(work, blocks(first, last)):
            advance(parts.shape[0])
            yield start, parts
