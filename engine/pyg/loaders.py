"""PyG's node and link loaders with edge attributes, which PyG leaves out of its remote backends."""

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
    """Batches of nodes and what is drawn around them, with all columns of the feature store.

    Args:
        data: The stores.
        num_neighbors: As of `RemoteSampler`.
        input_nodes: (T,) node keys, such as those of `RemoteFeatureStore.split`.
        replace: As of `RemoteSampler`.
        weight: As of `RemoteSampler`.
        seed: As of `RemoteSampler`.
        transform: Applied to each batch.
        options: As of PyG's `NodeLoader`. Worker processes are spawned: gRPC survives no fork.
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
        self._edges = data[0].edge_columns
        self._then = transform
        sampler = _sampler(data[0], num_neighbors, replace, weight, seed)
        super().__init__(data, sampler, input_nodes, **_spawned(options))
        sampler.keep(self.input_data.node)

    def filter_fn(self, out: RemoteSamplerOutput) -> Any:
        """Return the batch of what was drawn."""
        return _finished(super().filter_fn(out), out, self._edges, self._then)


class RemoteLinkLoader(LinkLoader):
    """Batches of links and what is drawn around their ends; see `RemoteNodeLoader`.

    Args:
        data: The stores.
        num_neighbors: As of `RemoteSampler`.
        edge_label_index: (2, T) node keys of the links' sources and destinations.
        replace: As of `RemoteSampler`.
        weight: As of `RemoteSampler`.
        seed: As of `RemoteSampler`.
        transform: Applied to each batch.
        options: As of PyG's `LinkLoader`, such as `edge_label` and `neg_sampling`.
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
        self._edges = data[0].edge_columns
        self._then = transform
        sampler = _sampler(data[0], num_neighbors, replace, weight, seed)
        super().__init__(data, sampler, (None, edge_label_index), **_spawned(options))

    def filter_fn(self, out: RemoteSamplerOutput) -> Any:
        """Return the batch of what was drawn."""
        return _finished(super().filter_fn(out), out, self._edges, self._then)


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


def _spawned(options: dict[str, Any]) -> dict[str, Any]:
    if options.get("num_workers", 0) > 0:
        options.setdefault("multiprocessing_context", "spawn")
    return options


def _finished(
    batch: Any, out: RemoteSamplerOutput, edges: dict[str, str], then: _Transform | None
) -> Any:
    for name, column in edges.items():
        batch[name] = out.edge_columns[column]
    return batch if then is None else then(batch)
