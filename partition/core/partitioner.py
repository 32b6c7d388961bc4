"""Interfaces of partitioners, which assign each node or each edge of a stream to a part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream

__all__ = [
    "Balance",
    "BalanceOf",
    "EdgeMethod",
    "EdgePartitioner",
    "EdgeParts",
    "NodeMethod",
    "NodePartitioner",
    "PartitionJob",
    "Partitioner",
    "part_of_hash",
]

BalanceOf = Literal["nodes", "edges", "train"]
EdgeParts = tuple[int, NDArray[np.int32]]
Parts = TypeVar("Parts")


@dataclass(frozen=True, slots=True)
class Balance:
    """Balance limits: the largest part divided by the mean, 1.0 or more.

    Where a limit is None, the method chooses.

    Attributes:
        nodes: Limit of masters.
        edges: Limit of edges. In an edge-cut a node weighs its in-degree, as its in-edges are
            stored with it.
        train: Limit of masters that are training nodes.
        is_train: Mask of the training nodes; required with `train`.

    Shape:
        is_train: (N,) bool.
    """

    nodes: float | None = None
    edges: float | None = None
    train: float | None = None
    is_train: NDArray[np.bool_] | None = None

    def limits(self) -> dict[BalanceOf, float]:
        """Return the limits that are not None."""
        limits: dict[BalanceOf, float | None] = {
            "nodes": self.nodes,
            "edges": self.edges,
            "train": self.train,
        }
        return {what: limit for what, limit in limits.items() if limit is not None}


class _Described(Protocol):
    @property
    def name(self) -> str:
        """Key in `PARTITIONERS`."""

    @property
    def balances(self) -> frozenset[BalanceOf]:
        """Limits of `Balance` that the method supports; the caller refuses others."""

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return an estimate of a rank's peak memory in bytes, not counting buffers."""


class NodePartitioner(_Described, Protocol):
    """Partitioner that assigns nodes; edges follow their destination (edge-cut)."""

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
        """Return the part of every node, on every rank; collective.

        The result does not depend on the number of ranks and threads.

        Args:
            stream: Edges of the graph.
            num_parts: Number of parts (P), at most the number of nodes.
            seed: Random seed. The same seed gives the same result.
            balance: Limits to keep.
            resources: Ranks, threads and memory.

        Raises:
            PartitionError: If a limit cannot be kept, or the memory limit is too low.

        Shape:
            Returns (N,) int32.
        """


class EdgePartitioner(_Described, Protocol):
    """Partitioner that assigns edges (vertex-cut)."""

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
        """Yield pairs (first edge, parts of that edge and those that follow it); collective.

        The pairs of all ranks together cover every edge once, in any order; every rank must iterate
        to the end. The result does not depend on the number of ranks and threads. Arguments and
        errors are those of `NodePartitioner`.

        Shape:
            Each array of parts: (R,) int32, R at most a few million.
        """


Partitioner = NodePartitioner | EdgePartitioner


@dataclass(frozen=True, slots=True)
class PartitionJob:
    """Arguments of one call of a partitioner.

    Attributes:
        stream: Edges of the graph.
        num_parts: Number of parts (P).
        seed: Random seed.
        balance: Limits to keep.
        resources: Ranks, threads and memory.
    """

    stream: EdgeStream
    num_parts: int
    seed: int
    balance: Balance
    resources: Resources


class _Method(ABC, Generic[Parts]):
    """Base class of the partitioners, which compute the parts of a `PartitionJob`."""

    name: str
    balances: frozenset[BalanceOf] = frozenset()

    @abstractmethod
    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return an estimate of a rank's peak memory in bytes, not counting buffers."""

    def __call__(
        self,
        stream: EdgeStream,
        num_parts: int,
        *,
        seed: int,
        balance: Balance,
        resources: Resources,
    ) -> Parts:
        return self._assign(PartitionJob(stream, num_parts, seed, balance, resources))

    @abstractmethod
    def _assign(self, job: PartitionJob) -> Parts:
        """Return the result of `__call__`."""


class NodeMethod(_Method[NDArray[np.int32]]):
    """Base class of the `NodePartitioner`s of this package."""

    cut: Literal["edge"] = "edge"


class EdgeMethod(_Method[Iterator[EdgeParts]]):
    """Base class of the `EdgePartitioner`s of this package."""

    cut: Literal["vertex"] = "vertex"


def part_of_hash(hash_R: NDArray[np.uint64], num_parts: int) -> NDArray[Any]:
    """Map 64-bit hashes to parts in [0, num_parts).

    Shape:
        hash_R: (R,). Returns (R,) int32.
    """
    return (hash_R % np.uint64(num_parts)).astype(np.int32)
