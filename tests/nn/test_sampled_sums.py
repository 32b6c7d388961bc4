"""Layers that use in-degrees weigh sampled in-edges correctly."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

import graphtheta as gt
from graphtheta.nn import GCNConv, RGCNConv
from graphtheta.tgar import Fanout, Neighbourhoods, View
from tests.graphs import power_law, to_graph

GRAPH = to_graph(power_law(300, 6_000))
WEIGHTED = gt.Graph(
    GRAPH.nodes,
    GRAPH.edges.append_column("weight", pa.array(np.random.default_rng(1).random(6_000) + 0.1)),
)
ROWS = np.arange(300)
STEPS = 600


@pytest.mark.parametrize(
    ("graph", "sampling"),
    [
        (GRAPH, Fanout(4)),
        (GRAPH, Fanout(4, replace=True)),
        (WEIGHTED, Fanout(4)),
        (WEIGHTED, Fanout(4, replace=True, weight="weight")),
    ],
    ids=["uniform", "replaced", "weighted", "weighted_by_weight"],
)
def test_expectation_is_the_exact_convolution(graph: gt.Graph, sampling: Fanout) -> None:
    shard, layer = gt.open_shard(graph), GCNConv(1, 1, improved=graph is WEIGHTED).double()
    neighbourhoods = Neighbourhoods(shard)

    def outputs(fanout: Fanout | None, step: int) -> np.ndarray:
        blocks = neighbourhoods.blocks(ROWS, [fanout], step=step)
        view = View(shard, blocks=blocks)
        keys = torch.from_numpy(view[0].node_keys.copy()).double()
        with torch.no_grad():
            out: torch.Tensor = layer(view[0], torch.sin(keys)[:, None])
        return out[:, 0].numpy()

    exact = outputs(None, 0)
    sampled = np.stack([outputs(sampling, step) for step in range(STEPS)])
    error = sampled.std(axis=0) / np.sqrt(STEPS)
    assert (error > 0).sum() > 100
    assert np.abs(sampled.mean(axis=0) - exact).max() < 1e-9 + 5 * error.max()
    assert (np.abs(sampled.mean(axis=0) - exact) < 1e-9 + 5 * error).mean() > 0.99


def test_all_edges_sampled_by_weight_are_the_exact_convolution() -> None:
    shard, layer = gt.open_shard(WEIGHTED), GCNConv(3, 2)
    block = Neighbourhoods(shard).blocks(ROWS, [Fanout(10**4, weight="weight")])[0]
    sampled, whole = View(shard, blocks=[block]), View(shard)
    with torch.no_grad():
        got = layer(sampled[0], sampled.inputs())
        want = layer(whole[0], whole.inputs())[block.rows][: len(ROWS)]
    assert torch.allclose(got, want, atol=1e-6)


def test_few_in_edges_are_all_sampled_and_count_once() -> None:
    shard = gt.open_shard(GRAPH)
    block = Neighbourhoods(shard).blocks(ROWS, [Fanout(10**4)])[0]
    weight = View(shard, blocks=[block])[0].edges_per_draw()
    assert weight is not None
    assert (weight == 1).all()
    assert View(shard)[0].edges_per_draw() is None


@pytest.mark.parametrize("replace", [False, True])
def test_rgcn_takes_the_mean_of_sampled_edges(replace: bool) -> None:
    shard, layer = gt.open_shard(GRAPH), RGCNConv(1, 1, num_relations=5).double()
    block = Neighbourhoods(shard).blocks(ROWS, [Fanout(4, replace)], step=3)[0]
    view = View(shard, blocks=[block])
    h = torch.sin(torch.from_numpy(view[0].node_keys.copy()).double())[:, None]
    kind = view[0].edge_columns["type"].numpy()
    source, starts = block.in_edges.other, block.in_edges.indptr
    with torch.no_grad():
        got = layer(view[0], h)
        for row in ROWS:
            want = h[row] @ layer.root + layer.bias
            edges = np.arange(starts[row], starts[row + 1])
            for relation in np.unique(kind[edges]):
                some = source[edges[kind[edges] == relation]]
                want = want + h[some].mean(dim=0) @ layer.weight[relation]
            assert torch.allclose(got[row], want, atol=1e-12)
