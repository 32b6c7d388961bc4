"""What a partitioner is: a function from a stream of edges to a part for each node or edge."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.stream import EdgeStream

__all__ = ["Partitioner", "part_of_hash"]


class Partitioner(Protocol):
    """Places nodes (edge-cut: an edge follows its destination) or edges (vertex-cut)."""

    @property
    def name(self) -> str:
        """Key in `PARTITIONERS`."""

    @property
    def cut(self) -> Literal["edge", "vertex"]:
        """What is cut: edges (nodes are placed) or vertices (edges are placed)."""

    def __call__(
        self, stream: EdgeStream, num_parts: int, *, seed: int, comm: Communicator
    ) -> NDArray[np.int32]:
        """Return the part of each node or edge of this rank; the same for any number of ranks.

        Args:
            stream: This rank's edges.
            num_parts: Parts (P), at most the number of nodes.
            seed: Seed of what is random; the same seed gives the same result.
            comm: The ranks; collective.

        Shape:
            Edge-cut: (B,) parts of the nodes in this rank's block, [N * rank // size,
            N * (rank + 1) // size). Vertex-cut: (E,) parts of the stream's edges, in its order.
        """


def part_of_hash(hash_R: NDArray[np.uint64], num_parts: int) -> NDArray[Any]:
    """Return the part in [0, num_parts) that each 64-bit hash falls into.

    Shape:
        hash_R: (R,). Returns (R,) int32.
    """
    return (hash_R % np.uint64(num_parts)).astype(np.int32)
