"""What a partitioner is: from a stream of edges to a part for each node or each edge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream

__all__ = [
    "Balance",
    "BalanceOf",
    "EdgePartitioner",
    "EdgeParts",
    "NodePartitioner",
    "Partitioner",
    "part_of_hash",
]

BalanceOf = Literal["nodes", "edges", "train"]
EdgeParts = tuple[int, NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Balance:
    """Largest part over the mean that the user accepts: 1.0 and more; None: as the method likes.

    Attributes:
        nodes: Of masters.
        edges: Of edges; of an edge-cut, a node weighs its in-degree, as its in-edges live with it.
        train: Of training nodes' masters.
        is_train: Which nodes are training nodes; there when `train` is given.

    Shape:
        is_train: (N,) bool.
    """

    nodes: float | None = None
    edges: float | None = None
    train: float | None = None
    is_train: NDArray[np.bool_] | None = None

    def asked(self) -> list[BalanceOf]:
        """Return what a limit is given for."""
        limits: dict[BalanceOf, float | None] = {
            "nodes": self.nodes,
            "edges": self.edges,
            "train": self.train,
        }
        return [what for what, limit in limits.items() if limit is not None]


class _Named(Protocol):
    @property
    def name(self) -> str:
        """Key in `PARTITIONERS`."""

    @property
    def balances(self) -> frozenset[BalanceOf]:
        """Which limits of `Balance` it can keep; the caller refuses others."""

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return an estimate of the bytes that each rank holds at the peak, over buffers."""


class NodePartitioner(_Named, Protocol):
    """Places nodes, an edge follows its destination: an edge-cut."""

    cut: Literal["edge"]

    def __call__(
        self,
        stream: EdgeStream,
        num_parts: int,
        *,
        seed: int,
        balance: Balance,
        resources: Resources,
    ) -> NDArray[np.int32]:
        """Return the part of every node, on every rank; the same for any ranks and threads.

        Args:
            stream: The edges.
            num_parts: Parts (P), at most the number of nodes.
            seed: Seed of what is random; the same seed gives the same result.
            balance: Limits to keep.
            resources: Ranks, threads, memory; collective.

        Raises:
            PartitionError: If a limit cannot be kept.

        Shape:
            Returns (N,) int32.
        """


class EdgePartitioner(_Named, Protocol):
    """Places edges: a vertex-cut."""

    cut: Literal["vertex"]

    def __call__(
        self,
        stream: EdgeStream,
        num_parts: int,
        *,
        seed: int,
        balance: Balance,
        resources: Resources,
    ) -> Iterator[EdgeParts]:
        """Yield (first edge, parts of consecutive edges from there); the same for any ranks.

        What all ranks yield together covers every edge once, in any order. Arguments and errors
        are those of `NodePartitioner`. Every rank iterates to the end: it is collective.

        Shape:
            Each parts: (R,) int32, R at most some millions.
        """


Partitioner = NodePartitioner | EdgePartitioner


def part_of_hash(hash_R: NDArray[np.uint64], num_parts: int) -> NDArray[Any]:
    """Return the part in [0, num_parts) that each 64-bit hash falls into.

    Shape:
        hash_R: (R,). Returns (R,) int32.
    """
    return (hash_R % np.uint64(num_parts)).astype(np.int32)
