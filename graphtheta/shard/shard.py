"""Shard: what one worker holds of a partitioned graph.

A shard is one part of a store, or several parts merged when it is opened. Local ids: the M masters
first, by new id, then the H mirrors by (owner, local id at the owner). In-edges are stored in CSC
order, the edges of a row by edge_key. No array has the length of the whole graph.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.adjacency import Adjacency
from graphtheta.errors import ConfigError
from graphtheta.exchange.channel import Channel
from graphtheta.exchange.directory import location_code
from graphtheta.exchange.plan import ExchangePlan
from graphtheta.exchange.rows import exchange_rows
from graphtheta.partition.store.communities import open_communities
from graphtheta.partition.store.manifest import Manifest
from graphtheta.partition.store.store import Store
from graphtheta.shard.columns import ShardColumns
from graphtheta.shard.local_graph import LocalGraph, parts_of_rank
from graphtheta.shard.topology import Topology, without_self_loops

__all__ = ["Shard"]


class Shard(ShardColumns):
    """Masters, mirrors, in-edges, columns and exchange plan of one worker.

    `open_shard` makes one.

    Attributes:
        local: Arrays and tables of this worker.
        manifest: Description of the whole graph.
        device: Where every tensor of the shard is; the plan and row pointers are NumPy arrays.
        comm: The workers of the job.
        channel: Exchanges between the workers, with timers and byte counters.
        num_masters: Number of nodes owned by this worker (M).
        num_mirrors: Number of copies of other workers' nodes (H).
        num_edges: Number of edges held by this worker (E).
        node_key_L: (L,) int64 keys of the masters, then of the mirrors.
    """

    def __init__(
        self,
        local: LocalGraph,
        manifest: Manifest,
        channel: Channel,
        device: torch.device,
        store: Store | None = None,
    ) -> None:
        super().__init__(local, manifest, device)
        self.comm, self.channel, self._store = channel.comm, channel, store
        self.num_masters = local.plan.num_masters
        self.num_mirrors = local.plan.num_mirrors
        self.num_edges = int(local.in_indptr[-1])
        self.node_key_L = local.node_key_L

    def __repr__(self) -> str:
        return (
            f"Shard(rank={self.comm.rank}/{self.comm.size}, masters={self.num_masters}, "
            f"mirrors={self.num_mirrors}, edges={self.num_edges}, features={self.num_features}, "
            f"labels={list(self.manifest.labels)}, device={str(self.device)!r})"
        )

    def with_local_graph(self, local: LocalGraph, num_edges: int) -> Shard:
        """Return a shard of the same masters and mirrors with other edges.

        The features, the communicator and the channel are shared.

        Args:
            local: Arrays and tables of the new shard.
            num_edges: Number of edges of the whole graph.
        """
        manifest = self.manifest.model_copy(update={"num_edges": num_edges})
        other = Shard(local, manifest, self.channel, self.device, self._store)
        other.features = self.features
        return other

    @property
    def plan(self) -> ExchangePlan:
        """Which rows are exchanged with which peer."""
        return self.local.plan

    @property
    def is_vertex_cut(self) -> bool:
        """Whether mirrors may hold in-edges, on any worker."""
        return self.manifest.cut == "vertex" and self.comm.size > 1

    # -- edges ------------------------------------------------------------------------------------

    @cached_property
    def in_edges(self) -> Adjacency:
        """In-edges by destination: a row per master, and in a vertex-cut per mirror too."""
        rows = self.num_masters + (self.num_mirrors if self.is_vertex_cut else 0)
        indptr = self.local.in_indptr[: rows + 1]
        return Adjacency(indptr, self.local.edges["src"], border=self.num_interior)

    @property
    def out_edges(self) -> Adjacency:
        """Out-edges by source: L rows, with the position of each edge among the in-edges."""
        return self.local.out_edges

    @cached_property
    def topology(self) -> Topology:
        """All in-edges as tensors, with the rows of `in_edges`."""
        return Topology(
            self.in_edges.indptr,
            self.to_device(self.local.edges["src"]),
            self.to_device(self.local.edges["edge_key"]),
            None,
        )

    @cached_property
    def loopless_topology(self) -> Topology:
        """In-edges without self-loops as tensors, for layers that add their own."""
        return without_self_loops(self.topology, self.in_edges)

    @cached_property
    def num_interior(self) -> int:
        """Number of leading masters without an in-edge from a mirror."""
        from_mirror = self.local.edges["src"] >= self.num_masters
        if not from_mirror.any():
            return self.num_masters
        row = np.searchsorted(self.local.in_indptr, from_mirror.argmax(), side="right")
        return min(int(row) - 1, self.num_masters)

    # -- columns that are computed by all workers together ----------------------------------------

    @property
    def owner_locations(self) -> NDArray[np.int64]:
        """Rank and row of the master of each replica, as `location_code`: (L,) int64.

        Collective when first read: 8 bytes per mirror.
        """
        return self._cached("owner_locations", self._find_owner_locations).numpy()

    def _find_owner_locations(self) -> Tensor:
        route = self.plan.mirrors
        row_H = np.empty(self.num_mirrors, np.int64)
        exchange_rows(self.comm, route.master_S, row_H, route, to_mirrors=True, stage="owners")
        own = location_code(self.comm.rank, np.arange(self.num_masters))
        return torch.from_numpy(np.concatenate([own, location_code(self.plan.owner_H, row_H)]))

    @property
    def loopless_in_degree(self) -> Tensor:
        """In-degree of each master in the whole graph, without self-loops: (M,) int64.

        Collective in a vertex-cut when first read.
        """
        return self._cached("loopless_in_degree", self._count_in_edges)

    def _count_in_edges(self) -> Tensor:
        edges = self.in_edges
        return self._sum_at_masters(self.to_device(np.diff(edges.indptr) - edges.own_edges))[0]

    @property
    def in_degree_by_type(self) -> Tensor:
        """In-degree of each master in the whole graph by edge type: (M, types) int32.

        Collective in a vertex-cut when first read.
        """
        return self._cached("in_degree_by_type", self._in_degree_by_type)

    def _in_degree_by_type(self) -> Tensor:
        _ = self.num_edge_types  # raises if edges have no types
        counts = self.count_types(self.in_edges, self.edge_columns["type"])
        return self._sum_at_masters(counts)[0].to(torch.int32)

    def count_types(self, edges: Adjacency, types: Tensor) -> Tensor:
        """Return the number of edges of each type in each row, on this worker: (rows, types) int64.

        Args:
            edges: Edges by row.
            types: (E,) type of each edge.
        """
        # At least one column: a graph without edges has no type, and still may run a layer.
        num_types = max(1, self.num_edge_types)
        rows = torch.repeat_interleave(self.to_device(np.diff(edges.indptr)))
        length = edges.num_rows * num_types
        return torch.bincount(rows * num_types + types, minlength=length).view(-1, num_types)

    def loop_column(self, name: str, *, own: bool = False) -> Tensor:
        """Return an edge column of a layer's own self-loops: the mean over the node's in-edges.

        It is 0 for a node without in-edges. Collective in a vertex-cut, once per name.

        Args:
            name: Name of the edge column.
            own: Whether to return that of the node's self-loop in the graph instead, see
                `own_loops`, or 1 for a node without one.

        Shape:
            (M,) or (M, A), of the edge column's dtype.

        Raises:
            ConfigError: If the column is not floating point.
        """
        find = self._of_own_loops if own else self._mean_of_in_edges
        return self._cached(f"loop {name} {own}", lambda: find(name))

    def in_weight(self, *, loopless: bool) -> Tensor:
        """Return the sum of the edge column `weight` over each master's in-edges: (M,) float64.

        Collective in a vertex-cut when first read.

        Args:
            loopless: Whether to leave self-loops out.

        Raises:
            ConfigError: If the graph has no such column.
        """
        topology = self.loopless_topology if loopless else self.topology
        return self._cached(
            f"in_weight {loopless}",
            lambda: self._sum_at_masters(
                topology.sums_of_rows(self.edge_weight.double()),
            )[0],
        )

    @property
    def own_loops(self) -> NDArray[np.int64]:
        """Positions of the self-loops held here, for each node the one of largest edge_key.

        Collective in a vertex-cut when first read: 16 bytes per mirror.
        """
        return self._cached("own_loops", self._find_own_loops).numpy()

    def _find_own_loops(self) -> Tensor:
        edges, keys = self.in_edges, self.edge_key
        row = np.repeat(np.arange(edges.num_rows), np.diff(edges.indptr))
        found = np.flatnonzero(edges.node_of(row) == edges.other)
        row, last = row[found], np.full(self.num_masters + self.num_mirrors, -1)
        np.maximum.at(last, row, keys[found])
        if self.is_vertex_cut:
            route, (own, of_mirrors) = self.plan.mirrors, np.split(last, [self.num_masters])
            at_masters = np.empty(len(route.master_S), np.int64)
            exchange_rows(
                self.comm, of_mirrors, at_masters, route, to_mirrors=False, stage="self-loops"
            )
            np.maximum.at(own, route.master_S, at_masters)
            exchange_rows(
                self.comm, own[route.master_S], of_mirrors, route, to_mirrors=True,
                stage="self-loops",
            )  # fmt: skip
        return torch.from_numpy(found[keys[found] == last[row]])

    def _of_own_loops(self, name: str) -> Tensor:
        column, edges = self.edge_columns[name], self.own_loops
        row = np.searchsorted(self.in_edges.indptr, edges, side="right") - 1
        rows, found = self.to_device(row), column[self.to_device(edges)]
        value = column.new_zeros((self.in_edges.num_rows, *column.shape[1:]))
        has_loop = value.new_zeros(len(value))
        value, has_loop = self._sum_at_masters(
            value.index_add_(0, rows, found), has_loop.index_fill_(0, rows, 1)
        )
        return value + (1 - has_loop).reshape(-1, *(1,) * (value.dim() - 1))

    def _mean_of_in_edges(self, name: str) -> Tensor:
        column, topology = self.edge_columns[name], self.loopless_topology
        if not column.is_floating_point():
            raise ConfigError(
                f"shard: a self-loop has no '{name}', which is {column.dtype}. Use a layer "
                "without self-loops, or one that does not read it."
            )
        degrees = self.to_device(np.diff(topology.indptr))
        total, count = self._sum_at_masters(topology.sums_of_rows(column), degrees)
        return total / count.clamp_(min=1).reshape(-1, *(1,) * (total.dim() - 1))

    def _sum_at_masters(self, *rows: Tensor) -> list[Tensor]:
        """Return the rows of masters, with those of their mirrors added in a vertex-cut."""
        if not self.is_vertex_cut:
            return list(rows)
        return self.channel.sum_at_masters(rows, self.plan.destinations)

    def communities(self, name: str) -> NDArray[np.int64]:
        """Return the community of each master, from the communities of that name in the store.

        Shape:
            Returns (M,) int64.

        Raises:
            ConfigError: If the shard does not come from a store, or the store has no such
                communities.
            StoreError: If they are damaged.
        """
        if self._store is None:
            raise ConfigError(
                f"shard: expected a store with communities {name!r}, got a graph that was "
                "partitioned on the spot. Write a store and find its communities, or give them."
            )
        found = open_communities(self._store, name)
        parts = parts_of_rank(self._store.num_parts, self.comm.rank, self.comm.size)
        return np.concatenate([found.part(part) for part in parts])
