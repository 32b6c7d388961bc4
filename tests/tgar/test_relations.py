"""Products by the matrix of an edge's relation: all ways equal plain torch, on any partition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphtheta as gt
from graphtheta.errors import ConfigError, TraceError
from graphtheta.nn import seeded
from graphtheta.tgar import Fanout, Neighbourhoods, TGARLayer, View, keep
from graphtheta.tgar.batch.pairs import count_pairs, destination_pairs, source_pairs
from graphtheta.tgar.compiler import NotLowered, RelationProgram
from tests.graphs import power_law, to_graph
from tests.nn.steps import gradient
from tests.tgar.both import PARTITIONS, assert_same, run_both

GRAPH = to_graph(power_law(40, 300), dtype=np.float64)
WAYS = ["one by one", "sums first", "hoisted"]


class Relational(TGARLayer):
    """Layer of a given gather, whose parameters have a row for each of 5 relations."""

    def __init__(self, gather: Callable[..., Any], aggregator: str) -> None:
        super().__init__()
        self._gather, self.aggregator = gather, aggregator
        with seeded(0):
            self.matrix = nn.Parameter(torch.randn(5, 3, 4))
            self.turned = nn.Parameter(torch.randn(5, 4, 3))
            self.heads = nn.Parameter(torch.randn(5, 2, 3, 4))
            self.scale = nn.Parameter(torch.randn(5))
            self.score = nn.Parameter(torch.randn(5, 3, 2))

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        share = torch.cat([h, h.cos()], 1)[:, :5]
        fixed = share.detach().square()
        fields = {"h": h, "k": torch.stack([h, h.sin()], 1), "s": h[:, :1].sin()}
        return {**fields, "share": share, "fixed": fixed}

    def gather(self, src: Any, dst: Any, edge: Any) -> Any:
        return self._gather(self, src, dst, edge, edge["type"].long())


def product(y: Any, s: Any, t: Tensor) -> Tensor:
    return torch.einsum("ef,efo->eo", s["h"], y.matrix[t])


GATHERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "fixed factors": (
        "mean",
        lambda y, s, d, e, t: product(y, s, t) * d["fixed"].gather(1, t.unsqueeze(-1)) / 3,
    ),
    "only heads": (
        "sum",
        lambda y, s, d, e, t: torch.einsum("ekf,ekfo->eko", s["k"], y.heads[t]).flatten(1),
    ),
    "einsum": ("sum", lambda y, s, d, e, t: product(y, s, t)),
    "einsum turned": (
        "mean",
        lambda y, s, d, e, t: torch.einsum("ef, eof -> eo", s["h"], y.turned[t]),
    ),
    "bmm": ("mean", lambda y, s, d, e, t: torch.bmm(s["h"].unsqueeze(1), y.matrix[t]).squeeze(1)),
    "matmul": (
        "sum",
        lambda y, s, d, e, t: (y.turned[t] @ s["h"].unsqueeze(-1)).squeeze(-1) / (2 + d["s"]),
    ),
    "heads": (
        "sum",
        lambda y, s, d, e, t: (
            torch.einsum("ekf,ekfo->eko", s["k"], y.heads[t]) * s["h"][:, :2].unsqueeze(-1)
        ).flatten(1),
    ),
    "factors": (
        "sum",
        lambda y, s, d, e, t: (
            -product(y, s, t)
            * d["share"].gather(1, t.unsqueeze(-1))
            * (keep(0.3) * e["attr"][:, 0] * y.scale[t]).unsqueeze(-1)
            * s["s"]
        ),
    ),
    "of both ends": ("mean", lambda y, s, d, e, t: product(y, s, t) * (s["s"] + d["s"])),
    "max": ("max", lambda y, s, d, e, t: product(y, s, t) + s["s"]),
    "attention": (
        "softmax",
        lambda y, s, d, e, t: (
            torch.einsum("ef,efk->ek", s["h"], y.score[t]) + d["h"][:, :2] * s["s"],
            product(y, s, t).view(-1, 2, 2),
        ),
    ),
}
ONE_BY_ONE = ["fixed factors", "only heads"]
SUMS_FIRST = [*ONE_BY_ONE, "einsum", "einsum turned", "bmm", "matmul", "heads", "factors"]
CASES = [
    (name, way)
    for name in GATHERS
    for way in WAYS[(name not in ONE_BY_ONE) + (name not in SUMS_FIRST) :]
]


def choose(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    least = 0 if way == "one by one" else 1 << 40
    monkeypatch.setattr("graphtheta.tgar.compiler.relation_executor._EDGES_PER_RELATION", least)
    costs = (1, 0) if way == "sums first" else (0, 1)
    monkeypatch.setattr(RelationProgram, "costs", lambda *_: costs)


@pytest.mark.parametrize(
    ("workers", "method"),
    [PARTITIONS[2], *(pytest.param(*p, marks=pytest.mark.slow) for p in PARTITIONS[:2])],
)
@pytest.mark.parametrize(("name", "way"), CASES)
def test_all_ways_equal_plain_torch(
    name: str, way: str, workers: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, way)
    aggregator, gather = GATHERS[name]
    made: list[Relational] = []

    def make() -> Relational:
        made.append(Relational(gather, aggregator))
        return made[-1]

    fused, chunked = run_both(monkeypatch, make, GRAPH, workers, method)
    assert_same(fused, chunked, 1e-11)
    (program, *_) = made[0]._programs.values()
    assert isinstance(program, RelationProgram)
    assert program.sums_first == (way == "sums first")
    assert program.choice.startswith("one relation after the other") == (way == "one by one")


@pytest.mark.parametrize("name", ["fixed factors", "factors", "max"])
def test_sampled_edges_of_a_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = gt.open_shard(GRAPH)
    aggregator, gather = GATHERS[name]
    blocks = Neighbourhoods(shard).blocks(np.array([0, 3, 7, 30]), [Fanout(6, replace=True)])
    refused, found = NotLowered("asked for"), []
    for way in (*WAYS, "chunked"):
        with monkeypatch.context() as patch:
            choose(patch, way)
            if way == "chunked":
                patch.setattr("graphtheta.tgar.layer.program_of", lambda *_, **__: refused)
            view = View(shard, blocks=blocks, seed=1)
            layer = Relational(gather, aggregator).double()
            h = view.inputs().clone().requires_grad_()
            out = layer(view[0], h)
            out.square().sum().backward()
            found.append((out, h.grad, *(gradient(p) for p in layer.parameters())))
    for some in zip(*found, strict=True):
        for x in some[:-1]:
            torch.testing.assert_close(x, some[-1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("way", WAYS[1:])
def test_edge_columns_in_a_product_have_gradients(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, way)
    aggregator, gather = GATHERS["factors"]
    options = {"edge_inputs": ("attr",), "training": False}
    both = run_both(monkeypatch, lambda: Relational(gather, aggregator), GRAPH, 2, **options)
    assert_same(*both, 1e-11)
    assert np.abs(both[0].edge_grads["attr"]).max() > 0


def test_a_field_stored_in_bfloat16_is_multiplied_in_float32() -> None:
    shard = gt.open_shard(to_graph(power_law(40, 300)))
    layer = Relational(GATHERS["attention"][1], "softmax")
    want = layer(View(shard)[0], shard.features)
    layer.storage = torch.bfloat16
    h = shard.features.clone().requires_grad_()
    got = layer(View(shard)[0], h)
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)
    got.sum().backward()
    assert h.grad is not None


def test_the_cheaper_way_is_chosen_and_explained() -> None:
    num_nodes, few = 40, np.arange(300) % 3
    many = np.arange(300) % num_nodes
    layer = Relational(*reversed(GATHERS["einsum"]))
    for src, dst, way in ((few, many, "source"), (many, few, "destination")):
        shard = gt.open_shard(to_graph((num_nodes, src, dst)))
        layer.to(torch.float32)(View(shard)[0], shard.features)
        about = layer.explain()
        chosen, _, other = about.relations.partition(", rather than ")
        assert f"({way}, relation) pairs" in chosen
        assert other.startswith("products of ")
        assert chosen in repr(about)
    assert about.fused == {
        "message to pairs": "src.h",
        "message from pairs": "(src.h @ matrix[edge.type])",
    }


def test_pairs_are_those_that_occur() -> None:
    shard = gt.open_shard(GRAPH)
    block, relation = View(shard)[0].block, shard.edge_columns["type"]
    kinds = relation.numpy()
    dst = np.repeat(np.arange(40), np.diff(block.in_edges.indptr))
    for node, pairs, edges in (
        (dst, destination_pairs(block, relation, 5), block.in_edges),
        (block.in_edges.other, source_pairs(block, relation, 5), block.out_edges),
    ):
        want = np.unique(np.stack([kinds, node]), axis=1)
        got = [(r, n) for r, first, last in pairs.groups for n in pairs.node[first:last]]
        assert sorted(got) == sorted(map(tuple, want.T))
        assert count_pairs(edges, relation, 5) == len(pairs) == want.shape[1]
    assert destination_pairs(block, relation, 5) is destination_pairs(block, relation, 5)
    again = relation.clone()
    first = destination_pairs(block, again, 5)
    again[:] = 0
    assert len(destination_pairs(block, again, 5)) < len(first)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (slice(None), TraceError, "index 5 is out of bounds .* needs a row for each value"),
        (slice(1), ConfigError, r"expected edge values in \[0, 5\) .* got 0 to 5"),
    ],
)
def test_relation_out_of_range_is_an_error(
    wrong: slice, error: type[Exception], message: str
) -> None:
    shard = gt.open_shard(GRAPH)
    view = View(shard)
    view[0].edge_columns["type"] = shard.edge_columns["type"].clone()
    view[0].edge_columns["type"][wrong] = 5
    with pytest.raises(error, match=message):
        Relational(*reversed(GATHERS["einsum"])).double()(view[0], shard.features)


@pytest.mark.parametrize(
    ("gather", "reason"),
    [
        (
            lambda y, s, d, e, t: torch.einsum("ef,efo->eo", d["h"], y.matrix[t]),
            "only a field of the source can be multiplied",
        ),
        (
            lambda y, s, d, e, t: torch.einsum("ef,efo->o", s["h"], y.matrix[t]) + s["h"][:, :1],
            "value of one edge",
        ),
        (
            lambda y, s, d, e, t: torch.einsum("ekf,ekfo->eo", s["k"], y.heads[t]),
            "only products such as ef,efo->eo are supported",
        ),
    ],
)
def test_other_products_run_chunked(gather: Any, reason: str) -> None:
    shard = gt.open_shard(GRAPH)
    layer = Relational(gather, "sum").double()
    if "one edge" in reason:
        with pytest.raises(TraceError, match=reason):
            layer(View(shard)[0], shard.features)
        return
    layer(View(shard)[0], shard.features)
    assert reason in layer.explain().reason
