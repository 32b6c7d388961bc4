"""PyG trains on a remote graph as on a local one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

import graphtheta as gt
from graphtheta.data.schema import matrix_column
from graphtheta.engine import RemoteGraph, connect
from graphtheta.engine.client.connection import Connection
from graphtheta.engine.pyg import (
    RemoteFeatureStore,
    RemoteGraphStore,
    RemoteLinkLoader,
    RemoteNodeLoader,
    RemoteSampler,
)
from graphtheta.errors import ConfigError, UnknownNode
from tests.engine.processes import serve
from tests.engine.stores import make, serving, weighted

pyg = pytest.importorskip("torch_geometric")
loader = pytest.importorskip("torch_geometric.loader")
conv = pytest.importorskip("torch_geometric.nn")


class Sage(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.first = conv.SAGEConv(features, 32)
        self.second = conv.SAGEConv(32, classes)

    def forward(self, batch: Any) -> Tensor:
        x = self.first(batch.x, batch.edge_index).relu()
        return self.second(nn.functional.dropout(x, 0.5, self.training), batch.edge_index)


class Edgy(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.first = conv.GINEConv(nn.Linear(features, 16), edge_dim=2)
        self.second = conv.GINEConv(nn.Linear(16, classes), edge_dim=2)

    def forward(self, batch: Any) -> Tensor:
        x = self.first(batch.x, batch.edge_index, batch.edge_attr).relu()
        return self.second(x, batch.edge_index, batch.edge_attr)


def fit(batches: Any, model: nn.Module, epochs: int) -> list[float]:
    """Train on the batches of a loader and return the losses."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    losses = []
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            seeds = slice(0, batch.batch_size)
            loss = nn.functional.cross_entropy(model(batch)[seeds], batch.y[seeds])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def whole(data: Any, seeds: Tensor) -> Any:
    """Return the whole graph as a batch, with the seed nodes first."""
    others = torch.ones(data.num_nodes, dtype=torch.bool)
    others[seeds] = False
    order = torch.cat([seeds, others.nonzero().flatten()])
    batch = data.clone()
    batch.edge_index = order.argsort()[data.edge_index]
    batch.x, batch.y, batch.batch_size = data.x[order], data.y[order], len(seeds)
    return batch


@torch.no_grad()
def accuracy(batches: Any, model: nn.Module) -> float:
    model.eval()
    right = [(model(b)[: b.batch_size].argmax(1) == b.y[: b.batch_size]).float() for b in batches]
    return float(torch.cat(right).mean())


@pytest.fixture(scope="module")
def cora(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteGraph]:
    """Cora in two parts, each served by a process."""
    path = tmp_path_factory.mktemp("cora") / "store"
    make(gt.datasets.load("cora"), path, 2, "kaminpar")
    with ExitStack() as stack:
        servers = [stack.enter_context(serve(path, "--part", part)) for part in (0, 1)]
        yield stack.enter_context(connect([server.address for server in servers]))


@pytest.mark.slow
@pytest.mark.spawn
def test_sage_reaches_the_accuracy_of_local_training(cora: RemoteGraph) -> None:
    features = RemoteFeatureStore(cora)
    stores = (features, RemoteGraphStore(cora))
    data = gt.datasets.load("cora").to_pyg()
    train, test = features.split("train"), features.split("test")
    assert train.equal(data.train_mask.nonzero().flatten())
    reached = {}
    for name in ("remote", "local"):
        torch.manual_seed(0)
        model = Sage(data.num_features, 7)
        options = {"batch_size": 70, "shuffle": True}
        if name == "remote":
            sampler = RemoteSampler(cora, [10, 10])
            fit(loader.NodeLoader(stores, sampler, train, **options), model, 30)  # PyG's own
        else:
            fit([whole(data, seeds) for seeds in train.split(70)], model, 30)
        reached[name] = accuracy([whole(data, test)], model)
    assert reached["remote"] > 0.75
    assert abs(reached["remote"] - reached["local"]) < 0.03, reached


def planted(num_nodes: int = 300) -> gt.Graph:
    """Return a graph whose labels can only be predicted from the edge attributes."""
    rng = np.random.default_rng(0)
    src, dst = rng.integers(0, num_nodes, (2, 6 * num_nodes))
    attr = rng.standard_normal((len(src), 2)).astype(np.float32)
    total = np.zeros(num_nodes)
    np.add.at(total, dst, attr[:, 0] + 0.2)
    nodes = {
        "id": pa.array([f"n{i}" for i in range(num_nodes)]),
        "features": matrix_column(rng.standard_normal((num_nodes, 4)).astype(np.float32)),
        "label:y": pa.array((total > 1).astype(np.int64)),
        "split:split": pa.array((rng.random(num_nodes) < 0.5).astype(np.int8) * 2 + np.int8(1)),
    }
    edges = {"src": src, "dst": dst, "attr": matrix_column(attr)}
    return gt.Graph(pa.table(nodes), pa.table(edges))


@pytest.mark.parametrize("method", [pytest.param("node-hash", marks=pytest.mark.slow), "dbh"])
def test_edge_features_train_as_locally(tmp_path: Path, method: str) -> None:
    """With all neighbours drawn, remote batches give the same losses as local ones."""
    graph = planted()
    make(graph, tmp_path / "store", 2, method)
    data = graph.to_pyg()
    with serving(tmp_path / "store", 2) as remote:
        features = RemoteFeatureStore(remote)
        stores, train = (features, RemoteGraphStore(remote)), features.split("train")
        losses = []
        for batches in (
            RemoteNodeLoader(stores, [-1, -1], train, batch_size=40),
            [whole(data, seeds) for seeds in train.split(40)],
        ):
            torch.manual_seed(0)
            model = Edgy(4, 2)
            losses.append(fit(batches, model, 10))
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
        other = RemoteNodeLoader(stores, [-1, -1], features.split("test"), batch_size=400)
        assert np.mean(losses[0][-3:]) < np.mean(losses[0][:3])
        assert accuracy(other, model) > 0.6


