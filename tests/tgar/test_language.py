"""Every supported operation, and every aggregator, gives the same fused as chunked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from graphtheta.tgar import AGGREGATORS, keep
from graphtheta.tgar.compiler.passes.build import WITH_KERNELS
from tests.tgar.both import EACH_PARTITION, GRAPH, PARTITIONS, Gather, assert_same, run_both
from tests.tgar.layers import written

# One entry for every supported operation, and for broadcasting, folding and repetition.
# Arguments: the layer, source, destination and edge.
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
    partition = PARTITIONS[sorted(GATHERS).index(name) % len(PARTITIONS)]
    fused, chunked = run_both(
        monkeypatch, lambda: written(GATHERS[name]), GRAPH, *partition, edge_inputs=["attr"]
    )
    assert_same(fused, chunked, 1e-11)


@pytest.mark.parametrize("partition", EACH_PARTITION)
@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize("aggregator", WITH_KERNELS)
@pytest.mark.parametrize("name", ["source alone", "tanh", "dot a head", "keep", "one attribute"])
def test_aggregators(
    name: str,
    aggregator: str,
    self_loops: bool,
    partition: tuple[int, str],
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
        *partition,
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
@pytest.mark.parametrize("partition", EACH_PARTITION)
def test_scores_of_any_width(
    partition: tuple[int, str], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for make in (
        lambda: written(bitwise, aggregator="softmax"),
        lambda: written(wide, transform=widened, aggregator="softmax", self_loops=True),
    ):
        both = run_both(monkeypatch, make, GRAPH, *partition, training=training)
        assert_same(*both, 1e-11)
