"""Base class of the partitioners that call a multilevel library on rank 0."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.capacity import node_capacities, single_limit
from graphtheta.partition.core.neighbour_lists import (
    NeighbourLists,
    build_neighbour_lists,
    neighbour_list_bytes,
)
from graphtheta.partition.core.partitioner import BalanceOf, NodePartitioner, PartitionJob
from graphtheta.partition.core.rebalance import rebalance
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream

__all__ = ["MultilevelPartitioner", "Weights", "label_on_rank_zero"]

Weights = NDArray[Any] | None


class MultilevelPartitioner(NodePartitioner):
    """Edge-cut by a library that holds the whole graph on rank 0.

    It keeps one limit: of nodes; of edges, where a node weighs its in-degree; or of types, for
    which nodes are moved between the parts that the library returns. Rank 0 holds the neighbour
    lists, 8 bytes per edge, and the work space of the library.

    Attributes:
        bytes_per_pair: Work space of the library for each pair of neighbours.

    Communication:
        Broadcast of 4 bytes per node; all-reduce of 8 N bytes if edges are limited.
    """

    bytes_per_pair: int
    balances: frozenset[BalanceOf] = frozenset(("nodes", "edges", "types"))

    @abstractmethod
    def _solve(
        self, job: PartitionJob, lists: NeighbourLists, limit: float | None, weight_N: Weights
    ) -> NDArray[np.int32]:
        """Return the part of each node.

        Args:
            job: Number of parts and random seed.
            lists: Neighbours of all nodes, sorted and without repetitions.
            limit: Largest part divided by the mean. If None, the default of the library.
            weight_N: Weights of the nodes. If None, 1.
        """

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return an estimate of the peak memory of rank 0 in bytes, if no edge repeats."""
        lists = neighbour_list_bytes(num_nodes, num_edges)
        return lists + self.bytes_per_pair * num_edges + 64 * num_nodes

    def __call__(self, job: PartitionJob) -> NDArray[np.int32]:
        what, limit = single_limit(self.name, job.balance)
        weight_N, capacities = None, None
        if limit is not None:
            capacities = node_capacities(job)
            weight_N = capacities.weights.weight_NC[:, 0] if what == "edges" else None
        parts_N = label_on_rank_zero(
            job.stream,
            job.resources,
            self.name,
            self.bytes_per_pair,
            "Use ldg or lpa, which need 8 bytes per edge over all ranks, or node-hash or dbh.",
            lambda lists: self._solve(job, lists, limit, weight_N),
        )
        if capacities is not None:
            rebalance(parts_N, job.num_parts, capacities)
        return parts_N


def label_on_rank_zero(
    stream: EdgeStream,
    resources: Resources,
    name: str,
    bytes_per_pair: int,
    remedy: str,
    label: Callable[[NeighbourLists], NDArray[np.int32]],
) -> NDArray[np.int32]:
    """Return a label of every node, computed by rank 0 from all neighbour lists; collective.

    Args:
        stream: Edges of the graph.
        resources: Ranks, threads and memory.
        name: Name of the method, for error messages.
        bytes_per_pair: Work space for each pair of neighbours, in addition to the lists.
        remedy: What to do if memory is too small, for error messages.
        label: From neighbour lists, sorted and without repetitions, to the label of each node;
            called on rank 0 only.

    Communication:
        Broadcasts of 8 and 4 N bytes if there are several ranks.

    Raises:
        PartitionError: If the lists or the work space do not fit the memory limit.

    Shape:
        Returns (N,) int32.
    """
    comm = resources.comm
    list_bytes = neighbour_list_bytes(stream.num_nodes, stream.num_edges)
    resources.check_memory(list_bytes, f"the neighbour lists for {name}", remedy)
    num_pairs = np.zeros(1, np.int64)
    lists = None
    if comm.rank == 0:
        lists = build_neighbour_lists(stream, resources, simple=True)
        num_pairs[0] = lists.neighbours.shape[0] // 2
    # Before the check, so that all ranks fail together.
    comm.broadcast(num_pairs, stage="broadcast number of neighbours")
    total = list_bytes + bytes_per_pair * int(num_pairs[0]) + 64 * stream.num_nodes
    resources.check_memory(total, f"{name} with {num_pairs[0]:,} pairs of neighbours", remedy)
    labels_N = np.empty(stream.num_nodes, np.int32)
    if lists is not None:
        labels_N[:] = label(lists)
    comm.broadcast(labels_N, stage="broadcast parts")
    return labels_N
