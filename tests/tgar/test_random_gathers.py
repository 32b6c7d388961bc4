"""Random gather expressions, chunked and fused, equal eager evaluation."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphtheta.tgar.chunked import GatherSum
from tests.graphs import random_graph, to_graph
from tests.nn.steps import LayerRun, assert_equal, cotangent, run_layer
from tests.tgar.layers import WIDTH, Written, written

# An expression is a function of the environment; every value has shape (edges, 3), or (3,) where
# it depends on parameters only.
Term = Callable[[dict[str, Any]], Tensor]

LEAVES: dict[str, Term] = {
    "src h": lambda e: e["src"]["h"],
    "src k": lambda e: e["src"]["k"][:, 1],
    "dst h": lambda e: e["dst"]["h"],
    "dst k": lambda e: e["dst"]["k"].sum(1),
    "edge attr": lambda e: e["edge"]["attr"][:, [0, 1, 0]],
    "edge type": lambda e: e["layer"].table[e["edge"]["type"]],
    "w": lambda e: e["layer"].w,
    "buffer": lambda e: e["layer"].buffer,
    "0.5": lambda e: torch.full((WIDTH,), 0.5, dtype=torch.float64),
}
UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "neg": lambda x: -x,
    "sin": torch.sin,
    "softplus": torch.nn.functional.softplus,
    "softmax": lambda x: x.softmax(-1),
    "spread": lambda x: x.sum(-1, keepdim=True).expand_as(x) * 0.3,
    "reverse": lambda x: x.flip(-1),
    "halves": lambda x: torch.cat(x.split([1, 2], dim=-1)[::-1], dim=-1),
    "largest": lambda x: x.max(dim=-1, keepdim=True).values.expand_as(x),
    "column": lambda x: x[..., None, :].mT.squeeze(-1),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / (1 + b.square()),
    "where": lambda a, b: torch.where(b > 0, a, 0.5 * b),
    "weighted": lambda a, b: (a * b).sum(-1, keepdim=True) + a,
}


def unary(name: str, x: Term) -> Term:
    return lambda e: UNARY[name](x(e))


def binary(name: str, x: Term, y: Term) -> Term:
    return lambda e: BINARY[name](x(e), y(e))


def linear(x: Term) -> Term:
    return lambda e: torch.tanh(e["layer"].lin(x(e)))


# Not supported by the compiler: an expression without any of these runs fused.
CHUNKED = {"edge attr", "0.5", "sin", "softmax", "reverse", "halves", "largest", "column"}


def terms(without: Collection[str] = ()) -> st.SearchStrategy[Term]:
    return st.recursive(
        st.sampled_from(sorted(LEAVES.keys() - without)).map(LEAVES.__getitem__),
        lambda inner: st.one_of(
            st.builds(unary, st.sampled_from(sorted(UNARY.keys() - without)), inner),
            st.builds(binary, st.sampled_from(sorted(BINARY)), inner, inner),
            st.builds(linear, inner),
        ),
        max_leaves=8,
    )


GRAPH = to_graph(random_graph(12, 40), dtype=np.float64)


def gather_of(term: Term) -> Callable[..., Tensor]:
    def gather(layer: Written, src: Any, dst: Any, edge: Any) -> Tensor:
        # Adding a field gives every value a row per edge.
        env = {"src": src, "dst": dst, "edge": edge, "layer": layer}
        return term(env) + src["h"]

    return gather


def eager(gather: Callable[..., Tensor]) -> LayerRun:
    """Evaluate on all edges in one tensor, with autograd only."""
    layer = written(gather)
    x = torch.from_numpy(GRAPH.features.copy()).requires_grad_()
    attr = torch.from_numpy(GRAPH.column("attr").copy()).requires_grad_()
    src, dst = torch.from_numpy(GRAPH.src.copy()), torch.from_numpy(GRAPH.dst.copy())
    fields = layer.transform(x)
    edge = {"attr": attr, "type": torch.from_numpy(GRAPH.column("type").copy())}
    out = gather(
        layer,
        {name: f[src] for name, f in fields.items()},
        {name: f[dst] for name, f in fields.items()},
        edge,
    )
    total = out.new_zeros((GRAPH.num_nodes, WIDTH)).index_add(0, dst, out)
    total.backward(torch.from_numpy(cotangent(total.shape)))

    def grad(t: Tensor) -> Any:
        return (torch.zeros_like(t) if t.grad is None else t.grad).numpy()

    return LayerRun(
        total.detach().numpy(),
        grad(x),
        {name: grad(p) for name, p in layer.named_parameters()},
        {"attr": grad(attr)},
        {},
        {},
    )


PARTITIONS = [(1, "node-hash"), (2, "node-hash"), (3, "dbh")]


@given(term=terms(), partition=st.sampled_from(PARTITIONS))
@settings(max_examples=40, deadline=None)
def test_random_gather_same_as_eager(term: Term, partition: tuple[int, str]) -> None:
    gather = gather_of(term)
    want = eager(gather)
    with mock.patch("graphtheta.tgar.layer.GatherSum", partial(GatherSum, chunk_edges=7)):
        got = run_layer(lambda: written(gather), GRAPH, *partition, edge_inputs=["attr"])
    assert_equal(got.out_NO, want.out_NO, 1e-10, terms=1)
    assert_equal(got.x_grad_NF, want.x_grad_NF, 1e-10, terms=1)
    np.testing.assert_allclose(got.edge_grads["attr"], want.edge_grads["attr"], atol=1e-10)
    for name, grad in want.parameter_grads.items():
        np.testing.assert_allclose(got.parameter_grads[name], grad, rtol=1e-9, atol=1e-9)


@given(term=terms(without=CHUNKED), partition=st.sampled_from(PARTITIONS))
@settings(max_examples=60, deadline=None)
def test_random_gather_fused_same_as_eager(term: Term, partition: tuple[int, str]) -> None:
    gather = gather_of(term)
    want = eager(gather)
    made: list[Written] = []

    def make() -> Written:
        made.append(written(gather))
        return made[-1]

    with mock.patch("graphtheta.data.adjacency._CHUNK_COST", 7):
        got = run_layer(make, GRAPH, *partition, edge_inputs=["attr"])
    assert {layer.explain().executor for layer in made} == {"fused"}
    assert_equal(got.out_NO, want.out_NO, 1e-10, terms=1)
    assert_equal(got.x_grad_NF, want.x_grad_NF, 1e-10, terms=1)
    for name, grad in want.parameter_grads.items():
        np.testing.assert_allclose(got.parameter_grads[name], grad, rtol=1e-9, atol=1e-9)
