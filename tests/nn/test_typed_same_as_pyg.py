"""Layers of typed graphs with PyG's weights have PyG's outputs and gradients, on any workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column
from graphtheta.nn import GATConv, HANConv, HeteroConv, HGTConv, SAGEConv
from tests.nn.steps import assert_equal, cotangent, run_layer

pyg = pytest.importorskip("torch_geometric.nn")
pytestmark = pytest.mark.filterwarnings("ignore:There exist node types")

COUNTS = {"paper": 24, "author": 15, "venue": 4, "tag": 7}  # no relation ends in a tag
RELATIONS = {
    ("paper", "cites", "paper"): 90,
    ("author", "writes", "paper"): 60,
    ("paper", "written_by", "author"): 60,
    ("paper", "in", "venue"): 24,
    ("tag", "of", "paper"): 20,
    ("tag", "of", "author"): 0,
}
METADATA = list(COUNTS), list(RELATIONS)
FIRST = dict(zip(COUNTS, np.cumsum([0, *COUNTS.values()]), strict=False))
NUM_NODES, WIDTH, ATTRIBUTES = sum(COUNTS.values()), 6, 2
SETUPS = [(1, "node-hash"), (2, "node-hash"), (3, "dbh")]
RNG = np.random.default_rng(1)
EDGES = {
    relation: np.stack(
        [RNG.integers(0, COUNTS[relation[0]], size), RNG.integers(0, COUNTS[relation[2]] - 1, size)]
    )
    for relation, size in RELATIONS.items()
}
ATTR = {relation: RNG.standard_normal((size, ATTRIBUTES)) for relation, size in RELATIONS.items()}
X = RNG.standard_normal((NUM_NODES, WIDTH))


@pytest.fixture(scope="module")
def graph() -> Graph:
    nodes = {name: pa.table({"id": np.arange(count)}) for name, count in COUNTS.items()}
    edges = {
        relation: pa.table({"src": src, "dst": dst, "attr": matrix_column(ATTR[relation])})
        for relation, (src, dst) in EDGES.items()
    }
    return Graph.from_arrow(nodes, edges)


def of_types(x_NF: Tensor) -> dict[str, Tensor]:
    return {name: x_NF[FIRST[name] : FIRST[name] + count] for name, count in COUNTS.items()}


def pyg_run(conv: nn.Module, **inputs: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Return PyG's outputs, and the gradient of the inputs; gradients of weights stay in `conv`."""
    x = torch.from_numpy(X).requires_grad_()
    index = {relation: torch.from_numpy(ends) for relation, ends in EDGES.items()}
    out = {n: o for n, o in conv(of_types(x), index, **inputs).items() if o is not None}
    width = next(iter(out.values())).shape[1]
    wanted = of_types(torch.from_numpy(cotangent((NUM_NODES, width))))
    loss = sum((out[name] * wanted[name]).sum() for name in out)
    if width == WIDTH:  # ours keeps the rows of a type in which no relation ends
        loss = loss + sum((of_types(x)[n] * wanted[n]).sum() for n in COUNTS if n not in out)
    loss.backward()
    return out, x.grad


def assert_outputs(got_NO: Any, want: dict[str, Tensor], kept: bool) -> None:
    for name, rows in of_types(torch.from_numpy(got_NO)).items():
        rest = of_types(torch.from_numpy(X))[name] if kept else torch.zeros_like(rows)
        assert_equal(rows, want[name].detach() if name in want else rest, 1e-10)


def stack(of: Callable[[Any], Tensor], keys: Any) -> Tensor:
    return torch.stack([of(key).detach() for key in keys])


def grads(parameters: Any) -> Tensor:
    return torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])


@pytest.mark.parametrize(("workers", "method"), SETUPS)
@pytest.mark.parametrize("out_channels", [6, 4])
def test_hgt(graph: Graph, out_channels: int, workers: int, method: str) -> None:
    theirs = pyg.HGTConv(WIDTH, out_channels, METADATA, heads=2).double()
    for p in theirs.parameters():
        nn.init.normal_(p)
    heads, size = 2, len(RELATIONS)

    def by_relation(weight: Tensor) -> Tensor:  # PyG's matrices are by head, then by relation
        return weight.view(heads, size, *weight.shape[1:]).transpose(0, 1)

    def make() -> HGTConv:
        ours = HGTConv(WIDTH, out_channels, METADATA, heads=2).double()
        names = ["__".join(relation) for relation in RELATIONS]
        with torch.no_grad():
            for target, source in ((ours.kqv_lin, theirs.kqv_lin), (ours.out_lin, theirs.out_lin)):
                target.weight.copy_(stack(lambda n, s=source: s.lins[n].weight, COUNTS))
                target.bias.copy_(stack(lambda n, s=source: s.lins[n].bias, COUNTS))
            ours.k_rel.copy_(by_relation(theirs.k_rel.weight))
            ours.v_rel.copy_(by_relation(theirs.v_rel.weight))
            ours.p_rel.copy_(stack(lambda n: theirs.p_rel[n][0], names))
            if ours.skip is not None:
                ours.skip.copy_(stack(lambda n: theirs.skip[n][0], COUNTS))
        return ours

    want, x_grad = pyg_run(theirs)
    got = run_layer(make, graph, workers, method, x_NF=X)
    assert_outputs(got.out_NO, want, out_channels == WIDTH)
    assert_equal(got.x_grad_NF, x_grad, 1e-10)
    assert_equal(got.parameter_grads["k_rel"], by_relation(theirs.k_rel.weight.grad), 1e-10)
    assert_equal(got.parameter_grads["v_rel"], by_relation(theirs.v_rel.weight.grad), 1e-10)
    weights = [theirs.kqv_lin.lins[name].weight for name in COUNTS]
    assert_equal(got.parameter_grads["kqv_lin.weight"], grads(weights), 1e-10)


