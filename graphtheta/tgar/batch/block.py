"""Blocks: the active nodes and edges that one layer computes on, with row numbers of their own.

The inputs of a block are some of the worker's masters; the first of them are its outputs. Mirrors
follow the inputs; in a vertex-cut, those with in-edges come first. A block of all nodes and edges
uses the arrays of the shard; any other block has arrays of the length of what is active.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.adjacency import Adjacency, transposed
from graphtheta.exchange.plan import Route
from graphtheta.shard.shard import Shard
from graphtheta.shard.topology import Topology, without_self_loops

__all__ = ["Active", "Block", "Degrees", "Fanout", "whole_block"]


class Active(NamedTuple):
    """Numbers of active nodes and edges of a layer over all workers; the same on each of them.

    Attributes:
        inputs: Number of nodes whose values the layer reads.
        outputs: Number of nodes that get a new value.
        edges: Number of edges that carry a message.
    """

    inputs: int
    outputs: int
    edges: int


@dataclass(frozen=True)
class Fanout:
    """Number of in-edges that a layer samples per destination.

    Attributes:
        size: Number of edges, at least 1; or in the order of the graph's relations, the number of
            edges of each relation, at least 0, or None for all.
        replace: Whether to sample with replacement.
        weight: Name of the edge column whose values edges are sampled in proportion to. If None,
            edges are equally likely.
    """

    size: int | tuple[int | None, ...]
    replace: bool = False
    weight: str | None = None


@dataclass(frozen=True, repr=False)
class Block:
    """Active nodes and edges of a layer on one worker.

    Attributes:
        shard: Shard that stores the nodes and edges.
        num_inputs: Number of masters whose values the layer reads (I).
        num_outputs: Number of masters that get a new value (O): the first of the inputs.
        sources: Route of the mirrors whose values Gather reads; they follow the inputs.
        destinations: Route of the mirrors with in-edges; they follow the outputs. Empty in an
            edge-cut.
        in_edges: In-edges by destination: a row per output, and in a vertex-cut a row per mirror of
            `destinations`.
        rows: (I,) int64 local ids of the inputs in the shard. If None, all masters.
        edges: (E,) int64 positions of the edges in the shard. If None, all edges.
        active: Numbers of inputs, outputs and edges of all workers.
        fanout: How the edges were sampled. If None, no edge that the batch allows is missing.
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

    def __repr__(self) -> str:
        of_all = self.active
        return (
            f"Block(inputs={self.num_inputs}/{of_all.inputs}, "
            f"outputs={self.num_outputs}/{of_all.outputs}, "
            f"edges={self.num_edges}/{of_all.edges})"
        )

    @property
    def num_edges(self) -> int:
        """Number of active edges held by this worker."""
        return self.in_edges.num_edges

    @cached_property
    def out_edges(self) -> Adjacency:
        """The same edges by source: a row per input, then per mirror. Only backward reads them."""
        if self.edges is None:
            return self.shard.out_edges
        indptr, other, route = self.in_edges.indptr, self.in_edges.other, self.sources
        return transposed(indptr, other, route.num_masters, route.num_mirrors)

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
        """Select the rows of the inputs from a column of all masters."""
        return column_M if self.row_index is None else column_M.index_select(0, self.row_index)

    def of_edges(self, column_E: Tensor) -> Tensor:
        """Select the rows of the active edges from a column of all edges."""
        return column_E if self.edge_index is None else column_E.index_select(0, self.edge_index)

    @cached_property
    def edge_key(self) -> NDArray[np.int64]:
        """Keys of the edges: (E,) int64."""
        keys = self.shard.edge_key
        return keys if self.edges is None else keys[self.edges]

    @cached_property
    def distinct(self) -> tuple[Block, Tensor] | None:
        """The block with each edge once, and the positions of those edges in this block.

        None if no edge can occur twice. Where one message wins, each copy of its edge would get the
        gradient of the row.
        """
        if self.edges is None or self.fanout is None or not self.fanout.replace:
            return None
        # The copies of an edge follow each other, and an edge is in one row.
        first = np.append(True, self.edges[1:] != self.edges[:-1])[: len(self.edges)]
        indptr = np.append(0, np.cumsum(first))[self.in_edges.indptr]
        in_edges = replace(self.in_edges, indptr=indptr, other=self.in_edges.other[first])
        block = replace(self, in_edges=in_edges, edges=self.edges[first])
        return block, self.shard.to_device(np.flatnonzero(first))

    @cached_property
    def topology(self) -> Topology:
        """In-edges as tensors, for the chunked executor."""
        if self.edges is None:
            return self.shard.topology
        to_device = self.shard.to_device
        return Topology(
            self.in_edges.indptr, to_device(self.in_edges.other), to_device(self.edge_key), None
        )

    @cached_property
    def loopless_topology(self) -> Topology:
        """In-edges without self-loops as tensors, for layers that add their own."""
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


class Degrees:
    """In-degrees of a block's outputs over the block's edges, without the rest of the graph.

    Args:
        block: Block whose outputs begin with the inputs of every layer of the batch: the block of
            one more layer below the first.
        edge_columns: Columns of its edges. If None, those of the shard.

    Communication:
        In a vertex-cut 8 bytes per mirror when a column is first read; by type, that for each type.
    """

    def __init__(self, block: Block, edge_columns: Mapping[str, Tensor] | None = None) -> None:
        self.block = block
        self._edge_columns = edge_columns
        self._counted: dict[str, Tensor] = {}

    def column(self, name: str) -> Tensor:
        """Return `in_degree`, `in_weight`, these with `loopless_`, or `in_degree_by_type`.

        Collective.

        Shape:
            Returns (O,) int64, weights float64, or (O, types) int64.
        """
        if name not in self._counted:
            block = self.block
            if name == "in_degree_by_type":
                count = self._by_type()
            else:
                count = self._weights(name) if name.endswith("weight") else self._all(name)
            if block.shard.is_vertex_cut:
                (count,) = block.shard.channel.sum_at_masters([count], block.destinations)
            self._counted[name] = count
        return self._counted[name]

    def _all(self, name: str) -> Tensor:
        edges = self.block.in_edges
        own = edges.own_edges if name == "loopless_in_degree" else 0
        return self.block.shard.to_device(np.diff(edges.indptr) - own)

    def _weights(self, name: str) -> Tensor:
        block = self.block
        is_loopless = name == "loopless_in_weight"
        topology = block.loopless_topology if is_loopless else block.topology
        columns = self._edge_columns
        weight = block.of_edges(block.shard.edge_weight) if columns is None else columns["weight"]
        return topology.sums_of_rows(weight.double())

    def _by_type(self) -> Tensor:
        block, shard = self.block, self.block.shard
        return shard.count_types(block.in_edges, block.of_edges(shard.edge_columns["type"]))
