"""Interfaces of partitioners, which assign each node or each edge of a stream to a part."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import ConfigError
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream

__all__ = [
    "Balance",
    "BalanceOf",
    "EdgePartitioner",
    "EdgeParts",
    "NodePartitioner",
    "PartitionJob",
    "Partitioner",
    "part_of_hash",
]

BalanceOf = Literal["nodes", "edges", "train", "types"]
EdgeParts = tuple[int, NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Balance:
    """Balance limits: the largest part divided by the mean, 1.0 or more.

    Where a limit is None, the method chooses.

    Attributes:
        nodes: Limit of masters.
        edges: Limit of edges. In an edge-cut a node weighs its in-degree, as its in-edges are
            stored with it.
        train: Limit of masters that are training nodes.
        is_train: Mask of the training nodes. The pipeline sets it if `train` is set.
        types: Limit of masters of each node type, over the mean of the type.
        type_counts: Number of nodes of each type, in the order of their keys. The pipeline sets it
            if `types` is set.

    Shape:
        is_train: (N,) bool.

    Raises:
        ConfigError: If a limit is below 1 or NaN.
    """

    nodes: float | None = None
    edges: float | None = None
    train: float | None = None
    is_train: NDArray[np.bool_] | None = None
    types: float | None = None
    type_counts: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        for what, limit in self.limits().items():
            if not limit >= 1:  # also of NaN
                raise ConfigError(
                    f"balance of {what} (--balance-{what}): expected a limit from 1, the largest "
                    f"part over the mean, got {limit:g}. Raise it, for example to 1.05."
                )

    def limits(self) -> dict[BalanceOf, float]:
        """Return the limits that are not None."""
        limits: dict[BalanceOf, float | None] = {
            "nodes": self.nodes,
            "edges": self.edges,
            "train": self.train,
            "types": self.types,
        }
        return {what: limit for what, limit in limits.items() if limit is not None}


@dataclass(frozen=True, slots=True)
class PartitionJob:
    """Arguments of one call of a partitioner.

    Attributes:
        stream: Edges of the graph.
        num_parts: Number of parts (P), at most the number of nodes.
        seed: Random seed. The same seed gives the same result.
        balance: Limits to keep.
        resources: Ranks, threads and memory.
    """

    stream: EdgeStream
    num_parts: int
    seed: int = 0
    balance: Balance = field(default_factory=Balance)
    resources: Resources = field(default_factory=Resources)

    def check_memory(self, partitioner: Partitioner, what: str, remedy: str) -> None:
        """Check that the partitioner's estimate fits the memory limit; see `Resources`.

        Raises:
            PartitionError: If it does not.
        """
        num_bytes = partitioner.memory(self.stream.num_nodes, self.stream.num_edges, self.num_parts)
        self.resources.check_memory(num_bytes, what, remedy)


class _Described(Protocol):
    balances: frozenset[BalanceOf] = frozenset()  # what it can limit; the caller refuses others

    @property
    def name(self) -> str:
        """Key in `PARTITIONERS`."""

    @abstractmethod
    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return an estimate of a rank's peak memory in bytes, not counting buffers."""


class NodePartitioner(_Described, Protocol):
    """Partitioner that assigns nodes; edges follow their destination (edge-cut)."""

    cut: Literal["edge"] = "edge"

    @abstractmethod
    def __call__(self, job: PartitionJob) -> NDArray[np.int32]:
        """Return the part of every node, on every rank; collective.

        The result does not depend on the number of ranks and threads.

        Raises:
            PartitionError: If a limit cannot be kept, or the memory limit is too low.

        Shape:
            Returns (N,) int32.
        """


class EdgePartitioner(_Described, Protocol):
    """Partitioner that assigns edges (vertex-cut)."""

    cut: Literal["vertex"] = "vertex"

    @abstractmethod
    def __call__(self, job: PartitionJob) -> Iterator[EdgeParts]:
        """Yield pairs (first edge, parts of that edge and those that follow it); collective.

        The pairs of all ranks together cover every edge once, in any order; every rank must iterate
        to the end. The result does not depend on the number of ranks and threads. Errors are those
        of `NodePartitioner`.

        Shape:
            Each array of parts: (R,) int32, R at most a few million.
        """


Partitioner = NodePartitioner | EdgePartitioner


def part_of_hash(hash_R: NDArray[np.uint64], num_parts: int) -> NDArray[Any]:
    """Map 64-bit hashes to parts in [0, num_parts).

    Shape:
        hash_R: (R,). Returns (R,) int32.
    """
    return (hash_R % np.uint64(num_parts)).astype(np.int32)
