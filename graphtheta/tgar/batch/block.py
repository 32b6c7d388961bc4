"""Blocks: what one layer computes on, with node and edge numbers of its own.

Its inputs are some of the worker's masters; the first of them are its outputs. Mirrors come behind
the inputs, those with in-edges (in a vertex-cut) first. A block of all nodes and edges is the
shard's own storage; any other holds arrays as long as what is active.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.adjacency import Adjacency, outwards
from graphtheta.exchange.plan import Route
from graphtheta.shard.shard import Shard
from graphtheta.shard.topology import Topology, without_self_loops

__all__ = ["Active", "Block", "Fanout", "whole_block"]


class Active(NamedTuple):
    """How much of the graph a layer computes on, over all workers: the same on each of them.

    Attributes:
        inputs: Nodes whose values the layer reads.
        outputs: Nodes that get a new value.
        edges: Edges that carry a message.
    """

    inputs: int
    outputs: int
    edges: int


@dataclass(frozen=True)
class Fanout:
    """How many in-edges of each destination a layer draws.

    Attributes:
        size: At least 1.
        replace: Whether an edge can be drawn more than once.
        weight: Name of an edge column that edges are drawn in proportion to; None: all alike.
    """

    size: int
    replace: bool = False
    weight: str | None = None


@dataclass(frozen=True)
class Block:
    """The active nodes and edges of a layer on this worker.

    Attributes:
        shard: Storage.
        num_inputs: I, masters whose values the layer reads.
        num_outputs: O, the first of them: masters that get a new value.
        sources: Mirrors whose value Gather reads, behind the inputs.
        destinations: Mirrors that hold in-edges, behind the outputs; none in an edge-cut.
        in_edges: In-edges by destination: O rows, and in a vertex-cut as many as there are
            mirrors in `destinations` more.
        rows: (I,) int64 local ids of the inputs in the shard, or None for all masters.
        edges: (E,) int64 places of the edges in the shard, or None for all.
        active: Inputs, outputs and edges of all workers.
        fanout: How the edges were drawn; None: all are here that the batch allows.
    """

    shard: Shard
    num_inputs: int
    num_outputs: int
    sources: Route
    destinations: Route
    in_edges: Adjacency
    rows: NDArray[np.int64] | None
    edges: NDArray[np.int64] | None
    active: Active
    fanout: Fanout | None = None

    @property
    def num_edges(self) -> int:
        """Active edges held by this worker."""
        return self.in_edges.num_edges

    @cached_property
    def out_edges(self) -> Adjacency:
        """The same edges by source: rows of inputs, then mirrors; backward alone reads them."""
        if self.edges is None:
            return self.shard.out_edges
        indptr, other, route = self.in_edges.indptr, self.in_edges.other, self.sources
        return outwards(indptr, other, route.num_masters, route.num_mirrors)

    @cached_property
    def node_key(self) -> NDArray[np.int64]:
        """Keys of the inputs: (I,) int64."""
        keys = self.shard.node_key_L[: self.shard.num_masters]
        return keys if self.rows is None else keys[self.rows]

    @cached_property
    def row_index(self) -> Tensor | None:
        """`rows` as a tensor on the shard's device."""
        return None if self.rows is None else self.shard.to_device(self.rows)

    @cached_property
    def edge_index(self) -> Tensor | None:
        """`edges` as a tensor on the shard's device."""
        return None if self.edges is None else self.shard.to_device(self.edges)

    def of_inputs(self, column_M: Tensor) -> Tensor:
        """Return the rows of the inputs of a column of all masters."""
        return column_M if self.row_index is None else column_M.index_select(0, self.row_index)

    def of_edges(self, column_E: Tensor) -> Tensor:
        """Return the rows of the active edges of a column of all edges."""
        return column_E if self.edge_index is None else column_E.index_select(0, self.edge_index)

    @cached_property
    def edge_key(self) -> NDArray[np.int64]:
        """Keys of the edges: (E,) int64."""
        keys = self.shard.edge_key
        return keys if self.edges is None else keys[self.edges]

    @cached_property
    def distinct(self) -> tuple[Block, Tensor] | None:
        """The block with each edge once, and which edges those are; None if none can stand twice.

        Where one message wins, each copy of its edge would get the gradient of the row.
        """
        if self.edges is None or self.fanout is None or not self.fanout.replace:
            return None
        # Copies stand together, and an edge is in one row.
        first = np.append(True, self.edges[1:] != self.edges[:-1])[: len(self.edges)]
        indptr = np.append(0, np.cumsum(first))[self.in_edges.indptr]
        in_edges = replace(self.in_edges, indptr=indptr, other=self.in_edges.other[first])
        block = replace(self, in_edges=in_edges, edges=self.edges[first])
        return block, self.shard.to_device(np.flatnonzero(first))

    @cached_property
    def topology(self) -> Topology:
        """In-edges with tensors, for the chunked executor."""
        if self.edges is None:
            return self.shard.topology
        to_device = self.shard.to_device
        return Topology(
            self.in_edges.indptr, to_device(self.in_edges.other), to_device(self.edge_key), None
        )

    @cached_property
    def loopless_topology(self) -> Topology:
        """The in-edges without self-loops, for layers that add their own."""
        if self.edges is None:
            return self.shard.loopless_topology
        return without_self_loops(self.topology, self.in_edges)


def whole_block(shard: Shard) -> Block:
    """Return the block in which every node of the shard is active."""
    return Block(
        shard=shard,
        num_inputs=shard.num_masters,
        num_outputs=shard.num_masters,
        sources=shard.plan.sources,
        destinations=shard.plan.destinations,
        in_edges=shard.in_edges,
        rows=None,
        edges=None,
        active=Active(shard.manifest.num_nodes, shard.manifest.num_nodes, shard.manifest.num_edges),
    )
