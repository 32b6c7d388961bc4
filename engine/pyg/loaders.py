"""PyG's node and link loaders with edge attributes, which PyG omits for remote backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch_geometric.loader import LinkLoader, NodeLoader

from graphtheta.engine.pyg.sampler import RemoteSampler, RemoteSamplerOutput
from graphtheta.engine.pyg.stores import RemoteFeatureStore, RemoteGraphStore

__all__ = ["RemoteLinkLoader", "RemoteNodeLoader"]

_Stores = tuple[RemoteFeatureStore, RemoteGraphStore]
_Transform = Callable[[Any], Any]


class RemoteNodeLoader(NodeLoader):
    """Loader of mini-batches around nodes, with all columns of the feature store.

    Args:
        data: The feature store and the graph store.
        num_neighbors: In-edges to draw for each node, for each hop from the input nodes; -1 takes
            all.
        input_nodes: (T,) node keys, such as those of `RemoteFeatureStore.split`.
        replace: Whether an edge can be drawn more than once.
        weight: Edge column that holds the draw weights. If None, draws are uniform.
        seed: Random seed of the draws.
        transform: Function applied to each batch.
        options: Options of PyG's `NodeLoader`. Worker processes are spawned, because gRPC does not
            survive a fork.
    """

    def __init__(
        self,
        data: _Stores,
        num_neighbors: Sequence[int],
        input_nodes: Any,
        *,
        replace: bool = False,
        weight: str | None = None,
        seed: int = 0,
        transform: _Transform | None = None,
        **options: Any,
    ) -> None:
        self._edge_columns, self._transform = data[0].edge_columns, transform
        sampler = _sampler(data[0], num_neighbors, replace, weight, seed)
        super().__init__(data, sampler, input_nodes, **_spawn_workers(options))
        sampler.keep(self.input_data.node)

    def filter_fn(self, out: RemoteSamplerOutput) -> Any:
        batch = super().filter_fn(out)
        return _finish(batch, out, self._edge_columns, self._transform)


class RemoteLinkLoader(LinkLoader):
    """Loader of mini-batches around the end nodes of links.

    Args:
        data: The feature store and the graph store.
        num_neighbors: In-edges to draw for each node, for each hop from the links; -1 takes all.
        edge_label_index: (2, T) node keys of the links' sources and destinations.
        replace: Whether an edge can be drawn more than once.
        weight: Edge column that holds the draw weights. If None, draws are uniform.
        seed: Random seed of the draws.
        transform: Function applied to each batch.
        options: Options of PyG's `LinkLoader`, such as `edge_label` and `neg_sampling`. Worker
            processes are spawned.
    """

    def __init__(
        self,
        data: _Stores,
        num_neighbors: Sequence[int],
        edge_label_index: Any,
        *,
        replace: bool = False,
        weight: str | None = None,
        seed: int = 0,
        transform: _Transform | None = None,
        **options: Any,
    ) -> None:
        self._edge_columns, self._transform = data[0].edge_columns, transform
        sampler = _sampler(data[0], num_neighbors, replace, weight, seed)
        super().__init__(data, sampler, (None, edge_label_index), **_spawn_workers(options))

    def filter_fn(self, out: RemoteSamplerOutput) -> Any:
        batch = super().filter_fn(out)
        return _finish(batch, out, self._edge_columns, self._transform)


def _sampler(
    features: RemoteFeatureStore,
    num_neighbors: Sequence[int],
    replace: bool,
    weight: str | None,
    seed: int,
) -> RemoteSampler:
    columns = list(dict.fromkeys(features.edge_columns.values()))
    return RemoteSampler(
        features.graph, num_neighbors, replace=replace, weight=weight, seed=seed, columns=columns
    )


def _spawn_workers(options: dict[str, Any]) -> dict[str, Any]:
    if options.get("num_workers", 0) > 0:
        options.setdefault("multiprocessing_context", "spawn")
    return options


def _finish(
    batch: Any,
    out: RemoteSamplerOutput,
    edge_columns: dict[str, str],
    transform: _Transform | None,
) -> Any:
    """Add the edge attributes to a batch and apply the transform."""
    for name, column in edge_columns.items():
        batch[name] = out.edge_columns[column]
    return batch if transform is None else transform(batch)
