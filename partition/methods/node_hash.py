"""Edge-cut by a hash of the node key: balances nodes and ignores edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.partitioner import NodePartitioner, PartitionJob, part_of_hash
from graphtheta.partition.core.stream import chunk_ranges
from graphtheta.rng.philox import Purpose, hash_keys

__all__ = ["NodeHash"]


class NodeHash(NodePartitioner):
    """Assign each node to a random part: balanced on average, without a guarantee.

    Memory: the result only.

    Communication:
        None.

    Source:
        Malewicz et al., "Pregel", SIGMOD 2010 (the default assignment, hash(id) mod P).
    """

    name = "node-hash"

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        return 4 * num_nodes

    def __call__(self, job: PartitionJob) -> NDArray[np.int32]:
        num_nodes = job.stream.num_nodes
        parts_N = np.empty(num_nodes, np.int32)
        with job.resources.progress.phase("hash nodes", num_nodes, "nodes") as advance:

            def place(nodes: tuple[int, int]) -> None:
                keys = np.arange(*nodes, dtype=np.int64)
                hashes = hash_keys(keys, job.seed, Purpose.PLACEMENT)
                parts_N[slice(*nodes)] = part_of_hash(hashes, job.num_parts)
                advance(keys.shape[0])

            job.resources.map(place, chunk_ranges(0, num_nodes))
        return parts_N
