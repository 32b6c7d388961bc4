"""Commuting: products moved out of sums over edges give the same values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.data import adjacency
from graphtheta.nn import GATEConv, TransformerConv, seeded
from graphtheta.tgar import View, keep
from graphtheta.tgar.compiler import Program
from graphtheta.tgar.compiler.ir.kernel import Kernel
from graphtheta.tgar.compiler.ir.terms import Term, walk
from graphtheta.tgar.compiler.passes.program import Backward
from graphtheta.tgar.layer import TGARLayer
from tests.graphs import power_law, to_graph
from tests.tgar.both import EACH_PARTITION
from tests.tgar.layers import written
from tests.tgar.test_compiler import PARTITIONS, assert_same, run_both

GRAPH = to_graph(power_law(30, 900), dtype=np.float64)


def matrix(layer: Any) -> Any:
    return torch.cat([layer.table[:3, :2], layer.table[2:, :2]])  # (6, 2)


def mapped(layer: Any, e: Any) -> Any:
    return F.linear(e["attr"], matrix(layer)).view(-1, 2, 3)


MESSAGES: dict[str, Callable[..., Any]] = {
    "alone": lambda y, s, d, e: F.linear(e["attr"], y.table[:3, :2]),
    "added": lambda y, s, d, e: s["h"] - F.linear(e["attr"], y.table[:3, :2], y.w),
    "heads": lambda y, s, d, e: s["k"] + mapped(y, e),
    "dropped": lambda y, s, d, e: keep(0.3, 2).unsqueeze(-1) * (s["k"] + mapped(y, e)),
    "times the row": lambda y, s, d, e: d["k"] * (s["k"] - mapped(y, e)) + s["k"],
    "times the edge": lambda y, s, d, e: e["attr"][:, 1, None, None] * mapped(y, e) * d["k"],
    "in two shapes": lambda y, s, d, e: (
        mapped(y, e) + F.linear(e["attr"], matrix(y)).sum(-1)[:, None, None] * s["k"]
    ),
    "of heads": lambda y, s, d, e: y.lin(s["k"] * d["k"]) + s["k"],
    "read twice": lambda y, s, d, e: torch.tanh(mapped(y, e)) + mapped(y, e),
    "row alone": lambda y, s, d, e: e["attr"][:, 0, None] * d["h"],
    "inner product": lambda y, s, d, e: (
        (d["k"] * (s["k"] + mapped(y, e))).sum(-1, keepdim=True) * s["k"]
    ),
    "inner product of all": lambda y, s, d, e: (
        (d["k"] * keep(0.3, 2).unsqueeze(-1) * (s["k"] + mapped(y, e))).sum((1, 2))[:, None]
        * s["h"]
    ),
    "inner product of a head": lambda y, s, d, e: (
        (d["h"] * F.linear(e["attr"], y.table[:3, :2])).sum(-1, keepdim=True) * s["h"]
    ),
}


def scored(name: str) -> Callable[..., Any]:
    def gather(y: Any, s: Any, d: Any, e: Any) -> Any:
        message = MESSAGES[name](y, s, d, e)
        score = (d["k"] * (s["k"] + mapped(y, e))).sum(-1)
        return (score if message.dim() == 3 else message), message

    return gather


@pytest.mark.parametrize("segments", [False, True], ids=["whole", "segments"])
@pytest.mark.parametrize("aggregator", ["sum", "mean", "softmax", "max"])
@pytest.mark.parametrize("name", MESSAGES)
def test_same_as_chunked(
    name: str, aggregator: str, segments: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if segments:
        monkeypatch.setattr(adjacency, "_CHUNK_COST", 16)
        assert len(gt.open_shard(GRAPH).in_edges.chunks.segment_row) > 3
    number = sorted(MESSAGES).index(name) + segments
    partition, wanted = PARTITIONS[number % 3], ["attr"] if number % 2 else []
    gather = scored(name) if aggregator == "softmax" else MESSAGES[name]
    both = run_both(
        monkeypatch,
        lambda: written(gather, aggregator=aggregator, self_loops=aggregator != "mean"),
        GRAPH,
        *partition,
        edge_inputs=wanted,
    )
    assert_same(*both, 1e-11)


@pytest.mark.parametrize("wanted", [[], ["attr"]], ids=["", "edges"])
@pytest.mark.parametrize("partition", EACH_PARTITION)
@pytest.mark.parametrize("conv", [GATEConv, TransformerConv])
def test_layers_in_segments(
    conv: Any, partition: tuple[int, str], wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adjacency, "_CHUNK_COST", 16)

    def make() -> TGARLayer:
        with seeded(0):
            return conv(3, 8, heads=2, edge_dim=2, dropout=0.3).double()

    assert_same(*run_both(monkeypatch, make, GRAPH, *partition, edge_inputs=wanted), 1e-11)


def kernels(layer: TGARLayer) -> tuple[Kernel, Backward]:
    """Return the kernels of a layer, for all gradients but those of edge columns."""
    shard = gt.open_shard(to_graph(power_law(30, 90)))
    layer(View(shard)[0], shard.features)
    (program,) = layer._programs.values()
    assert isinstance(program, Program)
    forward = program.forward(save_score=True, finish=True)
    leaves = [t.leaf for t in walk(program.lowered.outputs) if t.op == "leaf"]
    wanted = frozenset(leaf.name for leaf in leaves if leaf.space != "edge")
    return forward, program.backward(wanted, saved_score=True, finish=True, wide_positions=False)


def each_edge(kernel: Kernel) -> list[Term]:
    """Return the terms that every edge computes."""
    terms = walk(root for each in kernel.passes for root in each.roots())
    invariant = kernel.invariant(terms)
    return [t for t in terms if t not in invariant]


@pytest.mark.parametrize(("conv", "moments"), [(GATEConv, 1), (TransformerConv, 2)])
def test_no_edge_multiplies_by_the_parameter(conv: Any, moments: int) -> None:
    forward, backward = kernels(conv(3, 16, heads=4, edge_dim=2))
    assert backward.in_kernel is not None
    assert [m.shape for m in forward.moments] == [(4, 1, 2)]
    assert [m.shape for m in backward.in_kernel.moments] == [(4, 1, 2)] * moments
    for kernel in (forward, backward.in_kernel):
        narrow = {2, 4, 2 * 4, 4 * 16}  # columns of an edge, heads, both, and a message
        assert all(t.size in narrow | {1} for t in each_edge(kernel))
        assert all(t.size <= 4 for t in each_edge(kernel) if t.op == "contract")
        assert kernel.epilogue
    assert not any(m.name in {o.name for o in forward.outputs} for m in forward.moments)


def test_products_of_wide_edge_values_are_not_commuted() -> None:
    def gather(layer: Any, s: Any, d: Any, e: Any) -> Any:
        return s["h"] * F.linear(e["attr"], layer.table[:3, :2])

    assert not kernels(written(gather, dtype=torch.float32))[0].moments


def test_a_row_without_edges_is_zero_for_any_parameter() -> None:
    graph = to_graph(power_law(30, 90), dtype=np.float64)
    shard = gt.open_shard(graph)
    layer = written(MESSAGES["added"])
    layer.table.data.fill_(float("nan"))
    out = layer(View(shard)[0], shard.features)
    empty = np.diff(shard.in_edges.indptr) == 0
    assert empty.any()
    assert (out[torch.from_numpy(empty)] == 0).all()
    assert out[torch.from_numpy(~empty)].isnan().all()
