"""Comparison of a layer run by both executors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphtheta.data.graph import Graph
from graphtheta.tgar.compiler import NotLowered
from graphtheta.tgar.layer import TGARLayer
from tests.graphs import power_law, to_graph
from tests.nn.steps import LayerRun, run_layer

Gather = Callable[..., Any]


def run_both(
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], TGARLayer],
    graph: Graph,
    workers: int = 1,
    method: str = "node-hash",
    **options: Any,
) -> tuple[LayerRun, LayerRun]:
    """Run a layer fused, then chunked."""
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


PARTITIONS = [(1, "node-hash"), (2, "node-hash"), (3, "dbh")]
EACH_PARTITION = [
    pytest.param(PARTITIONS[0], id="one", marks=pytest.mark.slow),
    pytest.param(PARTITIONS[1], id="edge-cut", marks=pytest.mark.slow),
    pytest.param(PARTITIONS[2], id="vertex-cut"),  # has all that the others have
]

GRAPH = to_graph(power_law(60, 500), dtype=np.float64)
