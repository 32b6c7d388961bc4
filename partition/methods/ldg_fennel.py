"""Edge-cuts that stream nodes to the part where most of their neighbours are: LDG and Fennel."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.partition.core.capacity import Capacities, node_capacities
from graphtheta.partition.core.node_blocks import LANES, NodeBlocks
from graphtheta.partition.core.node_greedy import (
    GainRule,
    greedy_bytes,
    own_neighbour_lists,
    stream_nodes,
)
from graphtheta.partition.core.partitioner import Balance, BalanceOf
from graphtheta.partition.core.rebalance import keep_capacities
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgeStream

__all__ = ["Fennel", "LinearDeterministicGreedy", "fennel_rule"]


class _StreamedNodes:
    """Assign nodes to parts one after another, in several passes, by a rule of gain.

    Each rank keeps the topology of the nodes that it assigns, 8 bytes an edge over all ranks, and
    24 bytes a node. In the first pass a node sees half of its neighbours on average, in later
    passes all of them: on graphs with communities that more than halves the cut (0.50 to 0.20),
    on RMAT, which has none, it changes nothing.

    Attributes:
        passes: How often every node is assigned.
        lanes: Which nodes are assigned together.

    Communication:
        4 bytes a node and pass from each rank to all, in blocks of nodes; 8 more if edges are
        limited.

    Source:
        Nishimura, Ugander, "Restreaming graph partitioning", KDD 2013 (several passes).
    """

    name: str
    cut: Literal["edge"] = "edge"
    balances: frozenset[BalanceOf] = frozenset(("nodes", "edges", "train"))

    def __init__(self, *, passes: int = 3, lanes: NodeBlocks = LANES) -> None:
        self.passes = passes
        self.lanes = lanes

    def rule(self, stream: EdgeStream, num_parts: int, capacities: Capacities) -> GainRule:
        """Return the gain of assigning a node to a part."""
        raise NotImplementedError

    def memory(self, num_nodes: int, num_edges: int, num_parts: int) -> int:
        """Return an estimate of the bytes that a rank holds at the peak."""
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
        """Return the part of every node."""
        lists = own_neighbour_lists(stream, self.lanes, seed, self.name, resources)
        capacities = node_capacities(stream, num_parts, balance, resources)
        parts_N = np.full(stream.num_nodes, -1, np.int32)
        stream_nodes(
            lists,
            parts_N,
            num_parts,
            capacities,
            self.rule(stream, num_parts, capacities),
            passes=self.passes,
            lanes=self.lanes,
            seed=seed,
            resources=resources,
        )
        keep_capacities(parts_N, num_parts, capacities)
        return parts_N


class LinearDeterministicGreedy(_StreamedNodes):
    """Assign a node where most of its neighbours are, weighted by the room that is left there.

    Source:
        Stanton, Kliot, "Streaming graph partitioning for large distributed graphs", KDD 2012.
    """

    name = "ldg"

    def rule(self, stream: EdgeStream, num_parts: int, capacities: Capacities) -> GainRule:
        """Return the gain of neighbours times the free share of the part."""
        return GainRule(keep=1.0)


class Fennel(_StreamedNodes):
    """Assign a node where most of its neighbours are, minus the marginal cost of the part's size.

    A part of x nodes costs alpha x^gamma, with gamma 1.5 and alpha sqrt(P) E / N^1.5 as the paper
    advises; of several limits, x counts those that a node weighs most in.

    Source:
        Tsourakakis, Gkantsidis, Radunovic, Vojnovic, "FENNEL: streaming graph partitioning for
        massive scale graphs", WSDM 2014.
    """

    name = "fennel"

    def rule(self, stream: EdgeStream, num_parts: int, capacities: Capacities) -> GainRule:
        """Return the gain of neighbours minus the marginal cost of the part."""
        return fennel_rule(stream, num_parts, capacities)


def fennel_rule(stream: EdgeStream, num_parts: int, capacities: Capacities) -> GainRule:
    """Return the gain of one node: the marginal cost of a part, gamma alpha x^(gamma - 1)."""
    num_nodes = stream.num_nodes
    alpha = math.sqrt(num_parts) * stream.num_edges / num_nodes**1.5
    full_nodes = num_nodes * capacities.limits[0] / num_parts  # x is 1 there
    return GainRule(cost=1.5 * alpha * math.sqrt(full_nodes))
