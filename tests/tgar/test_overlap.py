"""Rows are computed while those of mirrors travel, and no row reads a mirror too early."""

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
    """Every node hears from those before it: a range of nodes has few mirrors."""
    dst = np.repeat(np.arange(num_nodes), 3)
    src = (dst - np.tile([1, 2, 3], num_nodes)) % num_nodes
    features = np.random.default_rng(0).standard_normal((num_nodes, 3))
    nodes = {"id": pa.array(np.arange(num_nodes)), "features": matrix_column(features)}
    nodes["label:y"] = pa.array(np.arange(num_nodes) % 4)
    return gt.Graph(pa.table(nodes), pa.table({"src": pa.array(src), "dst": pa.array(dst)}))


@pytest.mark.parametrize("name", LAYERS)
def test_rows_run_while_those_of_mirrors_travel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> TGARLayer:
        with seeded(0):
            return LAYERS[name]().double()

    graph = ring(200)
    alone = run_layer(make, graph)
    monkeypatch.setattr("graphtheta.data.adjacency._CHUNK_COST", 64)
    events: dict[int, list[str]] = {}

    def note(event: str) -> None:
        events.setdefault(threading.get_ident(), []).append(event)

    run, room, progress, finish = (
        runner.run,
        exchange._new_mirrors,
        MirrorSync.progress,
        MirrorSync.finish,
    )
    leave, poke_back, rows = GradientReturn.start, GradientReturn.progress, GradientReturn.rows

    def noted_run(*given: Any) -> None:
        note("run")
        run(*given)

    def poisoned(*given: Any) -> torch.Tensor:
        return room(*given).fill_(float("nan"))

    def noted_poke(self: MirrorSync) -> None:
        note("progress")
        progress(self)

    def noted_finish(self: MirrorSync) -> None:
        note("finish")
        finish(self)

    def noted_leave(self: GradientReturn, cotangents: Any) -> None:
        note("leave")
        leave(self, cotangents)

    def noted_poke_back(self: GradientReturn) -> None:
        note("poke back")
        poke_back(self)

    def noted_rows(self: GradientReturn, cotangents: Any) -> Any:
        note("rows")
        return rows(self, cotangents)

    monkeypatch.setattr(runner, "run", noted_run)
    monkeypatch.setattr(GradientReturn, "start", noted_leave)
    monkeypatch.setattr(GradientReturn, "progress", noted_poke_back)
    monkeypatch.setattr(GradientReturn, "rows", noted_rows)
    monkeypatch.setattr(exchange, "_new_mirrors", poisoned)
    monkeypatch.setattr(MirrorSync, "progress", noted_poke)
    monkeypatch.setattr(MirrorSync, "finish", noted_finish)
    both = run_layer(make, graph, 2, "range")
    assert_equal(both.out_NO, alone.out_NO, 1e-12)
    assert_equal(both.x_grad_NF, alone.x_grad_NF, 1e-12)
    assert len(events) == 2
    for seen in events.values():
        assert seen[:2] == ["run", "progress"]
        at = seen.index("finish")
        assert seen[:at].count("progress") == seen[:at].count("run") >= 1
        assert seen[at + 1] == "run"  # the rows that wait for mirrors
        left, back = seen.index("leave"), seen.index("rows")
        assert seen[left - 1] == "run"  # the rows of mirrors
        between = seen[left + 1 : back]
        assert between.count("run") == between.count("poke back") >= 1
        assert seen.count("leave") == 1
