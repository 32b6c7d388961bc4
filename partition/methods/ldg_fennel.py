"""Edge-cuts that stream nodes to the part where most of their neighbours are: LDG and Fennel."""

from __future__ import annotations

import math
from typing import Literal

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
from graphtheta.partition.core.partitioner import Balance, BalanceOf
from graphtheta.partition.core.rebalance import rebalance
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream

__all__ = ["Fennel", "LinearDeterministicGreedy"]


class _StreamedNodes:
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

    name: str
    cut: Literal["edge"] = "edge"
    balances: frozenset[BalanceOf] = frozenset(("nodes", "edges", "train"))

    def __init__(self, *, passes: int = 3, blocks: NodeBlocks = DEFAULT_NODE_BLOCKS) -> None:
        self.passes, self.blocks = passes, blocks

    def rule(self, stream: EdgeStream, num_parts: int, capacities: Capacities) -> GainRule:
        """Return the gain of assigning a node to a part."""
        raise NotImplementedError

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        return greedy_bytes(num_nodes, num_edges, 1)

    def __call__(
        self,
        stream: EdgeStream,
        num_parts: int,
        *,
        seed: int,
        balance: Balance,
        resources: Resources,
    ) -> NDArray[np.int32]:
        lists = own_neighbour_lists(stream, self.blocks, seed, self.name, resources)
        capacities = node_capacities(stream, num_parts, balance, resources)
        parts_N = np.full(stream.num_nodes, -1, np.int32)
        stream_nodes(
            lists,
            parts_N,
            num_parts,
            capacities.weights,
            self.rule(stream, num_parts, capacities),
            passes=self.passes,
            blocks=self.blocks,
            seed=seed,
            resources=resources,
        )
        self._refine(lists, parts_N, num_parts, capacities.weights, seed, resources)
        rebalance(parts_N, num_parts, capacities)
        return parts_N

    def _refine(
        self,
        lists: NeighbourLists,
        parts_N: NDArray[np.int32],
        num_parts: int,
        weights: NodeWeights,
        seed: int,
        resources: Resources,
    ) -> None:
        """Improve the parts in place, before they are rebalanced."""


class LinearDeterministicGreedy(_StreamedNodes):
    """Assign a node to the part with most of its neighbours, weighted by the part's free share.

    Source:
        Stanton, Kliot, "Streaming graph partitioning for large distributed graphs", KDD 2012.
    """

    name = "ldg"

    def rule(self, stream: EdgeStream, num_parts: int, capacities: Capacities) -> GainRule:
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

    def rule(self, stream: EdgeStream, num_parts: int, capacities: Capacities) -> GainRule:
        num_nodes = stream.num_nodes
        alpha = math.sqrt(num_parts) * stream.num_edges / num_nodes**1.5
        limit = next(iter(capacities.limits.values()))
        full_nodes = num_nodes * limit / num_parts  # nodes of a full part
        return GainRule(penalty=1.5 * alpha * math.sqrt(full_nodes))  # gamma alpha x^(gamma - 1)
