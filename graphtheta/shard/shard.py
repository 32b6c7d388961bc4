"""Shard: what one worker holds of a partitioned graph.

One part of a store, or several merged at load. Local ids: the M masters first, by new id, then the
H mirrors by (owner, local id there). In-edges stand in CSC order, a row's edges by edge_key.
Nothing here has the length of the whole graph. Columns of a single part stay memory-mapped.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.timers import Stage
from graphtheta.data.adjacency import Adjacency
from graphtheta.data.schema import as_numpy
from graphtheta.errors import ConfigError
from graphtheta.exchange.channel import Channel
from graphtheta.exchange.directory import location_code
from graphtheta.exchange.plan import ExchangePlan, Route
from graphtheta.exchange.rows import exchange_rows
from graphtheta.partition.store.communities import open_communities
from graphtheta.partition.store.manifest import Book, LabelSpec, Manifest
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.store import Store
from graphtheta.shard.local_graph import LocalGraph, local_graph

__all__ = ["Shard", "Topology", "as_tensor", "sum_at_masters", "without_self_loops"]


@dataclass(frozen=True)
class Topology:
    """In-edges by destination row.

    Attributes:
        indptr: (rows + 1,) int64; row i's edges are [indptr[i], indptr[i + 1]).
        src: (E',) int32 local id of each edge's source.
        edge_key: (E,) int64 of every edge of the shard.
        position: (E',) int64 where each edge stands among the shard's E, or None for all of them.
    """

    indptr: NDArray[np.int64]
    src: Tensor
    edge_key: Tensor
    position: Tensor | None


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return a tensor over an array's memory, also where the array is read-only.

    Columns of a store are mapped privately, so even a stray write never reaches the file.
    """
    if array.flags.writeable or array.size == 0:
        return torch.from_numpy(np.ascontiguousarray(array) if array.size else array.copy())
    array = np.ascontiguousarray(array)
    memory = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    memory.owner = array  # type: ignore[attr-defined]  # keeps the mapping alive with the tensor
    return torch.from_numpy(np.frombuffer(memoryview(memory), array.dtype).reshape(array.shape))


def without_self_loops(whole: Topology, edges: Adjacency) -> Topology:
    """Return the same rows without their self-loops; `whole` itself where there are none."""
    rows = np.repeat(np.arange(len(whole.indptr) - 1), np.diff(whole.indptr))
    position = np.flatnonzero(edges.node_of(rows) != edges.other)
    if len(position) == len(rows):
        return whole
    indptr = np.zeros_like(whole.indptr)
    np.cumsum(np.bincount(rows[position], minlength=len(indptr) - 1), out=indptr[1:])
    index = as_tensor(position).to(whole.src.device)
    return Topology(indptr, whole.src[index], whole.edge_key, index)


def sum_at_masters(rows: Sequence[Tensor], route: Route, channel: Channel) -> list[Tensor]:
    """Add mirrors' rows to their masters', not differentiably; collective.

    Shape:
        rows: (route.num_masters + route.num_mirrors, ...) each. Returns (route.num_masters, ...)
        each.
    """
    num_masters, device = route.num_masters, rows[0].device
    mirror_R, master_S = (as_tensor(at).to(device) for at in (route.mirror_R, route.master_S))
    arrived = channel.carry(
        [r[num_masters:].index_select(0, mirror_R) for r in rows],
        route,
        to_mirrors=False,
        direction="forward",
        stage=Stage("prepare"),
    )
    own = [r[:num_masters].clone() for r in rows]
    return [a.index_add_(0, master_S, b) for a, b in zip(own, arrived, strict=True)]


class Shard:
    """One worker's masters, mirrors, in-edges, columns and exchange plan.

    Attributes:
        comm: The workers of the job.
        device: Where every tensor of the shard is; the plan and row pointers are NumPy's.
        manifest: What describes the whole graph.
        num_masters: M, nodes owned here.
        num_mirrors: H, copies of others' nodes.
        num_edges: E, edges held here.
        channel: Exchanges between workers, with timers and byte counters.
        node_key_L: (L,) int64.
        features: (M, F) node features, or (M, 0) where the graph has none.
    """

    def __init__(
        self,
        parts: Sequence[PartTables],
        manifest: Manifest,
        book: Book,
        comm: Communicator,
        device: torch.device,
        store: Store | None = None,
    ) -> None:
        threads = torch.get_num_threads()
        self._local = local = local_graph(parts, book, comm.rank, comm.size, threads)
        self._store, self._parts = store, [p.part for p in parts]
        self.comm = comm
        self.device = device
        self.manifest = manifest
        self.num_masters = local.plan.num_masters
        self.num_mirrors = local.plan.num_mirrors
        self.num_edges = int(local.in_indptr[-1])
        self.channel = Channel(comm)
        self.node_key_L = local.node_key_L
        self.features = (
            self.to_device(as_numpy(local.masters["features"]))
            if "features" in local.masters.column_names
            else torch.empty((self.num_masters, 0), device=device)
        )
        self._collected: dict[str, Tensor] = {}

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """Return a tensor of an array on the shard's device: over its memory, where that can be."""
        return as_tensor(array).to(self.device)

    def replaced(self, local: LocalGraph, num_edges: int) -> Shard:
        """Return a shard of the same masters and mirrors with other edges; it shares the rest."""
        other = copy.copy(self)
        for name, kind in vars(type(self)).items():
            if isinstance(kind, cached_property):
                vars(other).pop(name, None)
        other._local, other._collected = local, {}
        other.manifest = self.manifest.model_copy(update={"num_edges": num_edges})
        other.num_edges = int(local.in_indptr[-1])
        return other

    @property
    def plan(self) -> ExchangePlan:
        """Who mirrors what."""
        return self._local.plan

    @property
    def is_vertex_cut(self) -> bool:
        """Whether mirrors may hold in-edges, on any worker."""
        return self.manifest.cut == "vertex" and self.comm.size > 1

    @property
    def num_features(self) -> int:
        """Width of the node features."""
        return int(self.features.shape[1])

    @property
    def num_classes(self) -> int:
        """Outputs a model needs for the label named "y", or the only label."""
        return self.num_outputs(self.default_label)

    @property
    def num_edge_types(self) -> int:
        """Edge types of the whole graph.

        Raises:
            ConfigError: If edges have no `type` column.
        """
        if self.manifest.num_edge_types is None:
            raise ConfigError(
                "shard: the graph's edges have no 'type' column. Partition it with --edge-type."
            )
        return self.manifest.num_edge_types

    @property
    def edge_dim(self) -> int:
        """Width of the edge column `attr`.

        Raises:
            ConfigError: If edges have no such column.
        """
        if "attr" not in self.edge_columns:
            raise ConfigError(
                "shard: the graph's edges have no 'attr' column. Partition it with --edge-features."
            )
        attr = self.edge_columns["attr"]
        return int(attr.shape[1]) if attr.dim() > 1 else 1

    @property
    def default_label(self) -> str:
        """The label named "y", or the only one.

        Raises:
            ConfigError: If there is no label, or none stands out.
        """
        names = list(self.manifest.labels)
        if "y" in names or len(names) == 1:
            return "y" if "y" in names else names[0]
        raise ConfigError(f"shard: expected one label to choose, got {names}. Name it by --label.")

    @property
    def default_split(self) -> str:
        """The split named "split", or the only one.

        Raises:
            ConfigError: If there is no split, or none stands out.
        """
        names = self.manifest.splits
        if "split" in names or len(names) == 1:
            return "split" if "split" in names else names[0]
        raise ConfigError(f"shard: expected one split to choose, got {names}. Name it by --split.")

    def label_spec(self, name: str) -> LabelSpec:
        """Return the task and number of classes of a label.

        Raises:
            ConfigError: If there is no such label.
        """
        if name not in self.manifest.labels:
            raise ConfigError(
                f"shard: unknown label '{name}'; the graph has {sorted(self.manifest.labels)}."
            )
        return self.manifest.labels[name]

    def num_outputs(self, label: str) -> int:
        """Return how many outputs a model needs."""
        return self.label_spec(label).num_outputs

    def label(self, name: str) -> tuple[Tensor, Tensor]:
        """Return a label's values and where it is known.

        Shape:
            values: (M,) or (M, K). known: (M,) bool.
        """
        self.label_spec(name)
        column = self._local.masters[f"label:{name}"]
        known = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), np.bool_)
        return self.to_device(as_numpy(column)), self.to_device(known.copy())

    def split(self, name: str) -> Tensor:
        """Return which split each master is in: 0 none, 1 train, 2 validation, 3 test.

        Shape:
            Returns (M,) int8.

        Raises:
            ConfigError: If there is no such split.
        """
        if name not in self.manifest.splits:
            raise ConfigError(
                f"shard: unknown split '{name}'; the graph has {sorted(self.manifest.splits)}."
            )
        return self.to_device(as_numpy(self._local.masters[f"split:{name}"]))

    def communities(self, name: str) -> NDArray[np.int64]:
        """Return the community of each master, of those that the store calls `name`.

        Shape:
            Returns (M,) int64.

        Raises:
            ConfigError: If the shard is of no store, or its store has none of that name.
            StoreError: If they are damaged.
        """
        if self._store is None:
            raise ConfigError(
                f"shard: expected a store with communities {name!r}, got a graph that was "
                "partitioned on the spot. Write a store and find its communities, or give them."
            )
        found = open_communities(self._store, name)
        return np.concatenate([found.part(part) for part in self._parts])

    @property
    def original_ids(self) -> pa.ChunkedArray:
        """What the user's table calls each master: M int64 or strings."""
        return self._local.masters["original_id"]

    @cached_property
    def topology(self) -> Topology:
        """All in-edges with tensors, for the chunked executor: rows as of `in_edges`."""
        return Topology(
            self.in_edges.indptr,
            self.to_device(self._local.edges["src"]),
            self.to_device(self._local.edges["edge_key"]),
            None,
        )

    @cached_property
    def loopless_topology(self) -> Topology:
        """The in-edges without self-loops, for layers that add their own."""
        return without_self_loops(self.topology, self.in_edges)

    @cached_property
    def in_edges(self) -> Adjacency:
        """In-edges by destination: rows are masters, and in a vertex-cut mirrors too."""
        rows = self.num_masters + (self.num_mirrors if self.is_vertex_cut else 0)
        indptr = self._local.in_indptr[: rows + 1]
        return Adjacency(indptr, self._local.edges["src"], border=self.num_interior)

    @cached_property
    def out_edges(self) -> Adjacency:
        """Out-edges by source: L rows, with where each edge stands among the in-edges."""
        return self._local.out_edges

    @property
    def edge_key(self) -> NDArray[np.int64]:
        """Keys of the edges: (E,) int64."""
        return self._local.edges["edge_key"]

    @property
    def in_position(self) -> NDArray[np.int64]:
        """Where each edge stands among all in-edges of its destination: (E,) int64."""
        return self._local.edges["in_position"]

    @property
    def owner_locations(self) -> NDArray[np.int64]:
        """Where the master of each replica is, as `location_code`: (L,) int64.

        Collective the first time: 8 bytes a mirror.
        """
        return self._collect("owner_locations", self._find_owner_locations).numpy()

    def _find_owner_locations(self) -> Tensor:
        route = self.plan.mirrors
        there = np.empty(self.num_mirrors, np.int64)
        exchange_rows(self.comm, route.master_S, there, route, to_mirrors=True, stage="owners")
        own = location_code(self.comm.rank, np.arange(self.num_masters))
        return torch.from_numpy(np.concatenate([own, location_code(self.plan.owner_H, there)]))

    @cached_property
    def num_interior(self) -> int:
        """Leading masters without an in-edge from a mirror."""
        from_mirror = self._local.edges["src"] >= self.num_masters
        if not from_mirror.any():
            return self.num_masters
        row = np.searchsorted(self._local.in_indptr, from_mirror.argmax(), side="right")
        return min(int(row) - 1, self.num_masters)

    def _at_masters(self, rows: Sequence[Tensor]) -> list[Tensor]:
        if not self.is_vertex_cut:
            return list(rows)
        return sum_at_masters(rows, self.plan.destinations, self.channel)

    def _collect(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        # Not a cached_property: before Python 3.12 its lock is shared by all instances, and workers
        # that are threads would wait in it for each other's half of an exchange.
        if name not in self._collected:
            self._collected[name] = compute()
        return self._collected[name]

    @property
    def loopless_in_degree(self) -> Tensor:
        """In-degree of each master in the whole graph, self-loops not counted: (M,) int64.

        Collective in a vertex-cut, the first time.
        """
        return self._collect("loopless_in_degree", self._count_in_edges)

    def _count_in_edges(self) -> Tensor:
        edges = self.in_edges
        return self._at_masters([self.to_device(np.diff(edges.indptr) - edges.own_edges)])[0]

    @property
    def in_degree_by_type(self) -> Tensor:
        """In-degree of each master by edge type, in the whole graph: (M, types) int64.

        Collective in a vertex-cut, the first time.
        """
        return self._collect("in_degree_by_type", self._count_types)

    def _count_types(self) -> Tensor:
        # At least one column, for a graph without edges has no type and yet may run a layer.
        num_types = max(1, self.num_edge_types)
        types = self.edge_columns["type"].long()
        rows = torch.repeat_interleave(self.to_device(np.diff(self.topology.indptr)))
        counts = torch.bincount(
            rows * num_types + types, minlength=(len(self.topology.indptr) - 1) * num_types
        )
        return self._at_masters([counts.view(-1, num_types)])[0]

    def loop_column(self, name: str) -> Tensor:
        """Return what a layer's own self-loops carry: the mean of a node's in-edges, 0 if none.

        Collective in a vertex-cut, the first time of each name.

        Shape:
            (M,) or (M, A), of the edge column's type.

        Raises:
            ConfigError: If the column is not of floating point.
        """
        return self._collect(f"loop {name}", lambda: self._mean_of_in_edges(name))

    def _mean_of_in_edges(self, name: str) -> Tensor:
        column, topology = self.edge_columns[name], self.loopless_topology
        if not column.is_floating_point():
            raise ConfigError(
                f"shard: a self-loop has no '{name}', which is {column.dtype}. Use a layer "
                "without self-loops, or one that does not read it."
            )
        degrees = self.to_device(np.diff(topology.indptr))
        rows = torch.repeat_interleave(degrees)
        values = column if topology.position is None else column[topology.position]
        total = values.new_zeros((len(degrees), *values.shape[1:]))
        total, count = self._at_masters([total.index_add_(0, rows, values), degrees])
        return total / count.clamp_(min=1).reshape(-1, *(1,) * (total.dim() - 1))

    @cached_property
    def edge_columns(self) -> dict[str, Tensor]:
        """The edge columns of the graph in CSC order, by name: (E,) or (E, A).

        `known:<name>` says where the label of that name is known; without it, everywhere.
        """
        fixed = {"src", "edge_key", "in_position"}
        edges = self._local.edges
        return {name: self.to_device(edges[name]) for name in edges if name not in fixed}

    def node_column(self, name: str) -> Tensor:
        """Return a numeric column of the masters, such as `in_degree` of the whole graph.

        Shape:
            (M,) or (M, K).

        Raises:
            ConfigError: If there is no such column.
        """
        names = self._local.masters.column_names
        if name not in names:
            raise ConfigError(f"shard: unknown node column '{name}'; the graph has {names}.")
        column = self._local.masters[name]
        return self._collect(f"node {name}", lambda: self.to_device(as_numpy(column)))
