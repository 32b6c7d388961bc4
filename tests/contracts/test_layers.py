"""Contract of every entry of `LAYERS`, most of which have a model in `MODELS`."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import graphtheta as gt
from graphtheta.errors import ConfigError, TraceError
from graphtheta.nn import (
    LAYERS,
    MODELS,
    GATConv,
    GATEConv,
    GATv2Conv,
    GCN2Conv,
    GCNConv,
    GINConv,
    GIPAConv,
    HGTConv,
    PNAConv,
    RGATConv,
    RGCNConv,
    SAGEConv,
    SimpleHGNConv,
    TransformerConv,
    seeded,
)
from graphtheta.tgar import TGARLayer, View
from tests.graphs import CORNER_GRAPHS, random_graph, to_graph
from tests.nn.steps import assert_equal, run_layer

# How to make each layer for the graphs of `to_graph`: 3 features, 2 edge attributes, 5 edge types.
UNTYPED = (("node",), (("node", "to", "node"),))
DEGREES = torch.tensor([1, 5, 9, 4])  # numbers of nodes of each in-degree
MAKERS: dict[str, Callable[[], TGARLayer]] = {
    "gcn": lambda: GCNConv(3, 4),
    "gcnii": lambda: GCN2Conv(3, 0.2, 0.5, 1),
    "pna": lambda: PNAConv(
        3, 4, ["mean", "max", "std"], ["identity", "attenuation"], DEGREES, edge_dim=2, towers=2
    ),
    "sage": lambda: SAGEConv(3, 4),
    "gat": lambda: GATConv(3, 4, heads=2, dropout=0.4),
    "gatv2": lambda: GATv2Conv(3, 4, heads=2, dropout=0.4, edge_dim=2),
    "gin": lambda: GINConv(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))),
    "gat-e": lambda: GATEConv(3, 4, heads=2, dropout=0.4, edge_dim=2),
    "rgcn": lambda: RGCNConv(3, 4, num_relations=5, num_bases=2),
    "rgat": lambda: RGATConv(3, 4, num_relations=5, heads=2, dropout=0.4, edge_dim=2),
    "transformer": lambda: TransformerConv(3, 4, heads=2, beta=True, dropout=0.4, edge_dim=2),
    "gipa": lambda: GIPAConv(3, 4, edge_dim=2, channels=5, heads=2, dropout=0.4),
    "hgt": lambda: HGTConv(3, 4, UNTYPED, heads=2),
    "simple-hgn": lambda: SimpleHGNConv(3, 4, num_relations=5, heads=2, dropout=0.4),
}


def make(name: str) -> TGARLayer:
    with seeded(0):
        return MAKERS[name]().double()


def test_every_layer_has_a_maker_and_a_model() -> None:
    assert set(LAYERS) == set(MAKERS)
    # These are made of other layers.
    assert set(MODELS) - set(LAYERS) == {"han", "appnp", "sgc", "sign"}
    for name, layer in LAYERS.items():
        assert type(MAKERS[name]()) is layer


@pytest.mark.parametrize("graph", CORNER_GRAPHS)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_on_corner_graph(name: str, graph: str) -> None:
    corner = to_graph(CORNER_GRAPHS[graph], dtype=np.float64)
    run = run_layer(lambda: make(name), corner)
    assert len(run.out_NO) == corner.num_nodes
    assert np.isfinite(run.out_NO).all()
    assert np.isfinite(run.x_grad_NF).all()
    if corner.num_nodes > 2:
        together = run_layer(lambda: make(name), corner, 3, "dbh")
        assert_equal(together.out_NO, run.out_NO, 1e-10)
        assert_equal(together.x_grad_NF, run.x_grad_NF, 1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_does_not_depend_on_the_order_of_nodes_and_edges(name: str) -> None:
    graph = to_graph(random_graph(20, 80), dtype=np.float64)
    rng = np.random.default_rng(3)
    nodes, edges = rng.permutation(20), rng.permutation(80)
    where = np.argsort(nodes)
    moved = gt.Graph(graph.nodes.take(nodes), graph.edges.take(edges))
    for end in ("src", "dst"):
        at = moved.edges.column_names.index(end)
        ends = where[getattr(graph, end)[edges]]
        moved = gt.Graph(moved.nodes, moved.edges.set_column(at, end, [ends]))
    outs = [run_layer(lambda: make(name), g, training=False).out_NO for g in (graph, moved)]
    assert_equal(outs[1], outs[0][nodes], 1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_repeatable_and_copies(name: str) -> None:
    shard = gt.open_shard(to_graph(random_graph(20, 80), dtype=np.float64))

    def run(layer: TGARLayer, step: int = 0) -> torch.Tensor:
        view = View(shard, step=step)
        out: torch.Tensor = layer(view[0], view.inputs())
        return out.detach()

    layer = make(name)
    out = run(layer)
    assert run(layer).equal(out)
    assert run(copy.deepcopy(layer)).equal(out)
    other = MAKERS[name]().double()
    assert not run(other).equal(out)
    other.load_state_dict(layer.state_dict())
    assert run(other).equal(out)
    # Only dropout sees the step, and only while training.
    assert run(layer, step=1).equal(out) == (not getattr(layer, "dropout", 0))
    layer.eval()
    assert run(layer, step=1).equal(run(layer))


@pytest.mark.parametrize("name", LAYERS)
def test_layer_takes_float32(name: str) -> None:
    graph = to_graph(random_graph(20, 80))
    run = run_layer(lambda: make(name).float(), graph)
    precise = to_graph(random_graph(20, 80), dtype=np.float64)
    want = run_layer(lambda: make(name), precise, x_NF=graph.features.astype(np.float64))
    assert run.out_NO.dtype == np.float32
    assert_equal(run.out_NO, want.out_NO, 1e-5)


@pytest.mark.parametrize(
    "name", ["gatv2", "gat-e", "rgcn", "rgat", "simple-hgn", "transformer", "gipa", "pna"]
)
def test_layer_raises_trace_error_when_the_graph_lacks_an_edge_column(name: str) -> None:
    graph = to_graph(random_graph(20, 80), dtype=np.float64)
    typed = name.startswith("rg") or name == "simple-hgn"
    column = "type" if typed else "attr"
    without = gt.Graph(graph.nodes, graph.edges.drop_columns([column]))
    error = ConfigError if typed else TraceError
    with pytest.raises(error, match=f"no '{column}'"):
        run_layer(lambda: make(name), without)
