"""Ids of nodes and edges as DGL orders them: part by part, and within a part type by type."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphtheta.data.types import positions_of_keys
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.store import Store
from graphtheta.partition.store.tables import column_numpy

__all__ = ["Ids", "NodeIds", "destinations", "number_ids"]


class NodeIds(NamedTuple):
    """Ids of the replicas of a part.

    Attributes:
        of_type: Position of the node type.
        among_all: Id among all nodes, part by part and type by type.
        within_type: Id among the nodes of the type, part by part.

    Shape:
        (L,) int64 each.
    """

    of_type: NDArray[np.int64]
    among_all: NDArray[np.int64]
    within_type: NDArray[np.int64]


class Ids(NamedTuple):
    """Numbers of nodes and edges of each type in each part, from which ids follow.

    Without types, the id of a node is its new id.

    Attributes:
        nodes: Number of masters of each node type in each part.
        edges: Number of edges of each relation in each part.
        num_interior: Number of interior masters of each part.
        shift: What to add to the local id of an interior or boundary master of a type to get its
            position among the masters of the type in the part.

    Shape:
        nodes: (P, T) int64. edges: (P, R) int64. num_interior: (P,) int64. shift: (P, 2, T) int64.
    """

    nodes: NDArray[np.int64]
    edges: NDArray[np.int64]
    num_interior: NDArray[np.int64]
    shift: NDArray[np.int64]

    @staticmethod
    def ranges(counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first id of each type in each part, and the id after the last.

        Shape:
            counts: (P, T). Returns (P, T, 2).
        """
        stops = np.cumsum(counts).reshape(counts.shape)
        return np.stack([stops - counts, stops], axis=-1)

    def of_replicas(self, part: PartTables) -> NodeIds:
        """Return the ids of the replicas of a part."""
        keys = column_numpy(part.replicas, "node_key")
        owner, local = (column_numpy(part.replicas, name) for name in ("owner", "owner_local"))
        of_type = positions_of_keys(keys, part.first_node_keys)
        is_boundary = (local >= self.num_interior[owner]).astype(np.int64)
        within_part = local + self.shift[owner, is_boundary, of_type]
        first_of_type = np.cumsum(self.nodes, axis=0) - self.nodes
        return NodeIds(
            of_type,
            within_part + self.ranges(self.nodes)[owner, of_type, 0],
            within_part + first_of_type[owner, of_type],
        )


def number_ids(store: Store) -> Ids:
    """Count the nodes and edges of each type in each part of a store."""
    manifest = store.manifest
    num_types, num_relations = len(manifest.node_types), len(manifest.relations)
    sizes = np.zeros((store.num_parts, 2, num_types), np.int64)
    edges = np.zeros((store.num_parts, num_relations), np.int64)
    for index in range(store.num_parts):
        part = store.part(index)
        keys = column_numpy(part.masters, "node_key")
        of_type = positions_of_keys(keys, manifest.first_node_keys)
        interior, boundary = np.split(of_type, [part.num_interior])
        sizes[index] = [np.bincount(of, minlength=num_types) for of in (interior, boundary)]
        edge_keys = column_numpy(part.in_edges, "edge_key")
        of_relation = positions_of_keys(edge_keys, manifest.first_edge_keys)
        edges[index] = np.bincount(of_relation, minlength=num_relations)
    # Masters are ordered by (interior or boundary, type): each type is two slices.
    flat = sizes.reshape(store.num_parts, -1)
    first_local_id = (np.cumsum(flat, axis=1) - flat).reshape(sizes.shape)
    position = np.cumsum(sizes, axis=1) - sizes
    return Ids(sizes.sum(axis=1), edges, sizes[:, 0].sum(axis=1), position - first_local_id)


def destinations(part: PartTables) -> NDArray[np.int64]:
    """Return the local id of the destination of each edge, in CSC order.

    Shape:
        (E,) int64.
    """
    in_degree = np.diff(column_numpy(part.in_indptr, "indptr"))
    return np.repeat(np.arange(part.num_replicas, dtype=np.int64), in_degree)
