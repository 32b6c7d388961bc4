"""Fused Gather and Sum gives what the chunked one gives, for any layer, graph, cut and type."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import graphtheta as gt
from graphtheta import adjacency
from graphtheta.graph import Graph
from graphtheta.nn import GATConv, GATEConv, GCNConv, SAGEConv, seeded
from graphtheta.shard import Shard
from graphtheta.tgar import AGGREGATORS, View, keep
from graphtheta.tgar.fused import FusedGatherSum, NotLowered, native
from graphtheta.tgar.layer import TGARLayer
from tests.contracts.test_layers import MAKERS
from tests.graphs import CORNER_GRAPHS, power_law, random_graph, to_graph
from tests.nn.steps import LayerRun, run_layer
from tests.tgar.layers import written

Gather = Callable[..., Any]


def run_both(
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], TGARLayer],
    graph: Graph,
    workers: int = 1,
    method: str = "node-hash",
    **options: Any,
) -> tuple[LayerRun, LayerRun]:
    """Run a layer fused, and again chunked."""
    made: list[TGARLayer] = []

    def remembered() -> TGARLayer:
        made.append(make())
        return made[-1]

    fused = run_layer(remembered, graph, workers, method, **options)
    for layer in made:
        assert not [p for p in layer._programs.values() if isinstance(p, NotLowered)]
    with monkeypatch.context() as patch:
        patch.setattr("graphtheta.tgar.layer.program_of", lambda *a, **o: NotLowered("asked for"))
        patch.setattr(logging.getLogger("graphtheta"), "disabled", True)
        chunked = run_layer(make, graph, workers, method, **options)
    return fused, chunked


def assert_same(fused: LayerRun, chunked: LayerRun, tolerance: float) -> None:
    def close(got: Any, want: Any) -> None:
        largest = max(1.0, np.abs(want).max(initial=0))  # gradients may cancel to nothing
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * largest)

    close(fused.out_NO, chunked.out_NO)
    close(fused.x_grad_NF, chunked.x_grad_NF)
    for name, grad in chunked.parameter_grads.items():
        close(fused.parameter_grads[name], grad)
    for name, grad in chunked.edge_grads.items():
        close(fused.edge_grads[name], grad)


PLACES = [(1, "node-hash"), (2, "node-hash"), (3, "dbh")]


# Every layer meets every graph, and every place; `test_layers.py` has their product, fused.
CASES = [
    (name, graph, PLACES[(i + j) % len(PLACES)])
    for i, name in enumerate(MAKERS)
    for j, graph in enumerate(CORNER_GRAPHS)
]


@pytest.mark.parametrize(
    ("name", "graph", "place"), CASES, ids=[f"{n}-{g}-{w}-{m}" for n, g, (w, m) in CASES]
)
def test_layer_same_as_chunked(
    name: str, graph: str, place: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corner = to_graph(CORNER_GRAPHS[graph], dtype=np.float64)
    if corner.num_nodes < place[0]:
        pytest.skip("more workers than nodes")

    def make() -> TGARLayer:
        with seeded(0):
            return MAKERS[name]().double()

    reads_attr = name in ("gatv2", "gat-e")
    fused, chunked = run_both(
        monkeypatch, make, corner, *place, edge_inputs=["attr"] if reads_attr else []
    )
    assert_same(fused, chunked, 1e-11)


GRAPH = to_graph(power_law(60, 500), dtype=np.float64)

# One entry for every word of the language, and for what broadcasts, folds or repeats; y is the
# layer.
GATHERS: dict[str, Gather] = {
    "add": lambda y, s, d, e: s["h"] + d["h"] + 1.5,
    "add function": lambda y, s, d, e: torch.add(s["h"], d["h"]),
    "reversed": lambda y, s, d, e: 2 - (1 / (3 + d["h"].square())) * s["h"],
    "sub": lambda y, s, d, e: torch.sub(s["h"], d["h"]),
    "div": lambda y, s, d, e: s["h"] / (2 + d["h"].abs()),
    "neg": lambda y, s, d, e: -(s["h"] * d["h"]),
    "relu": lambda y, s, d, e: F.relu(s["h"] + d["h"]),
    "leaky_relu": lambda y, s, d, e: F.leaky_relu(s["h"] + d["h"], 0.1),
    "leaky_relu falling": lambda y, s, d, e: F.leaky_relu(s["h"] + d["h"], -0.1),
    "elu": lambda y, s, d, e: F.elu(s["h"] - d["h"], 0.7),
    "elu falling": lambda y, s, d, e: F.elu(s["h"] - d["h"], -0.7),
    "exp": lambda y, s, d, e: (s["h"] - d["h"]).exp(),
    "log": lambda y, s, d, e: (2 + s["h"].square() + d["h"].square()).log(),
    "log1p": lambda y, s, d, e: torch.log1p(s["h"].square() * d["h"].square()),
    "expm1": lambda y, s, d, e: torch.expm1(s["h"] * d["h"]),
    "sigmoid": lambda y, s, d, e: torch.sigmoid(s["h"] * d["h"]),
    "tanh": lambda y, s, d, e: torch.tanh(s["h"] + d["h"]),
    "silu": lambda y, s, d, e: F.silu(s["h"] + d["h"]),
    "softplus": lambda y, s, d, e: F.softplus(9 * (s["h"] + d["h"])),
    "abs": lambda y, s, d, e: (s["h"] - d["h"]).abs(),
    "square": lambda y, s, d, e: (s["h"] + d["h"]).square(),
    "pow": lambda y, s, d, e: (s["h"] + d["h"]) ** 2 + (2 + (s["h"] * d["h"]).square()) ** -0.5,
    "sqrt": lambda y, s, d, e: (1 + s["h"].square() + d["h"].square()).sqrt(),
    "rsqrt": lambda y, s, d, e: (1 + s["h"].square() + d["h"].square()).rsqrt(),
    "reciprocal": lambda y, s, d, e: (2 + s["h"].square() + d["h"].square()).reciprocal(),
    "clamp": lambda y, s, d, e: (s["h"] + d["h"]).clamp(-0.5, 0.5),
    "clamp one side": lambda y, s, d, e: (s["h"] + d["h"]).clamp_min(0) + s["h"].clamp(max=0.1),
    "clamp by value": lambda y, s, d, e: torch.clamp(s["h"], max=d["h"]),
    "maximum": lambda y, s, d, e: torch.maximum(s["h"], d["h"]),
    "minimum": lambda y, s, d, e: torch.minimum(s["h"], d["h"]),
    "where": lambda y, s, d, e: torch.where(s["h"] > d["h"], s["h"], 0.5 * d["h"]),
    "where method": lambda y, s, d, e: s["h"].where(s["h"] <= d["h"], d["h"] * 2),
    "where number": lambda y, s, d, e: torch.where((s["h"] >= d["h"]) & (d["h"] != 0), s["h"], 0),
    "where not": lambda y, s, d, e: torch.where(~(s["h"] < d["h"]) | (s["h"] == 0), d["h"], s["h"]),
    "dot": lambda y, s, d, e: (s["h"] * d["h"]).sum(-1, keepdim=True) * s["h"],
    "dot a head": lambda y, s, d, e: (s["k"] * d["k"]).sum(-1).unsqueeze(-1) * s["k"],
    "mean": lambda y, s, d, e: (s["k"] * d["k"]).mean(-1, keepdim=True) + s["k"],
    "sum over heads": lambda y, s, d, e: (s["k"] * d["k"]).sum(1),
    "sum over both": lambda y, s, d, e: (s["k"] * d["k"]).sum((1, 2)),
    "view": lambda y, s, d, e: (s["k"] * d["k"]).view(-1, 6) + 1,
    "flatten": lambda y, s, d, e: (s["k"] * d["k"]).flatten(1) * 2,
    "across heads": lambda y, s, d, e: (s["k"] * d["k"]).reshape(-1, 3, 2) * d["h"].unsqueeze(-1),
    "none": lambda y, s, d, e: s["h"][:, None] * d["k"] + s["h"][..., None, :],
    "squeeze": lambda y, s, d, e: (s["h"] * d["h"]).sum(-1, keepdim=True).squeeze(-1),
    "expand": lambda y, s, d, e: (s["h"] * d["h"]).unsqueeze(1).expand(-1, 4, -1) * 0.3,
    "expand_as": lambda y, s, d, e: (s["h"] * d["h"]).sum(-1, keepdim=True).expand_as(s["h"]),
    "parameter": lambda y, s, d, e: s["h"] * y.w + d["h"] * y.buffer,
    "table by type": lambda y, s, d, e: y.table[e["type"]] * s["h"] + d["h"],
    "embedding": lambda y, s, d, e: F.embedding(e["type"], y.table) * d["h"],
    "index_select": lambda y, s, d, e: y.table.index_select(0, e["type"]) * d["h"],
    "type as number": lambda y, s, d, e: e["type"].double().unsqueeze(-1) * s["h"] * d["h"],
    "one attribute": lambda y, s, d, e: (
        e["attr"][:, 1, None] * s["h"] + e["attr"][..., 0].unsqueeze(-1)
    ),
    "linear of edges": lambda y, s, d, e: F.linear(e["attr"], y.table[:3, :2]) + s["h"],
    "linear": lambda y, s, d, e: y.lin(s["h"] * d["h"]),
    "linear of heads": lambda y, s, d, e: y.lin(s["k"] * d["k"]) + s["k"],
    "two layers": lambda y, s, d, e: y.lin(F.relu(y.lin(s["h"] + d["h"]))),
    "matmul": lambda y, s, d, e: (s["h"] + d["h"]) @ y.table.t(),
    "detach": lambda y, s, d, e: (s["h"] * d["h"]).detach() * s["h"] * d["h"],
    "keep": lambda y, s, d, e: s["h"] * keep(0.3).unsqueeze(-1) + keep(0.5, 3) * d["h"],
    "source alone": lambda y, s, d, e: s["h"],
    "destination alone": lambda y, s, d, e: d["h"],
    "edge alone": lambda y, s, d, e: e["attr"],
    "scalar": lambda y, s, d, e: (s["h"] * d["h"]).sum(-1),
    "deep": lambda y, s, d, e: _deep(s["h"], d["h"]),
}


def _deep(x: Any, y: Any) -> Any:
    for _ in range(12):
        x, y = x + 0.1 * y, x * 0.5 - y
    return x


@pytest.mark.parametrize("name", GATHERS)
def test_language(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = PLACES[sorted(GATHERS).index(name) % len(PLACES)]
    fused, chunked = run_both(
        monkeypatch, lambda: written(GATHERS[name]), GRAPH, *place, edge_inputs=["attr"]
    )
    assert_same(fused, chunked, 1e-11)


@pytest.mark.parametrize("place", PLACES, ids=["one", "edge-cut", "vertex-cut"])
@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("name", ["source alone", "tanh", "dot a head", "keep", "one attribute"])
def test_aggregators(
    name: str,
    aggregator: str,
    self_loops: bool,
    place: tuple[int, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = GATHERS[name]
    gather = message
    if AGGREGATORS[aggregator].scored:

        def gather(layer: Any, s: Any, d: Any, e: Any) -> Any:
            return message(layer, s, d, e).sum(-1), message(layer, s, d, e)

    fused, chunked = run_both(
        monkeypatch,
        lambda: written(gather, aggregator=aggregator, self_loops=self_loops),
        GRAPH,
        *place,
        edge_inputs=["attr"],
    )
    assert_same(fused, chunked, 1e-11)


def bitwise(layer: Any, s: Any, d: Any, e: Any) -> Any:
    return torch.tanh(s["h"] + d["h"] + e["attr"].sum(-1, keepdim=True)), s["h"]


def wide(layer: Any, s: Any, d: Any, e: Any) -> Any:
    both = torch.tanh(s["w"] + d["w"])
    return (both * both).sum(-1), s["w"] * both


def widened(layer: Any, h: Any) -> Any:
    return {"w": h.repeat(1, 60).view(-1, 5, 36) * torch.linspace(0, 1, 36, dtype=h.dtype)}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("place", PLACES, ids=["one", "edge-cut", "vertex-cut"])
def test_scores_of_any_width(
    place: tuple[int, str], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for make in (
        lambda: written(bitwise, aggregator="softmax"),
        lambda: written(wide, transform=widened, aggregator="softmax", self_loops=True),
    ):
        both = run_both(monkeypatch, make, GRAPH, *place, training=training)
        assert_same(*both, 1e-11)


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


@pytest.mark.parametrize("name", MAKERS)
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
@pytest.mark.parametrize("place", PLACES, ids=["one", "edge-cut", "vertex-cut"])
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_hubs_in_segments(
    aggregator: str, place: tuple[int, str], monkeypatch: pytest.MonkeyPatch
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
            *place,
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
    """Return what Gather and Sum gives forward and backward, torch's products left out."""
    shard = gt.open_shard(graph)
    found: list[Any] = []
    launch = FusedGatherSum.launch

    def spy(self: Any, *args: Any) -> Any:
        results = launch(self, *args)
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


