"""A run is loaded from its folder; its predictions may be smoothed by the labels of the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

import graphtheta as gt
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError
from graphtheta.inference.whole import gather_rows, infer
from graphtheta.partition import Plan, make_store
from graphtheta.run.config import RunConfig
from graphtheta.run.propagate import propagate_labels
from graphtheta.run.run import predict_run, start_run
from graphtheta.shard.shard import Shard
from tests.graphs import random_graph, to_graph

ALONE = SingleCommunicator()


def predicted(run: Path, store: Path, out: Path, **options: bool) -> np.ndarray:
    predict_run(run, str(store), out, ALONE, **options)  # type: ignore[arg-type]
    table = pq.read_table(out).sort_by("id")
    return np.array(table["probability"].to_pylist(), np.float32)


def by_id(rows_M: Tensor, shard: Shard, graph: gt.Graph) -> Tensor:
    rows = gather_rows(rows_M, shard)
    assert rows is not None
    return rows[np.argsort(graph.ids)]


def test_load_run_gives_the_model_and_the_graph(tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    graph = to_graph(random_graph(30, 90))
    make_store(graph, store, Plan(1))
    config = RunConfig(input=str(store), run_dir=run, model="appnp", layers=3, hidden=4, epochs=1)
    start_run(config, ALONE).fit(1)

    saved = gt.load_run(run)
    assert (saved.config.model, saved.label.num_classes) == ("appnp", 4)
    assert saved.recipe is not None
    shard = saved.open_shard()
    probabilities = infer(saved.model(shard), shard).softmax(1)
    got = predicted(run, store, tmp_path / "plain")
    torch.testing.assert_close(by_id(probabilities, shard, graph), torch.from_numpy(got))

    smoothed = by_id(gt.correct_and_smooth(shard, probabilities), shard, graph)
    got = predicted(run, store, tmp_path / "smooth", smooth=True)
    want = smoothed / smoothed.sum(1, keepdim=True)
    known = smoothed.sum(1) > 0
    torch.testing.assert_close(want[known], torch.from_numpy(got)[known])

    with pytest.raises(ConfigError, match="--threshold: expected a run of a yes-or-no label"):
        predict_run(run, str(store), tmp_path / "none", ALONE, threshold=0.5)

    accuracy = propagate_labels(str(store), tmp_path / "spread", ALONE, num_layers=5)
    spread = by_id(gt.label_propagation(shard, num_layers=5), shard, graph)
    table = pq.read_table(tmp_path / "spread").sort_by("id")
    assert table["prediction"].to_pylist() == spread.argmax(1).tolist()
    assert all(0 <= value <= 1 for value in accuracy.values())
    with pytest.raises(ConfigError, match="expected the directory of a run"):
        gt.load_run(tmp_path)
