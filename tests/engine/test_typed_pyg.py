"""PyG trains on a remote typed graph as on local `HeteroData`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

import graphtheta as gt
from graphtheta.data.schema import matrix_column
from graphtheta.engine import RemoteGraph
from graphtheta.engine.pyg import (
    RemoteFeatureStore,
    RemoteGraphStore,
    RemoteLinkLoader,
    RemoteNodeLoader,
    RemoteSampler,
)
from graphtheta.errors import ConfigError, GraphThetaError

pyg = pytest.importorskip("torch_geometric")
conv = pytest.importorskip("torch_geometric.nn")

pytestmark = pytest.mark.filterwarnings("ignore:There exist node types")

RATES, RATED = ("user", "rates", "item"), ("item", "rated", "user")
LIKES = ("user", "likes", "user")
COUNTS = {"user": 60, "item": 40, "shop": 3}


def planted() -> gt.Graph:
    """Return a graph whose labels of items follow from the users that rate them."""
    rng = np.random.default_rng(0)
    nodes: dict[str, Any] = {
        name: {
            "id": [f"{name}{i}" for i in range(count)] if name == "item" else np.arange(count),
            "features": matrix_column(rng.standard_normal((count, 2 + len(name))).astype("f4")),
        }
        for name, count in COUNTS.items()
    }
    src, dst = rng.integers(0, 60, 240), rng.integers(0, 40, 240)
    weight = rng.standard_normal((240, 1)).astype("f4")
    total = np.zeros(40)
    np.add.at(total, dst, weight[:, 0])
    nodes["item"] |= {
        "label:kind": (total > 0).astype(np.int64),
        "split:split": (np.arange(40) % 2 * 2 + 1).astype(np.int8),
    }
    items = pa.array(nodes["item"]["id"])
    edges = {
        RATES: {"src": src, "dst": items.take(dst), "attr": matrix_column(weight)},
        RATED: {"src": items.take(dst), "dst": src},
        LIKES: {"src": rng.integers(0, 60, 90), "dst": rng.integers(0, 60, 90)},
    }
    return gt.Graph.from_arrow(
        {name: pa.table(table) for name, table in nodes.items()},
        {relation: pa.table(table) for relation, table in edges.items()},
    )


GRAPH = planted()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv.HeteroConv(
            {
                RATES: conv.GATConv((6, 6), 8, edge_dim=1, add_self_loops=False),
                RATED: conv.SAGEConv((6, 6), 8),
                LIKES: conv.SAGEConv(6, 8),
            }
        )
        self.second = conv.HeteroConv(
            {RATES: conv.GATConv((8, 8), 2, edge_dim=1, add_self_loops=False)}
        )

    def forward(self, batch: Any) -> Tensor:
        attr = {RATES: batch[RATES].edge_attr}
        x = self.first(batch.x_dict, batch.edge_index_dict, edge_attr_dict=attr)
        x = {name: h.relu() for name, h in x.items()}
        return self.second(x, batch.edge_index_dict, edge_attr_dict=attr)["item"]


def fit(batches: Any, model: nn.Module, epochs: int = 10) -> list[float]:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            size = batch["item"].batch_size
            loss = nn.functional.cross_entropy(model(batch)[:size], batch["item"].y[:size])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def whole(data: Any, seeds: Tensor) -> Any:
    """Return the whole graph as a batch, with the seed items first."""
    batch = data.clone()
    others = torch.ones(40, dtype=torch.bool)
    others[seeds] = False
    order = torch.cat([seeds, others.nonzero().flatten()])
    new = order.argsort()
    batch["item"].x, batch["item"].y = data["item"].x[order], data["item"].y[order]
    batch["item"].batch_size = len(seeds)
    src, dst = data[RATES].edge_index
    batch[RATES].edge_index = torch.stack([src, new[dst]])
    src, dst = data[RATED].edge_index
    batch[RATED].edge_index = torch.stack([new[src], dst])
    return batch


def local() -> Any:
    data = GRAPH.to_pyg()
    data["item"].y = torch.from_numpy(GRAPH.node_table("item")["label:kind"].to_numpy().copy())
    return data


def test_hetero_conv_trains_as_locally(remote: RemoteGraph) -> None:
    features = RemoteFeatureStore(remote)
    train = features.split("train", node_type="item")
    assert train.tolist() == list(range(0, 40, 2))
    stores, data, losses = (features, RemoteGraphStore(remote)), local(), []
    for batches in (
        RemoteNodeLoader(stores, [-1, -1], ("item", train), batch_size=7),
        [whole(data, seeds) for seeds in train.split(7)],
    ):
        torch.manual_seed(0)
        losses.append(fit(batches, Model()))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    assert np.mean(losses[0][-3:]) < np.mean(losses[0][:3])


def test_batches_hold_what_pyg_promises(remote: RemoteGraph) -> None:
    data = local()
    features = RemoteFeatureStore(remote)
    stores, seeds = (features, RemoteGraphStore(remote)), torch.arange(0, 40, 3)
    fanouts = {RATES: [3, 2], RATED: [1, 1], LIKES: [0, 2]}
    for batch, nodes in zip(
        RemoteNodeLoader(stores, fanouts, ("item", seeds), batch_size=5),
        seeds.split(5),
        strict=True,
    ):
        assert batch["item"].n_id[: batch["item"].batch_size].equal(nodes)
        assert batch["item"].input_id.tolist() == [seeds.tolist().index(n) for n in nodes.tolist()]
        assert set(batch.node_types) == set(COUNTS)
        for name in COUNTS:
            assert batch[name].x.equal(data[name].x[batch[name].n_id])
            assert sum(batch[name].num_sampled_nodes) == batch[name].num_nodes
            assert len(batch[name].n_id.unique()) == batch[name].num_nodes
        assert batch.num_sampled_nodes_dict["item"][0] == len(nodes)
        for relation in (RATES, RATED, LIKES):
            found = batch[relation]
            ends = torch.stack(
                [
                    batch[relation[0]].n_id[found.edge_index[0]],
                    batch[relation[2]].n_id[found.edge_index[1]],
                ]
            )
            assert ends.equal(data[relation].edge_index[:, found.e_id])
            assert sum(batch.num_sampled_edges_dict[relation]) == len(found.e_id)
        assert batch[RATES].edge_attr.equal(data[RATES].edge_attr[batch[RATES].e_id])
        assert batch.num_sampled_edges_dict[LIKES][0] == 0
        assert batch[RATES].edge_index[1].bincount().max() <= 3
    links = data[RATES].edge_index[:, :20]
    for batch in RemoteLinkLoader(
        stores, [2], (RATES, links), batch_size=10, neg_sampling_ratio=1.0
    ):
        found = batch[RATES]
        positive = found.edge_label_index[:, found.edge_label == 1]
        ends = torch.stack([batch["user"].n_id[positive[0]], batch["item"].n_id[positive[1]]])
        assert ends.equal(links[:, found.input_id])


def test_stores_return_the_local_tensors(remote: RemoteGraph) -> None:
    data = local()
    features, edges = RemoteFeatureStore(remote), RemoteGraphStore(remote)
    index = torch.tensor([5, 0, 39, 5])
    assert features.get_tensor("item", "x", index).equal(data["item"].x[index])
    assert features.get_tensor("item", "x", None).equal(data["item"].x)
    assert features.get_tensor(RATES, "edge_attr", index).equal(data[RATES].edge_attr[index])
    assert features.get_tensor(RATES, "edge_attr", None).equal(data[RATES].edge_attr)
    assert features.get_tensor_size("item", "x") == (40, 6)
    row, col = edges.get_edge_index(RATES, "coo")
    assert torch.stack([row, col]).equal(data[RATES].edge_index)
    _, pointers = edges.get_edge_index(RATED, "csc")
    assert len(pointers) == 61
    stores = (features, edges)
    for wrong in (
        lambda: features.get_tensor("nothing", "x", index),
        lambda: features.get_tensor("item", "z", index),
        lambda: features.split("train"),
        lambda: RemoteFeatureStore(remote, {"nothing": {"x": "features"}}),
        lambda: RemoteFeatureStore(remote, {"item": {"x": "nothing"}}),
        lambda: RemoteNodeLoader(stores, [2], index),
        lambda: RemoteNodeLoader(stores, [2], ("nothing", index)),
        lambda: RemoteLinkLoader(stores, [2], torch.stack([index, index])),
        lambda: RemoteSampler(remote, {("a", "b", "c"): [2]}),
        lambda: RemoteSampler(remote, [2], weight="attr"),
    ):
        with pytest.raises((ConfigError, GraphThetaError)) as error:
            wrong()
        assert len(str(error.value).splitlines()) == 1
    assert RemoteFeatureStore(remote, {"item": {"x": "features"}}).get_all_tensor_attrs()
