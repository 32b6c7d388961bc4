"""PyG's node and link loaders with edge attributes, which PyG omits for remote backends."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import torch
from torch_geometric.loader import LinkLoader, NodeLoader

from graphtheta.data.types import Relation
from graphtheta.engine.pyg.key_ranges import EDGES
from graphtheta.engine.pyg.sampler import (
    NumNeighbors,
    RemoteHeteroOutput,
    RemoteSampler,
    RemoteSamplerOutput,
)
from graphtheta.engine.pyg.stores import RemoteFeatureStore, RemoteGraphStore, node_keys
from graphtheta.errors import ConfigError, GraphFormatError

__all__ = ["RemoteLinkLoader", "RemoteNodeLoader"]

_Stores = tuple[RemoteFeatureStore, RemoteGraphStore]


class _RemoteLoader:
    """Mixin of PyG's loaders that lets the servers draw and adds edge attributes to batches."""

    def __init__(
        self,
        data: _Stores,
        num_neighbors: NumNeighbors,
        seeds: Any,
        *,
        replace: bool = False,
        weight: str | None = None,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        graph, self._edge_columns = data[0].graph, data[0].edge_columns
        by_relation = {
            group: list(dict.fromkeys(names.values()))
            for group, names in self._edge_columns.items()
        }
        columns: Any = by_relation if graph.manifest.is_typed else by_relation[EDGES]
        self._sampler = RemoteSampler(
            graph, num_neighbors, replace=replace, weight=weight, seed=seed, columns=columns
        )
        self._transform = transform
        if options.get("num_workers", 0) > 0:
            options.setdefault("multiprocessing_context", "spawn")
        super().__init__(data, self._sampler, seeds, **options)  # type: ignore[call-arg]

    def filter_fn(self, out: RemoteSamplerOutput | RemoteHeteroOutput) -> Any:
        batch = super().filter_fn(out)  # type: ignore[misc]
        if isinstance(out, RemoteHeteroOutput):
            for name, nodes in out.node.items():
                batch[name].num_nodes = len(nodes)
            for group, columns in out.edge_columns.items():
                for name, column in self._edge_columns[group].items():
                    batch[group][name] = columns[column]
        else:
            batch.num_nodes = len(out.node)  # PyG knows it only from node attributes
            for name, column in self._edge_columns[EDGES].items():
                batch[name] = out.edge_columns[column]
        return batch if self._transform is None else self._transform(batch)


class RemoteNodeLoader(_RemoteLoader, NodeLoader):
    """Loader of mini-batches around nodes, with all columns of the feature store.

    Args:
        data: The feature store and the graph store.
        num_neighbors: In-edges to draw for each node, for each hop from the input nodes; -1 takes
            all, 0 none.
        input_nodes: (T,) node keys, such as those of `RemoteFeatureStore.split`, or a mask of all
            nodes. If None, all nodes. In a typed graph a node type, for all its nodes, or a pair
            such as `("paper", nodes)`, whose nodes are numbered from 0.
        replace: Whether an edge can be drawn more than once.
        weight: Edge column that holds the draw weights. If None, draws are uniform.
        seed: Random seed of the draws.
        transform: Function applied to each batch.
        options: Options of PyG's `NodeLoader`. Worker processes are spawned, because gRPC does not
            survive a fork.
    """

    def __init__(
        self, data: _Stores, num_neighbors: NumNeighbors, input_nodes: Any, **options: Any
    ) -> None:
        graph, node_type = data[0].graph, None
        if graph.manifest.is_typed:
            node_type, input_nodes = _of_type(input_nodes, "input_nodes", "a node type")
        nodes = node_keys(graph, input_nodes, "input_nodes", node_type)
        if getattr(input_nodes, "dtype", None) in (bool, torch.bool):
            options.setdefault("input_id", nodes)  # as PyG does for masks
        seeds = nodes if node_type is None else (node_type, nodes)
        super().__init__(data, num_neighbors, seeds, **options)
        self._sampler.keep(self.input_data.node, node_type)


class RemoteLinkLoader(_RemoteLoader, LinkLoader):
    """Loader of mini-batches around the end nodes of links.

    Args:
        data: The feature store and the graph store.
        num_neighbors: In-edges to draw for each node, for each hop from the links; -1 takes all,
            0 none.
        edge_label_index: (2, T) node keys of the links' sources and destinations. If None, all
            edges. In a typed graph a relation, for all its edges, or a pair such as
            `(("author", "writes", "paper"), edge_label_index)`.
        replace: Whether an edge can be drawn more than once.
        weight: Edge column that holds the draw weights. If None, draws are uniform.
        seed: Random seed of the draws.
        transform: Function applied to each batch.
        options: Options of PyG's `LinkLoader`, such as `edge_label` and `neg_sampling`. Worker
            processes are spawned.
    """

    def __init__(
        self, data: _Stores, num_neighbors: NumNeighbors, edge_label_index: Any, **options: Any
    ) -> None:
        graph, relation = data[0].graph, None
        types: tuple[str | None, str | None] = None, None
        if graph.manifest.is_typed:
            relation, edge_label_index = _of_type(
                edge_label_index, "edge_label_index", "a relation"
            )
            relation = tuple(Relation.of(relation))
            types = relation[0], relation[2]
        if edge_label_index is None:
            edge_label_index = data[1].get_edge_index(relation, "coo")
        ends = [
            node_keys(graph, end, "edge_label_index", node_type)
            for end, node_type in zip_longest(edge_label_index, types)
        ]
        if len(ends) != 2 or len(ends[0]) != len(ends[1]):
            raise GraphFormatError(
                f"edge_label_index: expected as many sources as destinations, got "
                f"{', '.join(f'{len(end):,}' for end in ends)}. Give the two ends of each link."
            )
        super().__init__(data, num_neighbors, (relation, torch.stack(ends)), **options)


def _of_type(given: Any, option: str, what: str) -> tuple[Any, Any]:
    """Return the type and the rows that a user gave as `(type, rows)`, or as a type for all."""
    if isinstance(given, str) or (isinstance(given, tuple) and len(given) == 3):
        return given, None
    if not isinstance(given, (list, tuple)) or len(given) != 2:
        raise ConfigError(
            f"{option}: expected {what}, or a pair of {what} and rows, in a graph of several "
            f"types, got {type(given).__name__}. Name the type."
        )
    return given[0], given[1]
