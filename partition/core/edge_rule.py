"""Vertex-cuts by a rule: the part of an edge follows from the edge and a word about each end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.partitioner import Balance, BalanceOf, EdgeParts
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream, blocks
from graphtheta.partition.core.workers import Workers

__all__ = ["EdgeRule"]


class EdgeRule(ABC):
    """An `EdgePartitioner` that needs no order: an edge can be placed by whom and when it is read.

    So edges are placed while they move to their parts, and no assignment of them is written.

    Attributes:
        name: Key in `PARTITIONERS`.
    """

    name: str
    cut: Literal["vertex"] = "vertex"
    balances: frozenset[BalanceOf] = frozenset()

    @abstractmethod
    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return the bytes that each rank holds over buffers."""

    @abstractmethod
    def learn(
        self, stream: EdgeStream, num_parts: int, *, seed: int, resources: Resources
    ) -> NDArray[np.int64]:
        """Return all that the rule has to know, on every rank; collective.

        Shape:
            Returns (N,), a word for each node; or (0,) if it has to know nothing.
        """

    @abstractmethod
    def place(
        self,
        src: NDArray[Any],
        dst: NDArray[Any],
        words: NDArray[np.int64],
        num_parts: int,
        *,
        seed: int,
    ) -> NDArray[np.int32]:
        """Return the parts of edges, without the global lock; `words` are those of `learn`.

        Shape:
            src, dst: (R,). Returns (R,).
        """

    def __call__(
        self,
        stream: EdgeStream,
        num_parts: int,
        *,
        seed: int,
        balance: Balance,
        resources: Resources,
    ) -> Iterator[EdgeParts]:
        """Yield the parts of this rank's range of the edges."""
        words = self.learn(stream, num_parts, seed=seed, resources=resources)
        first, last = resources.share(0, stream.num_edges)

        def place(block: tuple[int, int]) -> EdgeParts:
            return block[0], self.place(*stream.read(*block), words, num_parts, seed=seed)

        with (
            resources.progress.phase("place edges", last - first, "edges") as advance,
            Workers(resources.threads) as workers,
        ):
            for start, parts in workers.ahead(place, blocks(first, last)):
                advance(parts.shape[0])
                yield start, parts
