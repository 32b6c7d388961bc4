"""Layers of typed graphs with PyG's weights have PyG's outputs and gradients, on any workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphtheta as gt
from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError
from graphtheta.nn import GCN, GATConv, GATEConv, GATv2Conv, GCNConv, HeteroConv, to_hetero
from graphtheta.tgar import TGARLayer
from tests.nn.steps import assert_equal, cotangent, run_layer
from tests.nn.typed_pairs import (
    ATTR,
    COUNTS,
    EDGES,
    NUM_NODES,
    PAIRS,
    SETUPS,
    TOLERANCE,
    WIDTH,
    X,
    pyg,
    typed_graph_for_pyg,
)

pytestmark = pytest.mark.filterwarnings("ignore:There exist node types")

# A layer keeps the rows of a type in which no relation ends, if it does not change the width.
WIDTHS = (WIDTH, 4)


@cache
def graph() -> Graph:
    return typed_graph_for_pyg()


@cache
def theirs(name: str, width: int) -> tuple[dict[str, Tensor], Tensor, Tensor, dict[str, Tensor]]:
    """Return weights, outputs, and the gradients of inputs and weights of PyG's layer."""
    torch.manual_seed(0)
    pair = PAIRS[name]
    layer = pair.make_theirs(WIDTH, width)
    x = torch.from_numpy(X).requires_grad_()
    out = pair.run_theirs(layer, x)
    out.backward(torch.from_numpy(cotangent((NUM_NODES, width))))
    assert x.grad is not None
    return pair.weights(layer), out.detach(), x.grad, pair.gradients(layer)


def assert_same(name: str, width: int, workers: int, method: str, dtype: torch.dtype) -> None:
    weights, out, x_grad, grads = theirs(name, width)

    def make() -> nn.Module:
        layer = PAIRS[name].ours(WIDTH, width).to(dtype)
        layer.load_state_dict(weights)
        return layer

    x: Any = torch.from_numpy(X).to(dtype).numpy()
    got = run_layer(make, graph(), workers, method, x_NF=x)
    tolerance = TOLERANCE[dtype]
    assert got.out_NO.dtype == x.dtype
    assert_equal(got.out_NO, out, tolerance)
    assert_equal(got.x_grad_NF, x_grad, tolerance)
    assert sorted(got.parameter_grads) == sorted(grads)
    largest = max(float(grad.abs().max()) for grad in grads.values())
    for parameter, grad in grads.items():  # some cancel in the softmax, up to rounding
        assert_equal(got.parameter_grads[parameter], grad, tolerance, terms=largest)


@pytest.mark.parametrize(
    ("name", "width", "workers", "method", "dtype"),
    [
        (name, width, *SETUPS[(number + 3 * k) % len(SETUPS)], list(TOLERANCE)[(number + k) % 2])
        for number, name in enumerate(PAIRS)
        for k, width in enumerate(WIDTHS)
    ],
)
def test_layer(name: str, width: int, workers: int, method: str, dtype: torch.dtype) -> None:
    assert_same(name, width, workers, method, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("workers", "method"), SETUPS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAIRS)
def test_layer_in_full(
    name: str, width: int, workers: int, method: str, dtype: torch.dtype
) -> None:
    assert_same(name, width, workers, method, dtype)


@pytest.mark.parametrize(("workers", "method"), [SETUPS[0], SETUPS[1], SETUPS[4]])
def test_r_gcn_one_relation_after_the_other(
    workers: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphtheta.tgar.compiler.relation_executor._EDGES_PER_RELATION", 0)
    assert_same("rgcn", 4, workers, method, torch.float32)


@pytest.mark.parametrize(("workers", "method"), [SETUPS[0], SETUPS[1], SETUPS[4]])
def test_attributes_of_one_relation(workers: int, method: str) -> None:
    relation = ("paper", "cites", "paper")
    theirs = pyg.GATConv(WIDTH, 3, heads=2, edge_dim=ATTR[relation].shape[1]).double()

    def make() -> HeteroConv:
        conv = GATConv(WIDTH, 3, heads=2, edge_dim=ATTR[relation].shape[1]).double()
        conv.load_state_dict(theirs.state_dict())
        return HeteroConv({relation: conv})

    got = run_layer(make, graph(), workers, method, x_NF=X)
    rows = slice(0, COUNTS["paper"])
    edges = torch.from_numpy(EDGES[relation])
    want = theirs(torch.from_numpy(X)[rows], edges, torch.from_numpy(ATTR[relation]))
    assert_equal(got.out_NO[rows], want.detach(), 1e-10)


@pytest.mark.parametrize("make", [GATConv, GATv2Conv, partial(GATEConv, edge_dim=2)], ids=str)
def test_layers_between_two_types_leave_out_self_loops(make: Callable[..., TGARLayer]) -> None:
    relation = "author-writes-paper"
    with pytest.raises(
        ConfigError, match=r"two types, got G.*Conv. Create it with add_self_loops="
    ):
        HeteroConv({relation: make(WIDTH, 3)})
    assert HeteroConv({relation: make(WIDTH, 3, add_self_loops=False)}).relations


@pytest.mark.parametrize("options", [{}, {"add_self_loops": False}])
def test_layers_between_two_types_do_not_divide_by_degrees_of_both(options: Any) -> None:
    relation = ("author", "writes", "paper")
    with pytest.raises(ConfigError, match=r"in-degrees of both ends.* got GCNConv. Use SAGEConv"):
        HeteroConv({relation: GCNConv(WIDTH, 3, **options)})
    assert HeteroConv({relation: GCNConv(WIDTH, 3, normalize=False)}).relations


def test_a_lifted_gat_adds_self_loops_within_a_type_only() -> None:
    shard = gt.open_shard(graph())
    lifted = to_hetero(GATConv(WIDTH, 3, edge_dim=2), shard)
    assert isinstance(lifted, HeteroConv)
    with_loops = [
        relation.text
        for relation, conv in zip(lifted.relations, lifted.convs, strict=True)
        if conv.self_loops
    ]
    assert with_loops == ["paper-cites-paper"]
    with pytest.raises(ConfigError, match=r"in-degrees of both ends"):
        to_hetero(GCN(WIDTH, 3, 2), shard)
