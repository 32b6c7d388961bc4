"""Rows are computed while mirror rows are in flight, and no row reads a mirror too early."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import graphtheta as gt
from graphtheta.data.schema import matrix_column
from graphtheta.exchange import autograd as exchange
from graphtheta.exchange.mirror_sync import GradientReturn, MirrorSync
from graphtheta.nn import GATConv, GCNConv, SAGEConv, seeded
from graphtheta.tgar.compiler import runner
from graphtheta.tgar.layer import TGARLayer
from tests.nn.steps import assert_equal, run_layer

LAYERS = {
    "gcn": lambda: GCNConv(3, 3),
    "gat": lambda: GATConv(3, 3, heads=2),
    "max": lambda: SAGEConv(3, 3, aggregator="max"),
}


def ring(num_nodes: int) -> gt.Graph:
    """Return a graph with edges from the three nodes before each: ranges have few mirrors."""
    dst = np.repeat(np.arange(num_nodes), 3)
    src = (dst - np.tile([1, 2, 3], num_nodes)) % num_nodes
    features = np.random.default_rng(0).standard_normal((num_nodes, 3))
    nodes = {"id": pa.array(np.arange(num_nodes)), "features": matrix_column(features)}
    nodes["label:y"] = pa.array(np.arange(num_nodes) % 4)
    return gt.Graph(pa.table(nodes), pa.table({"src": pa.array(src), "dst": pa.array(dst)}))


@pytest.mark.parametrize("name", LAYERS)
def test_rows_run_while_mirrors_are_in_flight(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> TGARLayer:
        with seeded(0):
            return LAYERS[name]().double()

    graph = ring(200)
    alone = run_layer(make, graph)
    monkeypatch.setattr("graphtheta.data.adjacency._CHUNK_COST", 64)
    events: dict[int, list[str]] = {}  # by thread

    def record(owner: Any, name: str, event: str) -> None:
        """Record the calls of a function or method."""
        function = getattr(owner, name)

        def recorded(*args: Any) -> Any:
            events.setdefault(threading.get_ident(), []).append(event)
            return function(*args)

        monkeypatch.setattr(owner, name, recorded)

    new_mirrors = exchange._new_mirrors

    def poisoned(*args: Any) -> torch.Tensor:
        return new_mirrors(*args).fill_(float("nan"))

    monkeypatch.setattr(exchange, "_new_mirrors", poisoned)
    record(runner, "run", "run")
    record(MirrorSync, "progress", "sync progress")
    record(MirrorSync, "finish", "sync finish")
    record(GradientReturn, "start", "return start")
    record(GradientReturn, "progress", "return progress")
    record(GradientReturn, "rows", "return rows")
    both = run_layer(make, graph, 2, "range")
    assert_equal(both.out_NO, alone.out_NO, 1e-12)
    assert_equal(both.x_grad_NF, alone.x_grad_NF, 1e-12)
    assert len(events) == 2
    for seen in events.values():
        assert seen[:2] == ["run", "sync progress"]
        finish = seen.index("sync finish")
        assert seen[:finish].count("sync progress") == seen[:finish].count("run") >= 1
        assert seen[finish + 1] == "run"  # the rows that read mirrors
        start, rows = seen.index("return start"), seen.index("return rows")
        assert seen[start - 1] == "run"  # the rows of mirrors
        between = seen[start + 1 : rows]
        assert between.count("run") == between.count("return progress") >= 1
        assert seen.count("return start") == 1
