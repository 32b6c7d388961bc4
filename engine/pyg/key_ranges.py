"""Node types and relations of a remote graph as PyG numbers them: from 0 within each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from graphtheta.data.types import Relation
from graphtheta.engine.client.graph import RemoteGraph
from graphtheta.errors import ConfigError
from graphtheta.partition import ColumnSpec

__all__ = [
    "EDGES",
    "EdgeRange",
    "EdgeType",
    "NodeRange",
    "edge_ranges",
    "node_range",
    "node_ranges",
]

EdgeType: TypeAlias = tuple[str, str, str]
EDGES: EdgeType = ("node", "to", "node")  # group of the edge attributes of an untyped graph


class NodeRange(NamedTuple):
    """Nodes of a type. PyG's number of a node is its key minus `first_key`.

    Attributes:
        node_type: Name of the type, or None in a graph without types.
        first_key: Key of the first node.
        size: Number of nodes.
        columns: Columns by name.
    """

    node_type: str | None
    first_key: int
    size: int
    columns: Mapping[str, ColumnSpec]


class EdgeRange(NamedTuple):
    """Edges of a relation. PyG's number of an edge is its key minus `first_key`.

    Attributes:
        relation: The relation, or None in a graph without types.
        first_key: Key of the first edge.
        size: Number of stored edges.
        columns: Columns by name.
        source: Nodes at which the edges begin.
        destination: Nodes at which they end.
    """

    relation: Relation | None
    first_key: int
    size: int
    columns: Mapping[str, ColumnSpec]
    source: NodeRange
    destination: NodeRange


def node_ranges(graph: RemoteGraph) -> dict[str | None, NodeRange]:
    """Return the node types by name; in a graph without types, all nodes by None."""
    manifest = graph.manifest
    if not manifest.is_typed:
        return {None: NodeRange(None, 0, manifest.num_nodes, manifest.node_columns)}
    return {t.name: NodeRange(t.name, t.first_key, t.count, t.columns) for t in manifest.node_types}


def node_range(graph: RemoteGraph, node_type: str | None) -> NodeRange:
    """Return a node type.

    Raises:
        ConfigError: If there is no such type.
    """
    found = node_ranges(graph)
    if node_type not in found:
        known = [name for name in found if name is not None]
        expected = f"one of {', '.join(known)}" if known else "none, in a graph without types"
        raise ConfigError(f"node type: expected {expected}, got {node_type!r}. Correct it.")
    return found[node_type]


def edge_ranges(graph: RemoteGraph) -> dict[EdgeType, EdgeRange]:
    """Return the relations; in a graph without types, all edges by `EDGES`."""
    manifest, nodes = graph.manifest, node_ranges(graph)
    if not manifest.is_typed:
        ends = nodes[None], nodes[None]
        return {EDGES: EdgeRange(None, 0, manifest.num_edges, manifest.edge_columns, *ends)}
    counts = [of.num_edges for of in manifest.quality.relations] or [manifest.num_edges]
    return {
        (spec.source, spec.name, spec.destination): EdgeRange(
            spec.relation,
            spec.first_key,
            count,
            spec.columns,
            nodes[spec.source],
            nodes[spec.destination],
        )
        for spec, count in zip(manifest.relations, counts, strict=True)
    }
