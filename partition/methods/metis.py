"""Edge-cut by METIS: multilevel, balanced, few edges cut; the topology on one rank."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.capacity import node_capacities, only_limit
from graphtheta.partition.core.neighbour_lists import (
    SMALLER_METHODS,
    NeighbourLists,
    neighbour_list_bytes,
    place_on_rank_zero,
)
from graphtheta.partition.core.partitioner import Balance, BalanceOf
from graphtheta.partition.core.rebalance import keep_capacities
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream

__all__ = ["Metis"]

# Of a pair of neighbours: 16 of indices in METIS's width, and 258 of work space, which it took on
# RMAT; on communities it took 142 (peers.md, 2.4).
_BYTES_AN_EDGE = 16 + 258


class Metis:
    """Cut few edges with parts of nearly equal size (3 %), by multilevel k-way partitioning.

    Runs on rank 0. On graphs of a few nodes it may leave parts empty. Keeps one limit: of nodes, or
    of edges, a node weighing its in-degree.

    Rank 0 holds the topology, 8 bytes an edge, and up to 274 bytes a pair of neighbours.

    Communication:
        4 bytes a node from rank 0; all-reduces of 8 N bytes if edges are limited.

    Source:
        Karypis, Kumar, "A fast and high quality multilevel scheme for partitioning irregular
        graphs", SIAM Journal on Scientific Computing 20(1), 1998.
    """

    name = "metis"
    cut: Literal["edge"] = "edge"
    balances: frozenset[BalanceOf] = frozenset(("nodes", "edges"))

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return an estimate of the bytes that rank 0 holds at the peak, if no edge repeats."""
        return (
            neighbour_list_bytes(num_nodes, num_edges) + _BYTES_AN_EDGE * num_edges + 64 * num_nodes
        )

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
        what, limit = only_limit(self.name, balance)
        weight_N, capacities = None, None
        if limit is not None:
            capacities = node_capacities(stream, num_parts, balance, resources)
            weight_N = capacities.weight_NC[:, 0] if what == "edges" else None
        parts_N = place_on_rank_zero(
            stream,
            resources,
            self.name,
            _BYTES_AN_EDGE,
            SMALLER_METHODS,
            lambda lists: _place(lists, num_parts, seed, limit, weight_N),
        )
        if capacities is not None:
            keep_capacities(parts_N, num_parts, capacities)
        return parts_N


def _place(
    lists: NeighbourLists,
    num_parts: int,
    seed: int,
    limit: float | None,
    weight_N: NDArray[Any] | None,
) -> NDArray[np.int32]:
    import pymetis

    adjacency = pymetis.CSRAdjacency(lists.indptr, lists.neighbours.astype(np.int64))
    options = pymetis.Options(seed=seed & 0x7FFFFFFF)
    if limit is not None:
        options.ufactor = max(round(1000 * (limit - 1)), 1)  # thousandths above the mean
    vweights = None if weight_N is None else weight_N.astype(np.int64)
    result = pymetis.part_graph(num_parts, adjacency, vweights=vweights, options=options)
    return np.array(result.vertex_part, np.int32)
