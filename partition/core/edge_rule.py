"""Base class of vertex-cuts that compute an edge's part from its two endpoints only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.partitioner import EdgePartitioner, EdgeParts, PartitionJob
from graphtheta.partition.core.stream import EdgeChunk, chunk_ranges

__all__ = ["EdgeRule"]


class EdgeRule(EdgePartitioner):
    """`EdgePartitioner` whose result does not depend on the order of edges.

    The pipeline therefore assigns edges while it moves them to their parts, without storing an
    assignment.
    """

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        return 8 * num_nodes

    def node_codes(self, job: PartitionJob) -> NDArray[np.int64]:
        """Return what the rule must know about each node, on every rank; collective.

        Raises:
            PartitionError: If the codes do not fit the memory limit.

        Shape:
            Returns (N,), or (0,) if the rule needs nothing.
        """
        job.check_memory(
            self,
            f"the 8 bytes that {self.name} keeps for each node",
            "Use the method edge-hash, which needs no memory.",
        )
        return self._encode_nodes(job)

    @abstractmethod
    def _encode_nodes(self, job: PartitionJob) -> NDArray[np.int64]: ...

    @abstractmethod
    def place(
        self, edges: EdgeChunk, code_N: NDArray[np.int64], num_parts: int, *, seed: int
    ) -> NDArray[np.int32]:
        """Return the parts of edges; most of it without the global interpreter lock.

        Args:
            edges: Sources and destinations.
            code_N: Result of `node_codes`.
            num_parts: Number of parts (P).
            seed: Random seed.

        Shape:
            Returns (R,) for R edges.
        """

    def __call__(self, job: PartitionJob) -> Iterator[EdgeParts]:
        """Yield the parts of this rank's range of the edges."""
        code_N, resources = self.node_codes(job), job.resources
        first, last = resources.share(0, job.stream.num_edges)

        def place(chunk: tuple[int, int]) -> EdgeParts:
            edges = job.stream.read(*chunk)
            return chunk[0], self.place(edges, code_N, job.num_parts, seed=job.seed)

        with resources.progress.phase("place edges", last - first, "edges") as advance:
            for start, parts in resources.imap(place, chunk_ranges(first, last)):
                advance(parts.shape[0])
                yield start, parts
