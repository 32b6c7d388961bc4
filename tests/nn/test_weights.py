"""Edge weights: GCN reads them in every batch and on any number of workers, or does not."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.inference.nodes import infer_nodes
from graphtheta.inference.whole import gather_rows, infer
from graphtheta.nn import GCN, GIN, GCNConv, GraphSAGE, SAGEConv, model_for, seeded
from graphtheta.strategy import GlobalBatch, MiniBatch, Strategy
from graphtheta.tgar import Fanout, Neighbourhoods, View
from tests.graphs import CORNER_GRAPHS, random_graph, to_graph
from tests.nn.steps import assert_equal, run_layer

NUM_NODES, NUM_EDGES = 40, 160


def with_weights(graph: gt.Graph, weight: Any) -> gt.Graph:
    edges = graph.edges.append_column("weight", pa.array(weight))
    return gt.Graph(graph.nodes, edges)


PLAIN = to_graph(random_graph(NUM_NODES, NUM_EDGES), dtype=np.float64)
GRAPH = with_weights(PLAIN, np.random.default_rng(0).random(NUM_EDGES))
COMMUNITIES = np.arange(NUM_NODES) % 4
STRATEGIES: dict[str, Strategy] = {
    "global": GlobalBatch(),
    "mini": MiniBatch(5),
    "sampled": MiniBatch(5, [3, 3]),
    "sampled by weight": MiniBatch(5, [3, 3], weight="weight"),
    "cluster": gt.ClusterBatch(2, COMMUNITIES),
    "renormalised": gt.ClusterBatch(2, COMMUNITIES, renormalise=True),
}


def seeded_gcn(**weighted: bool) -> Any:
    def make() -> GCNConv:
        with seeded(0):
            return GCNConv(3, 4, **weighted)

    return make


def losses(strategy: Strategy, workers: int = 1, method: str = "node-hash") -> list[float]:
    def job(comm: Communicator) -> list[float]:
        shard = gt.open_shard(GRAPH, comm, method=method)
        model = GCN(3, 4, 4, dropout=0.2).double()
        return gt.Trainer(model, shard, strategy=strategy, evaluate_every=9).fit(2)["loss_history"]

    result: list[float] = gt.run_local(job, workers=workers, timeout_s=60)
    return result


@pytest.mark.parametrize("name", STRATEGIES)
def test_losses_with_weights_do_not_depend_on_the_workers(name: str) -> None:
    single = losses(STRATEGIES[name])
    for method in ("node-hash", "dbh"):
        assert_equal(losses(STRATEGIES[name], 2, method), single, 1e-10)


def test_a_mini_batch_gives_the_rows_of_the_whole_graph() -> None:
    def job(comm: Communicator) -> Any:
        shard = gt.open_shard(GRAPH, comm, method="dbh")
        model = GCN(3, 4, 4).double()
        rows = np.arange(0, shard.num_masters, 3)
        some, whole = infer_nodes(model, shard, rows), infer(model, shard)
        assert torch.allclose(some, whole[torch.from_numpy(rows)], atol=1e-12)
        return gather_rows(whole, shard)

    assert_equal(gt.run_local(job, workers=2), gt.run_local(job, workers=1), 1e-12)


def test_a_renormalised_batch_is_the_convolution_of_its_subgraph() -> None:
    pyg = pytest.importorskip("torch_geometric.nn")
    shard = gt.open_shard(GRAPH)
    conv = GCNConv(3, 4).double()
    model = torch.nn.ModuleList([conv])
    theirs = pyg.GCNConv(3, 4).double()
    theirs.load_state_dict(conv.state_dict())
    inside = np.flatnonzero(COMMUNITIES < 2)
    seen: list[Any] = []

    class Net(torch.nn.Module):
        num_layers = 1

        def __init__(self) -> None:
            super().__init__()
            self.convs = model

        def forward(self, view: View, x: Any) -> Any:
            out = conv(view[0], x)
            if view.blocks is not None:
                seen.append((view[0].node_keys[: len(out)].copy(), out.detach().clone()))
            return out

    strategy = gt.ClusterBatch(2, COMMUNITIES, renormalise=True, only=[0, 1])
    gt.Trainer(Net(), shard, strategy=strategy, lr=1e-300).fit(1)
    keep = np.isin(GRAPH.src, inside) & np.isin(GRAPH.dst, inside)
    edges = torch.from_numpy(np.stack([GRAPH.src[keep], GRAPH.dst[keep]]))
    x = torch.from_numpy(GRAPH.features.copy())
    want = theirs(x, edges, torch.from_numpy(GRAPH.column("weight")[keep].copy()))
    ((keys, out),) = seen
    assert_equal(out, want.detach()[torch.from_numpy(keys)], 1e-12)


@pytest.mark.parametrize("name", sorted(CORNER_GRAPHS))
def test_weights_of_one_are_no_weights(name: str) -> None:
    plain = to_graph(CORNER_GRAPHS[name], dtype=np.float64)
    ones = with_weights(plain, np.ones(plain.num_edges))
    want = run_layer(seeded_gcn(), plain)
    for workers, method in ((1, "node-hash"), (2, "dbh")):
        if plain.num_nodes > workers:
            got = run_layer(seeded_gcn(), ones, workers, method)
            assert_equal(got.out_NO, want.out_NO, 1e-12)
            assert_equal(got.x_grad_NF, want.x_grad_NF, 1e-12)


def test_weighted_false_does_not_read_them() -> None:
    plain = run_layer(seeded_gcn(), PLAIN).out_NO
    assert_equal(run_layer(seeded_gcn(weighted=False), GRAPH).out_NO, plain, 0)
    assert np.abs(run_layer(seeded_gcn(), GRAPH).out_NO - plain).max() > 0.01


@pytest.mark.parametrize("layer", [GCNConv, partial(SAGEConv, weighted=True)])
def test_weights_take_the_dtype_of_the_model(layer: Any) -> None:
    weight = np.random.default_rng(0).random(NUM_EDGES).astype(np.float32)
    narrow = with_weights(to_graph(random_graph(NUM_NODES, NUM_EDGES)), weight)
    outs = []
    for graph, dtype in ((narrow, torch.float64), (GRAPH, torch.float32)):
        shard = gt.open_shard(graph)
        with seeded(0):
            made = layer(3, 4).to(dtype)
        outs.append(made(View(shard)[0], shard.features.to(dtype)).detach())
        assert outs[-1].dtype == dtype
        assert made.explain().executor == "fused"
    assert_equal(outs[1], outs[0], 1e-6)


def test_models_read_weights_by_default_or_on_request() -> None:
    shard, bare = gt.open_shard(GRAPH), gt.open_shard(PLAIN)
    sizes = {"hidden_channels": 4, "num_layers": 2, "heads": 1, "dropout": 0.0}
    view = View(shard)
    for name, weighted, reads in (
        ("gcn", None, True),
        ("gcn", False, False),
        ("sage", None, False),
        ("sage", True, True),
        ("gin", None, False),
        ("gin", True, True),
    ):
        model = model_for(name, shard, "y", weighted=weighted, **sizes).double()  # type: ignore[arg-type]
        model(view, view.inputs())
        assert model.convs[0].edge_columns_read == ({"weight"} if reads else set())
    with pytest.raises(ConfigError, match=r"no 'weight' column. .*--edge-weight"):
        model_for("gin", bare, "y", weighted=True, **sizes)  # type: ignore[arg-type]
    for make in (GCN, GraphSAGE, GIN):
        with pytest.raises(ConfigError, match=r"no 'weight' column. .*weighted=False"):
            make(3, 4, 4, weighted=True).double()(View(bare), bare.features)


def test_weights_that_cannot_be_used_are_refused() -> None:
    negative = gt.open_shard(with_weights(PLAIN, np.full(NUM_EDGES, -3.0)))
    with pytest.raises(ConfigError, match=r"sum to -1 or more .* got .*--no-weighted"):
        GCNConv(3, 4).double()(View(negative)[0], negative.features)
    shard = gt.open_shard(GRAPH)
    blocks = Neighbourhoods(shard).blocks(np.arange(9), [Fanout(2, weight="weight")])
    view = View(shard, blocks=blocks)
    with pytest.raises(ConfigError, match="'weight' for both, which would count twice"):
        SAGEConv(3, 4, weighted=True).double()(view[0], view.inputs())


def test_weights_that_sum_to_zero_leave_a_node_without_messages() -> None:
    graph = with_weights(PLAIN, np.full(NUM_EDGES, -1.0))
    only = np.flatnonzero(np.bincount(PLAIN.dst, minlength=NUM_NODES) == 1)
    few = gt.Graph(graph.nodes, graph.edges.filter(np.isin(PLAIN.dst, only)))
    out = run_layer(lambda: GCNConv(3, 4), few).out_NO
    assert np.isfinite(out).all()
    assert not out[only[0]].any()


def test_replaced_weights_need_the_whole_graph() -> None:
    shard = gt.open_shard(GRAPH)
    view = View(shard, blocks=Neighbourhoods(shard).blocks(np.arange(9), [None]))
    view[0].edge_columns["weight"] = torch.ones(view.blocks[0].num_edges, dtype=torch.float64)  # type: ignore[index]
    with pytest.raises(ConfigError, match="expected a view of the whole graph"):
        GCNConv(3, 4).double()(view[0], view.inputs())
