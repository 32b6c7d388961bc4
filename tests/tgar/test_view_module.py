"""Calls and constructors in the way of other libraries get a line that helps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphtheta as gt
from graphtheta.errors import ConfigError
from graphtheta.nn import GAT, GCN, GCNConv, GraphSAGE, NodeEmbedding, SAGEConv
from graphtheta.tgar import View
from tests.graphs import random_graph, to_graph

SHARD = gt.open_shard(to_graph(random_graph(12, 40)))
VIEW = View(SHARD)
X = VIEW.inputs()
EDGES = torch.zeros((2, 4), dtype=torch.int64)

CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "model(x, edge_index)": (lambda: GCN(3, 4, 4)(X, EDGES), r"as GCN\(view, x\), got a Tensor"),
    "layer(x, edge_index)": (lambda: GCNConv(3, 4)(X, EDGES), r"GCNConv\(view\[k\], h\), got a T"),
    "model(view)": (lambda: GCN(3, 4, 4)(VIEW), r"as GCN\(view, x\), got 1 argument"),
    "model(x)": (lambda: GCN(3, 4, 4)(X), "got a Tensor first"),
    "model()": (lambda: GCN(3, 4, 4)(), "got a NoneType first"),
    "model(shard, x)": (lambda: GCN(3, 4, 4)(SHARD, X), r"a Shard first.* gt.tgar.View\(shard\)"),
    "model(view[0], x)": (lambda: GCN(3, 4, 4)(VIEW[0], X), "which is for one layer"),
    "layer(view, x)": (lambda: SAGEConv(3, 4)(VIEW, X), "got a view of all layers"),
    "layer(view[0], x, w)": (lambda: GCNConv(3, 4)(VIEW[0], X, X), "got 3 arguments"),
    "dropout(x)": (lambda: gt.nn.Dropout(0.5)(X), r"Dropout\(view\[k\], h\), got a Tensor"),
    "norm(x)": (lambda: gt.nn.BatchNorm(3)(X), r"BatchNorm\(view\[k\], h\), got a Tensor"),
    "linear(view)": (lambda: nn.Linear(3, 4)(VIEW), "a view. A layer of torch takes h only"),
    "relu(view[0])": (lambda: torch.relu(VIEW[0]), "got a view"),  # type: ignore[arg-type]
    "layer(view[0], (x, x))": (
        lambda: GCNConv(3, 4)(VIEW[0], (X, X)),
        "in one tensor, got a tuple",
    ),
    "pairs of columns": (
        lambda: GCNConv((3, 4), 4),  # type: ignore[arg-type]
        r"expected one number as in_channels, got \(3",
    ),
    "lazy columns": (lambda: GAT(-1, 4, 4), "expected a number of columns as in_channels, got -1"),
    "half": (lambda: GCNConv(3, 4)(VIEW[0], X.half()), "expected float32 or float64, got float16"),
    "layers": (
        lambda: GCN(3, 4, 4, layers=3),
        "GCN: unexpected keyword argument 'layers'. Use num_layers",
    ),
    "hidden": (lambda: GCN(3, hidden=4, out_channels=4), "'hidden'. Use hidden_channels"),
    "hidden_channel": (lambda: GCN(3, hidden_channel=4, out_channels=4), "Use hidden_channels"),
    "aggr": (lambda: GraphSAGE(3, 4, 4, aggr="max"), "'aggr'. Use aggregator"),
    "num_heads": (lambda: GAT(3, 4, 4, num_heads=2), "'num_heads'. Use heads"),
    "act": (
        lambda: GCN(3, 4, 4, act="elu"),
        "GCN: unexpected keyword argument 'act'. It takes in_channels, hi",
    ),
    "cached": (lambda: GCNConv(3, 4, cached=True), "'cached'. It takes in_channels"),
    "order": (lambda: GCN(3, 4, 2, 4), "GCN: too many positional arguments. It takes in_channels"),
    "missing": (lambda: GCN(3, 4), "GCN: missing a required argument: 'out_channels'"),
    "dim": (
        lambda: NodeEmbedding(SHARD, dim=4),
        "NodeEmbedding: unexpected keyword argument 'dim'. Use chan",
    ),
    "GCN(x, edge_index)": (lambda: GCN(X, EDGES), "GCN: missing"),
    "GCN(x, edge_index, 4)": (lambda: GCN(X, EDGES, 4), "got a tensor. Construct the module first"),
}


@pytest.mark.parametrize("name", CALLS)
def test_other_ways_of_calling_get_a_line_that_helps(name: str) -> None:
    call, message = CALLS[name]
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_layer_of_pyg_on_a_view_gets_a_line_that_helps() -> None:
    pyg = pytest.importorskip("torch_geometric.nn")
    for layer in (pyg.GCNConv(3, 4), pyg.Linear(3, 4), pyg.MLP([3, 4])):
        with pytest.raises(ConfigError, match="instead of a layer of PyG or DGL, use one of graph"):
            layer(VIEW[0], EDGES) if isinstance(layer, pyg.GCNConv) else layer(VIEW[0])


def test_autocast_to_half_is_refused_by_layers() -> None:
    layer = GCNConv(3, 4)
    with (
        torch.autocast("cpu", dtype=torch.float16),
        pytest.raises(ConfigError, match="expected no autocast, or one to bfloat16"),
    ):
        layer(VIEW[0], X)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(VIEW[0], X.bfloat16())
    assert found.dtype == torch.float32
    assert not torch.equal(found, layer(VIEW[0], X))
    torch.testing.assert_close(found, layer(VIEW[0], X), rtol=0.02, atol=0.02)


def test_a_layer_may_take_more_than_a_view_and_rows() -> None:
    class Scaled(GCNConv):
        def forward(self, view: Any, h: Any, scale: float = 1.0) -> Any:
            return super().forward(view, h) * scale

    layer = Scaled(3, 4)
    assert torch.equal(layer(VIEW[0], X, 2.0), 2 * layer(VIEW[0], h=X))
