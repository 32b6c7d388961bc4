"""Edge-cuts that stream nodes to the part where most of their neighbours are: LDG and Fennel."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.capacity import Capacities, NodeWeights, node_capacities
from graphtheta.partition.core.neighbour_lists import NeighbourLists
from graphtheta.partition.core.node_blocks import DEFAULT_NODE_BLOCKS, NodeBlocks
from graphtheta.partition.core.node_greedy import (
    GainRule,
    greedy_bytes,
    own_neighbour_lists,
    stream_nodes,
)
from graphtheta.partition.core.partitioner import BalanceOf, NodePartitioner, PartitionJob
from graphtheta.partition.core.rebalance import rebalance

__all__ = ["Fennel", "LinearDeterministicGreedy"]


class _StreamedNodes(NodePartitioner):
    """Assign nodes to parts one after another, in several passes, by a rule of gain.

    Each rank keeps the neighbours of the nodes that it decides, 8 bytes per edge over all ranks,
    and 24 bytes per node. In the first pass a node knows the parts of half of its neighbours on
    average, in later passes of all: on graphs with communities that more than halves the cut (0.50
    to 0.20); on RMAT, which has none, it changes nothing.

    Args:
        passes: Number of times that every node is assigned.
        blocks: Sizes of the blocks that are decided in parallel.

    Communication:
        4 bytes per node and pass from each rank to all, batch by batch; 8 more if edges are
        limited.

    Source:
        Nishimura, Ugander, "Restreaming graph partitioning", KDD 2013 (several passes).
    """

    balances: frozenset[BalanceOf] = frozenset(("nodes", "edges", "train", "types"))

    def __init__(self, *, passes: int = 3, blocks: NodeBlocks = DEFAULT_NODE_BLOCKS) -> None:
        self.passes, self.blocks = passes, blocks

    @abstractmethod
    def _rule(self, job: PartitionJob, capacities: Capacities) -> GainRule:
        """Return the gain of assigning a node to a part."""

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        return greedy_bytes(num_nodes, num_edges, 1)

    def __call__(self, job: PartitionJob) -> NDArray[np.int32]:
        lists = own_neighbour_lists(job, self.blocks, self.name)
        capacities = node_capacities(job)
        weights, rule = capacities.weights, self._rule(job, capacities)
        parts_N = np.full(job.stream.num_nodes, -1, np.int32)
        stream_nodes(job, lists, parts_N, weights, rule, passes=self.passes, blocks=self.blocks)
        self._refine(job, lists, parts_N, weights)
        rebalance(parts_N, job.num_parts, capacities)
        return parts_N

    def _refine(
        self,
        job: PartitionJob,
        lists: NeighbourLists,
        parts_N: NDArray[np.int32],
        weights: NodeWeights,
    ) -> None:
        """Improve the parts in place, before they are rebalanced."""


class LinearDeterministicGreedy(_StreamedNodes):
    """Assign a node to the part with most of its neighbours, weighted by the part's free share.

    Source:
        Stanton, Kliot, "Streaming graph partitioning for large distributed graphs", KDD 2012.
    """

    name = "ldg"

    def _rule(self, job: PartitionJob, capacities: Capacities) -> GainRule:
        return GainRule(discount=1.0)


class Fennel(_StreamedNodes):
    """Assign a node to the part with most of its neighbours, minus the marginal cost of its size.

    A part of x nodes costs alpha x^gamma, with gamma 1.5 and alpha sqrt(P) E / N^1.5, as the paper
    recommends. With several limits, x counts mostly those in which the node weighs most.

    Source:
        Tsourakakis, Gkantsidis, Radunovic, Vojnovic, "FENNEL: streaming graph partitioning for
        massive scale graphs", WSDM 2014.
    """

    name = "fennel"

    def _rule(self, job: PartitionJob, capacities: Capacities) -> GainRule:
        num_nodes, num_parts = job.stream.num_nodes, job.num_parts
        alpha = math.sqrt(num_parts) * job.stream.num_edges / num_nodes**1.5
        limit = next(iter(capacities.limits.values()))
        full_nodes = num_nodes * limit / num_parts  # nodes of a full part
        return GainRule(penalty=1.5 * alpha * math.sqrt(full_nodes))  # gamma alpha x^(gamma - 1)