@pytest.mark.parametrize(("workers", "method"), SETUPS)
def test_han(graph: Graph, workers: int, method: str) -> None:
    theirs = pyg.HANConv(WIDTH, 6, METADATA, heads=2).double()
    for p in theirs.parameters():
        nn.init.normal_(p)

    def make() -> HANConv:
        ours = HANConv(WIDTH, 6, METADATA, heads=2).double()
        with torch.no_grad():
            ours.proj.weight.copy_(stack(lambda n: theirs.proj[n].weight, COUNTS))
            ours.proj.bias.copy_(stack(lambda n: theirs.proj[n].bias, COUNTS))
            for relation, attention in zip(RELATIONS, ours.attention, strict=True):
                attention.lin_src.copy_(theirs.lin_src["__".join(relation)])
                attention.lin_dst.copy_(theirs.lin_dst["__".join(relation)])
            ours.k_lin.load_state_dict(theirs.k_lin.state_dict())
            ours.q.copy_(theirs.q)
        return ours

    want, x_grad = pyg_run(theirs)
    got = run_layer(make, graph, workers, method, x_NF=X)
    assert_outputs(got.out_NO, want, kept=True)
    assert_equal(got.x_grad_NF, x_grad, 1e-10)
    assert_equal(got.parameter_grads["q"], theirs.q.grad, 1e-10)
    assert_equal(got.parameter_grads["k_lin.weight"], theirs.k_lin.weight.grad, 1e-10)
    weights = [theirs.proj[name].weight for name in COUNTS]
    assert_equal(got.parameter_grads["proj.weight"], grads(weights), 1e-10)


@pytest.mark.parametrize(("workers", "method"), SETUPS)
@pytest.mark.parametrize("aggr", ["sum", "mean", "max"])
def test_lifted_sage(graph: Graph, aggr: str, workers: int, method: str) -> None:
    theirs = pyg.HeteroConv(
        {relation: pyg.SAGEConv(WIDTH, 5) for relation in RELATIONS}, aggr=aggr
    ).double()

    def make() -> HeteroConv:
        convs = {relation: SAGEConv(WIDTH, 5).double() for relation in RELATIONS}
        for relation, conv in convs.items():
            conv.load_state_dict(theirs.convs[relation].state_dict())
        return HeteroConv(convs, aggr)

    want, x_grad = pyg_run(theirs)
    got = run_layer(make, graph, workers, method, x_NF=X)
    assert_outputs(got.out_NO, want, kept=False)
    assert_equal(got.x_grad_NF, x_grad, 1e-10)
    for number, relation in enumerate(RELATIONS):
        for name, parameter in theirs.convs[relation].named_parameters():
            if parameter.grad is not None:
                assert_equal(got.parameter_grads[f"convs.{number}.{name}"], parameter.grad, 1e-10)


@pytest.mark.parametrize(("workers", "method"), SETUPS)
def test_attributes_of_one_relation(graph: Graph, workers: int, method: str) -> None:
    relation = ("paper", "cites", "paper")
    theirs = pyg.GATConv(WIDTH, 3, heads=2, edge_dim=ATTRIBUTES).double()

    def make() -> HeteroConv:
        conv = GATConv(WIDTH, 3, heads=2, edge_dim=ATTRIBUTES).double()
        conv.load_state_dict(theirs.state_dict())
        return HeteroConv({relation: conv})

    got = run_layer(make, graph, workers, method, x_NF=X)
    rows = slice(0, COUNTS["paper"])
    edges = torch.from_numpy(EDGES[relation])
    want = theirs(torch.from_numpy(X)[rows], edges, torch.from_numpy(ATTR[relation]))
    assert_equal(got.out_NO[rows], want.detach(), 1e-10)
