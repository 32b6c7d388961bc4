"""Fused Gather and Sum equals chunked, for every layer, graph, partition and dtype."""

from __future__ import annotations

import dataclasses
import logging
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import graphtheta as gt
from graphtheta.data import adjacency
from graphtheta.data.graph import Graph
from graphtheta.nn import GATConv, GATEConv, GCNConv, SAGEConv, seeded
from graphtheta.shard.shard import Shard
from graphtheta.tgar import View, keep
from graphtheta.tgar.compiler import FusedGatherSum
from graphtheta.tgar.compiler.codegen import native
from graphtheta.tgar.compiler.passes.build import WITH_KERNELS
from graphtheta.tgar.layer import TGARLayer
from tests.contracts.test_layers import MAKERS
from tests.graphs import CORNER_GRAPHS, power_law, random_graph, to_graph
from tests.nn.steps import run_layer
from tests.tgar.both import EACH_PARTITION, GRAPH, PARTITIONS, Gather, assert_same, run_both
from tests.tgar.layers import written

# The layers whose aggregator has a kernel.
COMPILED = [name for name, make in MAKERS.items() if make().aggregator in WITH_KERNELS]
# Each of them with every graph, the partitions in turn; `test_layers.py` has all combinations.
CASES = [
    (name, graph, PARTITIONS[(i + j) % len(PARTITIONS)])
    for i, name in enumerate(COMPILED)
    for j, graph in enumerate(CORNER_GRAPHS)
]