def test_not_a_number_and_infinity_as_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    inf, nan = float("inf"), float("nan")
    graph = to_graph(random_graph(30, 120), dtype=np.float64)
    x = graph.features.copy()
    x[0, 0], x[1, 1], x[2, 2], x[3, 0] = nan, inf, -inf, nan

    def message(layer: Any, s: Any, d: Any, e: Any) -> Any:
        return s["h"]

    def scored(layer: Any, s: Any, d: Any, e: Any) -> Any:
        return s["h"], torch.where(s["h"] > 0, 1.0 + 0 * s["h"], 2.0)

    for aggregator in AGGREGATORS:
        gather = scored if aggregator == "softmax" else message
        fused, chunked = run_both(
            monkeypatch,
            lambda: written(gather, aggregator=aggregator),  # noqa: B023
            graph,
            x_NF=x,
            training=False,
        )
        np.testing.assert_allclose(fused.out_NO, chunked.out_NO, rtol=1e-12)


def test_rows_masked_out_give_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(layer: Any, s: Any, d: Any, e: Any) -> Any:
        score = torch.where(d["h"].sum(-1) > 0, s["h"].sum(-1), float("-inf"))
        return score, s["h"]

    for place in PLACES:
        fused, chunked = run_both(
            monkeypatch, lambda: written(gather, aggregator="softmax"), GRAPH, *place
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
        "too wide",
    ),
    "constant": (
        lambda y, s, d, e: (s["h"] + d["h"]) * torch.full((3,), 2.0, dtype=torch.float64).sin(),
        "",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_kernel_runs_chunked_and_says_why_once(
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
def test_machines_with_other_vectors(bytes_: int, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_positions_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = Shard.out_edges.func  # type: ignore[attr-defined]

    def widened(self: Shard) -> adjacency.Adjacency:
        edges = narrow(self)
        return adjacency.Adjacency(edges.indptr, edges.other, edges.position.astype(np.int64))

    monkeypatch.setattr(Shard, "out_edges", property(widened))

    def make() -> TGARLayer:
        with seeded(0):
            return GATConv(3, 4, heads=2, edge_dim=2).double()

    assert_same(*run_both(monkeypatch, make, GRAPH), 1e-11)


@pytest.mark.parametrize("place", PLACES, ids=["one", "edge-cut", "vertex-cut"])
@pytest.mark.parametrize("name", ["gcn", "gat-e", "sage"])
def test_bfloat16_storage(
    name: str, place: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = to_graph(power_law(60, 500))

    def make(storage: torch.dtype | None) -> TGARLayer:
        with seeded(0):
            layer = MAKERS[name]()
        layer.storage = storage
        return layer

    fused, chunked = run_both(monkeypatch, lambda: make(torch.bfloat16), graph, *place)
    assert_same(fused, chunked, 1e-2)  # a cotangent may round to the next bfloat16
    np.testing.assert_allclose(fused.out_NO, chunked.out_NO, rtol=0, atol=1e-5)
    full = run_layer(lambda: make(None), graph, *place)
    assert_same(fused, full, 3e-2)
    for rank, sent in full.bytes_sent.items():
        for stage in ("forward layer 0 sync", "backward layer 0 sync"):
            assert fused.bytes_sent[rank].get(stage, 0) <= sent.get(stage, 0)
