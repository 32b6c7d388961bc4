"""Edge-cut by a hash of the node: balanced in nodes, blind to the topology, needs no memory."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.partitioner import Balance, BalanceOf, part_of_hash
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream, chunk_ranges
from graphtheta.rng.philox import Purpose, hash_keys

__all__ = ["NodeHash"]


class NodeHash:
    """Put each node into a part drawn at random: balanced on average, which no limit can rely on.

    Communication:
        None.

    Source:
        Malewicz et al., "Pregel", SIGMOD 2010 (the default assignment, hash(id) mod P).
    """

    name = "node-hash"
    cut: Literal["edge"] = "edge"
    balances: frozenset[BalanceOf] = frozenset()

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return an estimate of the bytes that a rank holds at the peak: those of the result."""
        return 4 * num_nodes

    def __call__(
        self,
        stream: EdgeStream,
        num_parts: int,
        *,
        seed: int,
        balance: Balance,
        resources: Resources,
    ) -> NDArray[np.int32]:
        """Return the part of every node."""
        num_nodes = stream.num_nodes
        parts_N = np.empty(num_nodes, np.int32)
        with resources.progress.phase("hash nodes", num_nodes, "nodes") as advance:

            def place(nodes: tuple[int, int]) -> None:
                keys = np.arange(*nodes, dtype=np.int64)
                hashes = hash_keys(keys, seed, Purpose.PLACEMENT)
                parts_N[slice(*nodes)] = part_of_hash(hashes, num_parts)
                advance(keys.shape[0])

            resources.map(place, chunk_ranges(0, num_nodes))
        return parts_N
