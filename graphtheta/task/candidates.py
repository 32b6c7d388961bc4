"""Nodes that an edge is compared with: those with the role of its endpoint, or of its kind.

A node that never is a destination is no test of a destination: on edges from users to items, a
model tells a user from an item without learning anything about edges. By role, a destination is
therefore replaced by a destination of another edge of the same relation, and a source by another
source. In the reverses that partitioning added, the roles are exchanged. A relation with only one
such node takes those of all relations. In a graph of several node types, a node is replaced by one
of its type.

Source: Krompass, Baier, Tresp, "Type-constrained representation learning in knowledge graphs",
ISWC 2015 (the local closed-world assumption).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.data.schema import need_name
from graphtheta.data.types import positions_of_keys
from graphtheta.errors import ConfigError
from graphtheta.exchange.directory import Directory, rank_and_row
from graphtheta.exchange.rows import exchange_rows, send_rows
from graphtheta.partition.store.id_hash import hash_ids
from graphtheta.shard.shard import Shard
from graphtheta.strategy.dense_ids import dense_ids

__all__ = ["ALL_NODES", "Candidates", "Members", "endpoints", "node_kinds"]

Ints = NDArray[np.int64]
ALL_NODES = "all"  # instead of the name of a column
_STAGE = "candidates"


def endpoints(shard: Shard, edges: Ints) -> Ints:
    """Return the local ids of the source and destination of edges: (T, 2)."""
    dst = np.searchsorted(shard.topology.indptr, edges, side="right") - 1
    return np.stack([shard.in_edges.other[edges].astype(np.int64), dst], axis=1)


def node_kinds(shard: Shard, column: str) -> tuple[Ints, int]:
    """Return the kind of each local node, numbered from 0, and the number of kinds; collective.

    In a graph of several node types, the kind of a node is its type.

    Args:
        shard: The graph.
        column: Name of a node column of integers, booleans or texts, or "all" for one kind (a
            kind for each node type, if there are several).

    Shape:
        Returns (L,) int64.

    Raises:
        ConfigError: If there is no such column, or it has other values or nulls.

    Communication:
        That of `dense_ids`, and 8 bytes for each mirror.
    """
    types, comm = shard.manifest.node_types, shard.comm
    columns, names = shard.local.node_columns[0], []
    if len(types) == 1:  # nodes of several types have no columns in common
        names = sorted(types[0].columns)
    need_name(column, [ALL_NODES, *names], "node column of candidates (--candidates)")
    if column == ALL_NODES:
        return positions_of_keys(shard.node_key_L, shard.manifest.first_node_keys), len(types)
    values = columns[column].combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # without rows
        values = pa.array([], values.type)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    is_whole = pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)
    nulls = comm.all_gather_int(values.null_count, stage=_STAGE).sum()
    if not (is_text or is_whole) or nulls:
        got = f"{nulls:,} nulls" if nulls else str(values.type)
        raise ConfigError(
            f"task: expected integers, booleans or texts in the node column '{column}', got {got}. "
            "Give each node a kind."
        )
    hashes = hash_ids(values if is_text else values.cast(pa.int64()))
    kind_M, number = dense_ids((hashes >> np.uint64(2)).astype(np.int64), 1 << 62, comm)
    route = shard.plan.mirrors
    kind_H = np.empty(shard.num_mirrors, np.int64)
    exchange_rows(comm, kind_M[route.master_S], kind_H, route, to_mirrors=True, stage=_STAGE)
    return np.concatenate([kind_M, kind_H]), number


@dataclass(frozen=True)
class Members:
    """Nodes by group, numbered over all workers: by group, then by node key.

    Attributes:
        first: Number of the first node of each group.
        size: Number of nodes of each group.
        directory: Location of each node, by its number.

    Shape:
        first, size: (G,) int64.
    """

    first: Ints
    size: Ints
    directory: Directory


class Candidates:
    """Groups of nodes that may replace the endpoints of edges; construction is collective.

    Args:
        shard: Shard with all edges of the graph.
        relation: Name of the edge column of relations, or None.
        num_relations: Number of relations.
        kinds: Kind of each local node and the number of kinds, as returned by `node_kinds`; a node
            is replaced by one of its kind. If None, by one of its role.

    Attributes:
        everyone: Members of the groups, over the whole graph.

    Communication:
        By role, 16 bytes for each replica, role and relation; then that of `dense_ids` and
        `Directory`.
    """

    def __init__(
        self,
        shard: Shard,
        relation: str | None = None,
        num_relations: int = 0,
        kinds: tuple[Ints, int] | None = None,
    ) -> None:
        self._shard, self._relation, self._kinds = shard, relation, kinds
        self._num_relations = num_relations
        # A group for each role and relation, and with several relations one for all of them.
        self._width = 1 if num_relations < 2 else num_relations + 1
        if kinds is None:
            self._num_groups = 2 * self._width
            self._group, self._master = self._by_role()
        else:
            self._num_groups = kinds[1]
            self._group = kinds[0][: shard.num_masters]
            self._master = np.arange(shard.num_masters)
        self.everyone = self._number(self._group, self._master, shard.comm)

    def groups(self, shard: Shard, edges: Ints) -> Ints:
        """Return the groups of the sources and destinations of edges.

        Args:
            shard: The shard, or one with fewer edges.
            edges: (T,) positions of its edges.

        Shape:
            Returns (T, 2) int64.
        """
        if self._kinds is not None:
            return self._kinds[0][endpoints(shard, edges)]
        first_reverse = shard.manifest.reverses_from or np.iinfo(np.int64).max
        is_reverse = (shard.edge_key[edges] >= first_reverse).astype(np.int64)
        groups: Ints = self._width * np.stack([is_reverse, 1 - is_reverse], axis=1)
        if self._relation is not None and self._num_relations > 1:
            column = shard.edge_columns[self._relation][shard.to_device(edges)]
            groups += column.long().cpu().numpy()[:, None]
        return groups

    def members(self, masters: Ints | None, comm: Communicator) -> Members:
        """Return the members among some nodes; collective.

        Args:
            masters: Masters of this worker; if None, all nodes of the graph.
            comm: The workers.
        """
        if masters is None:
            return self.everyone
        chosen = np.zeros(self._shard.num_masters, np.bool_)
        chosen[masters] = True
        kept = chosen[self._master]
        return self._number(self._group[kept], self._master[kept], comm)

    def resolve(self, groups: Ints, members: Members) -> Ints:
        """Return the groups to draw from: of all relations where a relation's has one node only."""
        if self._kinds is not None or self._width == 1:
            return groups
        of_all = groups // self._width * self._width + self._width - 1
        return np.where(members.size[groups] > 1, groups, of_all)

    def are_members(self, groups: Ints, first: int, last: int) -> NDArray[np.bool_]:
        """Return which of the masters [first, last) of this worker are in each group.

        Shape:
            groups: (Q,). Returns (Q, last - first).
        """
        distinct, index = np.unique(groups, return_inverse=True)
        some = slice(*np.searchsorted(self._master, [first, last]))
        group, master = self._group[some], self._master[some]
        wanted = np.isin(group, distinct)
        found = np.zeros((len(distinct), last - first), np.bool_)
        found[np.searchsorted(distinct, group[wanted]), master[wanted] - first] = True
        return found[index]

    def _by_role(self) -> tuple[Ints, Ints]:
        """Return the groups of this worker's masters, and the masters, ascending, once each."""
        shard, width = self._shard, self._width
        edges = np.arange(shard.num_edges)
        num_replicas = shard.num_masters + shard.num_mirrors
        codes = self.groups(shard, edges) * num_replicas + endpoints(shard, edges)
        group, node = np.divmod(np.unique(codes), max(num_replicas, 1))
        owner, master = rank_and_row(shard.owner_locations[node])
        rows = send_rows(shard.comm, owner, np.stack([group, master], axis=1), stage=_STAGE)
        group, master = np.concatenate(rows).T
        if width > 1:
            group = np.concatenate([group, group // width * width + width - 1])
            master = np.concatenate([master, master])
        master, group = np.divmod(np.unique(master * self._num_groups + group), self._num_groups)
        return group, master

    def _number(self, group: Ints, master: Ints, comm: Communicator) -> Members:
        num_nodes = self._shard.manifest.num_nodes
        size = np.bincount(group, minlength=self._num_groups).astype(np.int64)
        comm.all_reduce(size, stage=_STAGE)
        keys = group * num_nodes + self._shard.node_key_L[master]
        ids, total = dense_ids(keys, self._num_groups * num_nodes, comm)
        return Members(np.cumsum(size) - size, size, Directory(ids, master, total, comm))