@pytest.mark.parametrize(
    ("name", "graph", "partition"), CASES, ids=[f"{n}-{g}-{w}-{m}" for n, g, (w, m) in CASES]
)
def test_layer_same_as_chunked(
    name: str, graph: str, partition: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corner = to_graph(CORNER_GRAPHS[graph], dtype=np.float64)
    if corner.num_nodes < partition[0]:
        pytest.skip("more workers than nodes")

    def make() -> TGARLayer:
        with seeded(0):
            return MAKERS[name]().double()

    reads_attr = name in ("gatv2", "gat-e")
    fused, chunked = run_both(
        monkeypatch, make, corner, *partition, edge_inputs=["attr"] if reads_attr else []
    )
    assert_same(fused, chunked, 1e-11)


@pytest.mark.parametrize("aggregator", ["sum", "max"])
@pytest.mark.parametrize("width", [1, 2, 5, 8, 13, 64, 300, 1100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_widths(width: int, dtype: Any, aggregator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = to_graph(power_law(40, 300), dtype=dtype)

    def transform(layer: Any, h: Any) -> Any:
        columns = torch.linspace(-1, 1, width).to(h.dtype)
        return {"x": h.sum(-1, keepdim=True) * columns, "s": h.sum(-1, keepdim=True)}

    def gather(layer: Any, s: Any, d: Any, e: Any) -> Any:
        return s["x"] * (d["s"] + e["attr"].sum(-1, keepdim=True))

    torch_type = torch.float32 if dtype == np.float32 else torch.float64
    fused, chunked = run_both(
        monkeypatch,
        lambda: written(gather, transform=transform, aggregator=aggregator, dtype=torch_type),
        graph,
        edge_inputs=["attr"],
    )
    assert_same(fused, chunked, 1e-5 if dtype == np.float32 else 1e-11)


@pytest.mark.parametrize("name", COMPILED)
def test_single_precision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = to_graph(power_law(200, 3000))

    def make() -> TGARLayer:
        with seeded(0):
            return MAKERS[name]()

    assert_same(*run_both(monkeypatch, make, graph), 1e-5)


@pytest.fixture
def tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut every graph into many chunks, and rows of more than 32 edges into segments."""
    monkeypatch.setattr(adjacency, "_CHUNK_COST", 16)


@pytest.mark.usefixtures("tiny_chunks")
@pytest.mark.parametrize("partition", EACH_PARTITION)
@pytest.mark.parametrize("aggregator", WITH_KERNELS)
def test_hubs_in_segments(
    aggregator: str, partition: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = to_graph(power_law(30, 900), dtype=np.float64)
    shard = gt.open_shard(graph)
    assert len(shard.in_edges.chunks.segment_row) > 3
    assert len(shard.out_edges.chunks.segment_row) > 3

    def gather(layer: Any, s: Any, d: Any, e: Any) -> Any:
        message = s["h"] * torch.tanh(d["h"]) * layer.w * keep(0.2).unsqueeze(-1)
        return (message.sum(-1), message) if aggregator == "softmax" else message

    for self_loops in (False, True):
        both = run_both(
            monkeypatch,
            lambda: written(gather, aggregator=aggregator, self_loops=self_loops),  # noqa: B023
            graph,
            *partition,
        )
        assert_same(*both, 1e-11)


@pytest.mark.usefixtures("tiny_chunks")
@pytest.mark.parametrize("name", MAKERS)
def test_same_bits_for_any_number_of_threads(name: str) -> None:
    graph = to_graph(power_law(300, 6000))

    def make() -> TGARLayer:
        with seeded(0):
            return MAKERS[name]()

    runs = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            runs.append(_gather_only(make(), graph))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        for got, want in zip(other, runs[0], strict=True):
            assert np.array_equal(got, want)


def _gather_only(layer: TGARLayer, graph: Graph) -> list[Any]:
    """Return the results of all kernels, without torch's products, which depend on threads."""
    shard = gt.open_shard(graph)
    found: list[Any] = []
    launch = FusedGatherSum.launch

    def spy(self: Any, *args: Any, **options: Any) -> Any:
        results = launch(self, *args, **options)
        found.extend(r.numpy().copy() for r in results.values())
        return results

    FusedGatherSum.launch = spy  # type: ignore[method-assign]
    try:
        view = View(shard, seed=3)
        out = layer(view[0], shard.features)
        (out.sum() + view.token).backward()
    finally:
        FusedGatherSum.launch = launch  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_backward_twice_if_the_graph_is_retained(name: str) -> None:
    shard = gt.open_shard(GRAPH)
    with seeded(0):
        layer = MAKERS[name]().double()
    x = shard.features.clone().requires_grad_()
    view = View(shard, seed=3)
    loss = layer(view[0], x).square().sum() + view.token
    wanted = [x, *layer.parameters()]
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    second = torch.autograd.grad(loss, wanted)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(loss, wanted)


def test_backward_frees_what_only_its_first_kernel_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = gt.open_shard(GRAPH)
    layer = GATConv(3, 4, heads=2).double()
    messages: list[weakref.ref[Any]] = []
    alive: list[bool] = []
    launch = FusedGatherSum.launch

    def spy(self: Any, kernel: Any, arrays: Any, *args: Any, **options: Any) -> Any:
        if kernel.orientation == "out":
            alive.append(messages[0]() is not None)
        results = launch(self, kernel, arrays, *args, **options)
        if "message" in results:
            messages.append(weakref.ref(results["message"].untyped_storage()))
        return results

    monkeypatch.setattr(FusedGatherSum, "launch", spy)
    for retained in (True, False):
        view = View(shard, seed=3)
        loss = layer(view[0], shard.features.clone().requires_grad_()).sum() + view.token
        loss.backward(retain_graph=retained)
        messages.clear()
    assert alive == [True, False]


def test_not_a_number_and_infinity_as_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    inf, nan = float("inf"), float("nan")
    graph = to_graph(random_graph(30, 120), dtype=np.float64)
    x = graph.features.copy()
    x[0, 0], x[1, 1], x[2, 2], x[3, 0] = nan, inf, -inf, nan

    def message(layer: Any, s: Any, d: Any, e: Any) -> Any:
        return s["h"]

    def scored(layer: Any, s: Any, d: Any, e: Any) -> Any:
        return s["h"], torch.where(s["h"] > 0, 1.0 + 0 * s["h"], 2.0)

    for aggregator in WITH_KERNELS:
        gather = scored if aggregator == "softmax" else message
        fused, chunked = run_both(
            monkeypatch,
            lambda: written(gather, aggregator=aggregator),  # noqa: B023
            graph,
            x_NF=x,
            training=False,
        )
        np.testing.assert_allclose(fused.out_NO, chunked.out_NO, rtol=1e-12)


def test_masked_rows_give_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(layer: Any, s: Any, d: Any, e: Any) -> Any:
        score = torch.where(d["h"].sum(-1) > 0, s["h"].sum(-1), float("-inf"))
        return score, s["h"]

    for partition in PARTITIONS:
        fused, chunked = run_both(
            monkeypatch, lambda: written(gather, aggregator="softmax"), GRAPH, *partition
        )
        assert np.isfinite(fused.x_grad_NF).all()
        assert (fused.out_NO == 0).any()
        assert_same(fused, chunked, 1e-11)


REFUSED: dict[str, tuple[Gather, str]] = {
    "sin": (lambda y, s, d, e: torch.sin(s["h"] + d["h"]), "sin() has no kernel"),
    "cat": (lambda y, s, d, e: torch.cat([s["h"], d["h"]], -1), "cat() has no kernel"),
    "along": (lambda y, s, d, e: (s["h"] + d["h"]).amax(-1), "amax() has no kernel"),
    "max of": (lambda y, s, d, e: (s["h"] + d["h"]).max(-1).values, "max()"),
    "half": (lambda y, s, d, e: (s["h"] + d["h"]).half().double(), "half() has no kernel"),
    "slice": (lambda y, s, d, e: (s["h"] + d["h"])[:, 1:], "__getitem__()"),
    "cube": (lambda y, s, d, e: (s["h"] + d["h"]) ** 3, "pow"),
    "wide": (
        lambda y, s, d, e: d["h"].unsqueeze(-1) * s["h"].unsqueeze(-1).expand(-1, 3, 6000),
        "does not fit on the stack",
    ),
    "constant": (
        lambda y, s, d, e: (s["h"] + d["h"]) * torch.full((3,), 2.0, dtype=torch.float64).sin(),
        "",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_gathers_run_chunked_and_warn_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    gather, reason = REFUSED[name]
    layer = written(gather)
    with caplog.at_level(logging.WARNING, "graphtheta"):
        shard = gt.open_shard(GRAPH)
        for _ in range(2):
            view = View(shard)
            layer(view[0], shard.features)
    lines = [r.message for r in caplog.records]
    if reason:
        assert len(lines) == 1
        assert "runs chunked" in lines[0]
        assert reason in lines[0]
    else:
        assert not lines


@pytest.mark.parametrize("bytes_", [16, 64])
def test_machines_with_other_vector_widths(bytes_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = dataclasses.replace(
        native._machine(), vector_bytes=bytes_, fingerprint=f"test {bytes_}"
    )
    monkeypatch.setattr(native, "_machine", lambda: machine)
    monkeypatch.setattr(native, "_ready", {})
    graph = to_graph(power_law(60, 500), dtype=np.float32)
    for make in (
        lambda: GATEConv(3, 11, heads=3, edge_dim=2, dropout=0.5),
        lambda: SAGEConv(3, 70, aggregator="max"),
        lambda: GCNConv(3, 40),
    ):

        def seeded_layer() -> TGARLayer:
            with seeded(0):
                return make()  # noqa: B023

        assert_same(*run_both(monkeypatch, seeded_layer, graph), 1e-5)


def test_positions_in_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = Shard.out_edges.fget
    assert narrow is not None

    def widened(self: Shard) -> adjacency.Adjacency:
        edges = narrow(self)
        return adjacency.Adjacency(edges.indptr, edges.other, edges.position.astype(np.int64))

    monkeypatch.setattr(Shard, "out_edges", property(widened))

    def make() -> TGARLayer:
        with seeded(0):
            return GATConv(3, 4, heads=2, edge_dim=2).double()

    assert_same(*run_both(monkeypatch, make, GRAPH), 1e-11)


@pytest.mark.parametrize("partition", EACH_PARTITION)
@pytest.mark.parametrize("name", ["gcn", "gat-e", "sage"])
def test_bfloat16_storage(
    name: str, partition: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = to_graph(power_law(60, 500))

    def make(storage: torch.dtype | None) -> TGARLayer:
        with seeded(0):
            layer = MAKERS[name]()
        layer.storage = storage
        return layer

    fused, chunked = run_both(monkeypatch, lambda: make(torch.bfloat16), graph, *partition)
    assert_same(fused, chunked, 1e-2)  # gradients may round to the next bfloat16
    np.testing.assert_allclose(fused.out_NO, chunked.out_NO, rtol=0, atol=1e-5)
    full = run_layer(lambda: make(None), graph, *partition)
    assert_same(fused, full, 3e-2)
    for rank, sent in full.bytes_sent.items():
        for stage in ("forward layer 0 sync", "backward layer 0 sync"):
            assert fused.bytes_sent[rank].get(stage, 0) <= sent.get(stage, 0)
