"""Gradients of every aggregator equal finite differences: nodes, parameters and edge inputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

import graphtheta as gt
from graphtheta.tgar import AGGREGATORS, View, keep
from graphtheta.tgar.chunked import GatherSum
from tests.graphs import CornerGraph, to_graph
from tests.nn.steps import assert_equal, run_layer
from tests.tgar.layers import Written, written


@pytest.fixture(autouse=True)
def _tiny_chunks(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Three edges per chunk: rows share chunks, and the hub's row is split over several.
    monkeypatch.setattr("graphtheta.data.adjacency._CHUNK_COST", 3)
    monkeypatch.setattr("graphtheta.tgar.layer.GatherSum", partial(GatherSum, chunk_edges=3))


def graph_with_hub() -> CornerGraph:
    """Node 0 has eight in-edges; some nodes have none; self-loops and parallel edges."""
    src = np.array([1, 2, 3, 4, 5, 1, 1, 0, 0, 2, 3, 3, 4, 2, 2])
    dst = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 4, 4])
    return 6, src, dst


def message(layer: Written, src: Any, dst: Any, edge: Any) -> Tensor:
    """Return a message of everything: endpoints, edge inputs, parameters, a mask, a type."""
    pair = layer.lin(src["h"] * dst["h"]) + (edge["attr"] @ layer.table[:2]) * layer.w
    return torch.tanh(pair) * keep(0.3, 3) + src["h"] * layer.table[edge["type"]]


def gather_for(aggregator: str, loops: bool) -> Any:
    def gather(layer: Written, src: Any, dst: Any, edge: Any) -> Any:
        # A self-loop has no type of its own.
        fields = {"attr": edge["attr"], "type": edge["type"] if not loops else [0]}
        value = message(layer, src, dst, fields)
        if not AGGREGATORS[aggregator].scored:
            return value
        score = torch.sin(src["k"][:, 0, 0] + 2 * dst["h"][:, 1]) + edge["attr"][:, 0] * layer.w[1]
        return score, value

    return gather


@pytest.mark.parametrize("loops", [False, True], ids=["", "self_loops"])
@pytest.mark.parametrize("aggregator", sorted(AGGREGATORS))
def test_gradients_equal_finite_differences(aggregator: str, loops: bool) -> None:
    shard = gt.open_shard(to_graph(graph_with_hub(), seed=5, dtype=np.float64))
    layer = written(gather_for(aggregator, loops), aggregator=aggregator, self_loops=loops)
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, attr: Tensor, *parameters: Tensor) -> Tensor:
        view = View(shard, seed=1, step=2)
        view[0].edge_columns["attr"] = attr
        given = dict(zip(names, parameters, strict=True))
        out: Tensor = functional_call(layer, given, (view[0], x))
        return out + view.token

    inputs = [shard.features, shard.edge_columns["attr"], *layer.parameters()]
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(run, leaves, eps=1e-6, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("method", ["node-hash", "dbh"])
@pytest.mark.parametrize("loops", [False, True], ids=["", "self_loops"])
@pytest.mark.parametrize("aggregator", sorted(AGGREGATORS))
def test_gradients_do_not_depend_on_workers(aggregator: str, loops: bool, method: str) -> None:
    graph = to_graph(graph_with_hub(), seed=5, dtype=np.float64)
    gather = gather_for(aggregator, loops)

    def make() -> Written:
        return written(gather, aggregator=aggregator, self_loops=loops)

    single = run_layer(make, graph, edge_inputs=["attr"])
    together = run_layer(make, graph, 3, method, edge_inputs=["attr"])
    assert_equal(together.out_NO, single.out_NO, 1e-10)
    assert_equal(together.x_grad_NF, single.x_grad_NF, 1e-10)
    assert_equal(together.edge_grads["attr"], single.edge_grads["attr"], 1e-10)
    for name, grad in single.parameter_grads.items():
        assert_equal(together.parameter_grads[name], grad, 1e-10)


@pytest.mark.usefixtures("chunked_only")
@pytest.mark.parametrize("aggregator", sorted(AGGREGATORS))
def test_chunks_do_not_change_results(aggregator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = to_graph(graph_with_hub(), seed=5, dtype=np.float64)
    gather = gather_for(aggregator, False)
    runs = []
    for chunk in (1, 2, 5, 1000):
        tiny = partial(GatherSum, chunk_edges=chunk)
        monkeypatch.setattr("graphtheta.tgar.layer.GatherSum", tiny)
        make = partial(written, gather, aggregator=aggregator)
        runs.append(run_layer(make, graph, edge_inputs=["attr"]))
    for run in runs[:-1]:
        assert_equal(run.out_NO, runs[-1].out_NO, 1e-13)
        assert_equal(run.x_grad_NF, runs[-1].x_grad_NF, 1e-13)
        assert_equal(run.edge_grads["attr"], runs[-1].edge_grads["attr"], 1e-13)
        for name, grad in runs[-1].parameter_grads.items():
            assert_equal(run.parameter_grads[name], grad, 1e-13)


def test_replaced_edge_column_reaches_self_loops() -> None:
    # The column of a self-loop is the mean of the replaced column, not of the store's.
    shard = gt.open_shard(to_graph(graph_with_hub(), dtype=np.float64))
    layer = written(lambda s, src, dst, edge: edge["attr"], self_loops=True)
    view = View(shard)
    view[0].edge_columns["attr"] = torch.ones_like(shard.edge_columns["attr"])
    out = layer(view[0], view.inputs())[:, 0]
    degree = shard.loopless_in_degree
    assert out.tolist() == (degree + (degree > 0)).tolist()