@pytest.mark.slow
@pytest.mark.spawn
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_batches_hold_what_pyg_promises(tmp_path: Path) -> None:
    graph = weighted()
    make(graph, tmp_path / "store", 3, "dbh")
    data = graph.to_pyg()
    with serving(tmp_path / "store", 2) as remote:
        features = RemoteFeatureStore(remote)
        stores = (features, RemoteGraphStore(remote))
        seeds = torch.arange(0, 90, 3)
        drawn = []
        for workers in (2, 0):  # as processes, and in this one
            batches = RemoteNodeLoader(stores, [3, 2], seeds, batch_size=8, num_workers=workers)
            drawn.append([batch.e_id for batch in batches])
        assert all(a.equal(b) for a, b in zip(*drawn, strict=True))
        for batch, nodes in zip(batches, seeds.split(8), strict=True):
            assert batch.n_id[: batch.batch_size].equal(nodes)
            assert len(batch.n_id.unique()) == len(batch.n_id)
            assert batch.n_id[batch.edge_index].equal(data.edge_index[:, batch.e_id])
            assert batch.edge_attr.equal(data.edge_attr[batch.e_id])
            assert batch.x.equal(data.x[batch.n_id])
            assert sum(batch.num_sampled_nodes) == len(batch.n_id)
            assert sum(batch.num_sampled_edges) == len(batch.e_id)
            assert batch.edge_index[1].bincount().max() <= 3
        links = data.edge_index[:, :20]
        for batch in RemoteLinkLoader(stores, [2], links, batch_size=10, neg_sampling_ratio=1.0):
            assert batch.n_id[batch.edge_index].equal(data.edge_index[:, batch.e_id])
            positive = batch.edge_label_index[:, batch.edge_label == 1]
            assert batch.n_id[positive].equal(links[:, batch.input_id])
            assert len(batch.edge_label) == 20


def test_batches_of_known_nodes_are_not_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(weighted(), tmp_path / "store", 3, "dbh")
    methods, stream = [], Connection.stream

    def recorded(connection: Connection, method: str, *rest: Any) -> list[bytes]:
        methods.append(method)
        return stream(connection, method, *rest)

    monkeypatch.setattr(Connection, "stream", recorded)
    with serving(tmp_path / "store", 2) as remote:
        stores = (RemoteFeatureStore(remote), RemoteGraphStore(remote))
        seeds = torch.tensor([3, 88, 3, 41, 0, 7])
        batches = RemoteNodeLoader(stores, [3, 2], seeds, batch_size=4)
        assert "Lookup" in methods
        methods.clear()
        known = [(batch.n_id, batch.e_id, batch.x) for batch in batches]
        assert set(methods) == {"Neighbours", "NodeColumns"}
        options = {"batch_size": 4, "filter_per_worker": True}
        unknown = loader.NodeLoader(stores, RemoteSampler(remote, [3, 2]), seeds, **options)
        for (n_id, e_id, x), batch in zip(known, unknown, strict=True):
            assert batch.n_id.equal(n_id)
            assert batch.e_id.equal(e_id)
            assert batch.x.equal(x)
        assert "Lookup" in methods
        with pytest.raises(UnknownNode, match="node keys"):
            RemoteNodeLoader(stores, [3], torch.tensor([90]))


def test_stores_return_the_local_tensors(tmp_path: Path) -> None:
    graph = weighted()
    make(graph, tmp_path / "store", 3, "node-hash")
    data = graph.to_pyg()
    with serving(tmp_path / "store", 2) as remote:
        features, edges = RemoteFeatureStore(remote), RemoteGraphStore(remote)
        index = torch.tensor([5, 0, 89, 5])
        assert features.get_tensor(None, "x", index).equal(data.x[index])
        assert features.get_tensor(None, "x", None).equal(data.x)
        assert features.get_tensor(None, "x", slice(3, 9)).equal(data.x[3:9])
        group = ("node", "to", "node")
        found = features.get_tensor(group, "edge_attr", index)
        assert found.equal(data.edge_attr[index])
        assert features.get_tensor_size(group, "edge_attr") == tuple(data.edge_attr.shape)
        assert features.get_tensor_size(None, "x") == tuple(data.x.shape)
        for layout in ("coo", "csc", "csr"):
            got = edges.get_edge_index(None, layout)
            order = torch.from_numpy(np.lexsort(data.edge_index.numpy()))
            src, dst = data.edge_index
            if layout == "coo":
                row = torch.stack(got)
                assert row[:, np.lexsort(row.numpy())].equal(data.edge_index[:, order])
            else:
                indptr = got[1] if layout == "csc" else got[0]
                degrees = (dst if layout == "csc" else src).bincount(minlength=90)
                assert indptr.diff().equal(degrees)
        for write in (
            lambda: features.put_tensor(index, None, "x", index),
            lambda: features.remove_tensor(None, "x", index),
            lambda: edges.put_edge_index(tuple(data.edge_index), None, "coo"),
            lambda: features.get_tensor(None, "z", index),
            lambda: RemoteSampler(remote, [-2]),
            lambda: RemoteFeatureStore(remote, {"x": "nothing"}),
            lambda: features.split("all"),
        ):
            with pytest.raises(ConfigError):
                write()
