"""Edge-cut by KaMinPar: multilevel, balanced, few edges cut; the topology on one rank."""

from __future__ import annotations

import tempfile
from pathlib import Path
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

__all__ = ["KAMINPAR_BYTES_AN_EDGE", "KaMinPar", "kaminpar_parts"]

_IMBALANCE = 0.03  # KaMinPar's default: the largest part over the mean, minus one
# Of work space for a pair of neighbours; measured: 8 to 40 (peers.md, 2.4).
KAMINPAR_BYTES_AN_EDGE = 40


class KaMinPar:
    """Cut few edges with parts of nearly equal size (3 %), by deep multilevel partitioning.

    Runs on one thread of rank 0, which makes it repeatable for a seed. Keeps one limit: of nodes,
    or of edges, a node weighing its in-degree.

    Rank 0 holds the topology, 8 bytes an edge, and up to 40 bytes a pair of neighbours.

    Communication:
        4 bytes a node from rank 0; all-reduces of 8 N bytes if edges are limited.

    Source:
        Gottesbüren, Heuer, Sanders, Schulz, Seemaier, "Deep Multilevel Graph Partitioning", ESA
        2021.
    """

    name = "kaminpar"
    cut: Literal["edge"] = "edge"
    balances: frozenset[BalanceOf] = frozenset(("nodes", "edges"))

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return an estimate of the bytes that rank 0 holds at the peak, if no edge repeats."""
        return (
            neighbour_list_bytes(num_nodes, num_edges)
            + KAMINPAR_BYTES_AN_EDGE * num_edges
            + 64 * num_nodes
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
        imbalance, weight_N, capacities = _IMBALANCE, None, None
        if limit is not None:
            imbalance = limit - 1
            capacities = node_capacities(stream, num_parts, balance, resources)
            weight_N = capacities.weight_NC[:, 0] if what == "edges" else None
        parts_N = place_on_rank_zero(
            stream,
            resources,
            self.name,
            KAMINPAR_BYTES_AN_EDGE,
            SMALLER_METHODS,
            lambda lists: kaminpar_parts(lists, num_parts, seed, imbalance, weight_N),
        )
        if capacities is not None:
            keep_capacities(parts_N, num_parts, capacities)
        return parts_N


def kaminpar_parts(
    lists: NeighbourLists,
    num_parts: int,
    seed: int,
    imbalance: float = _IMBALANCE,
    weight_N: NDArray[Any] | None = None,
) -> NDArray[np.int32]:
    """Return the part of each node, by KaMinPar on one thread.

    Args:
        lists: Simple.
        num_parts: Parts (P).
        seed: Its lower 31 bits count.
        imbalance: The largest part over the mean, minus one.
        weight_N: What a node weighs; None: 1.

    Shape:
        weight_N: (N,). Returns (N,) int32.
    """
    import kaminpar

    with tempfile.TemporaryDirectory(prefix="graphtheta-kaminpar-") as folder:
        path = Path(folder) / "topology.parhip"
        _write_parhip(lists, weight_N, path)
        loaded = kaminpar.load_graph(str(path), kaminpar.GraphFileFormat.PARHIP)
    kaminpar.reseed(seed & 0x7FFFFFFF)
    solver = kaminpar.KaMinPar(1, kaminpar.default_context())
    # It takes an imbalance of 0 for none given.
    return np.array(solver.compute_partition(loaded, num_parts, max(imbalance, 1e-6)), np.int32)


def _write_parhip(lists: NeighbourLists, weight_N: NDArray[Any] | None, path: Path) -> None:
    # KaMinPar takes graphs from files only. ParHIP's binary format: version, nodes, arcs; byte
    # offset of each node's neighbours in the file; neighbours; weights of nodes. Bits of the
    # version: 1 edges have no weights, 2 nodes have none, 8 neighbours are 32-bit, not 64.
    indptr, neighbours = lists.indptr, lists.neighbours
    num_nodes, num_arcs, width = indptr.shape[0] - 1, neighbours.shape[0], neighbours.itemsize
    version = 1 + (2 if weight_N is None else 0) + (8 if width == 4 else 0)
    with path.open("wb") as file:
        np.array([version, num_nodes, num_arcs], np.int64).tofile(file)
        (8 * (3 + num_nodes + 1) + width * indptr).tofile(file)
        neighbours.tofile(file)
        if weight_N is not None:
            # A weight of 0 would keep it from ending: 1, of very little account beside the others.
            np.maximum(16 * weight_N.astype(np.int64), 1).tofile(file)
