"""PyG's node and link loaders with edge attributes, which PyG omits for remote backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch_geometric.loader import LinkLoader, NodeLoader

from graphtheta.engine.pyg.sampler import RemoteSampler, RemoteSamplerOutput
from graphtheta.engine.pyg.stores import RemoteFeatureStore, RemoteGraphStore, node_keys
from graphtheta.errors import GraphFormatError

__all__ = ["RemoteLinkLoader", "RemoteNodeLoader"]

_Stores = tuple[RemoteFeatureStore, RemoteGraphStore]


class _RemoteLoader:
    """Mixin of PyG's loaders that lets the servers draw and adds edge attributes to batches."""

    def __init__(
        self,
        data: _Stores,
        num_neighbors: Sequence[int],
        seeds: Any,
        *,
        replace: bool = False,
        weight: str | None = None,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        graph, self._edge_columns = data[0].graph, data[0].edge_columns
        columns = list(dict.fromkeys(self._edge_columns.values()))
        self._sampler = RemoteSampler(
            graph, num_neighbors, replace=replace, weight=weight, seed=seed, columns=columns
        )
        self._transform = transform
        if options.get("num_workers", 0) > 0:
            options.setdefault("multiprocessing_context", "spawn")
        super().__init__(data, self._sampler, seeds, **options)  # type: ignore[call-arg]

    def filter_fn(self, out: RemoteSamplerOutput) -> Any:
        batch = super().filter_fn(out)  # type: ignore[misc]
        batch.num_nodes = len(out.node)  # PyG knows it only from node attributes
        for name, column in self._edge_columns.items():
            batch[name] = out.edge_columns[column]
        return batch if self._transform is None else self._transform(batch)


class RemoteNodeLoader(_RemoteLoader, NodeLoader):
    """Loader of mini-batches around nodes, with all columns of the feature store.

    Args:
        data: The feature store and the graph store.
        num_neighbors: In-edges to draw for each node, for each hop from the input nodes; -1 takes
            all, 0 none.
        input_nodes: (T,) node keys, such as those of `RemoteFeatureStore.split`, or a mask of all
            nodes. If None, all nodes.
        replace: Whether an edge can be drawn more than once.
        weight: Edge column that holds the draw weights. If None, draws are uniform.
        seed: Random seed of the draws.
        transform: Function applied to each batch.
        options: Options of PyG's `NodeLoader`. Worker processes are spawned, because gRPC does not
            survive a fork.
    """

    def __init__(
        self, data: _Stores, num_neighbors: Sequence[int], input_nodes: Any, **options: Any
    ) -> None:
        nodes = node_keys(data[0].graph, input_nodes, "input_nodes")
        if getattr(input_nodes, "dtype", None) in (bool, torch.bool):
            options.setdefault("input_id", nodes)  # as PyG does for masks
        super().__init__(data, num_neighbors, nodes, **options)
        self._sampler.keep(self.input_data.node)


class RemoteLinkLoader(_RemoteLoader, LinkLoader):
    """Loader of mini-batches around the end nodes of links.

    Args:
        data: The feature store and the graph store.
        num_neighbors: In-edges to draw for each node, for each hop from the links; -1 takes all,
            0 none.
        edge_label_index: (2, T) node keys of the links' sources and destinations. If None, all
            edges.
        replace: Whether an edge can be drawn more than once.
        weight: Edge column that holds the draw weights. If None, draws are uniform.
        seed: Random seed of the draws.
        transform: Function applied to each batch.
        options: Options of PyG's `LinkLoader`, such as `edge_label` and `neg_sampling`. Worker
            processes are spawned.
    """

    def __init__(
        self, data: _Stores, num_neighbors: Sequence[int], edge_label_index: Any, **options: Any
    ) -> None:
        if edge_label_index is None:
            edge_label_index = data[1].get_edge_index(None, "coo")
        ends = [node_keys(data[0].graph, end, "edge_label_index") for end in edge_label_index]
        if len(ends) != 2 or len(ends[0]) != len(ends[1]):
            raise GraphFormatError(
                f"edge_label_index: expected as many sources as destinations, got "
                f"{', '.join(f'{len(end):,}' for end in ends)}. Give the two ends of each link."
            )
        super().__init__(data, num_neighbors, (None, torch.stack(ends)), **options)
