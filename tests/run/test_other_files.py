"""The weights of another run, and a checkpoint of another graph of the same shape, are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import graphtheta as gt
from graphtheta.data.schema import matrix_column
from graphtheta.errors import ConfigError
from graphtheta.partition import Plan, make_store, open_store
from graphtheta.run.config import RunConfig
from graphtheta.run.run import start_run, trained_model
from graphtheta.shard.fingerprint import graph_fingerprint
from tests.graphs import random_graph, to_graph

GRAPH = to_graph(random_graph(30, 90))


def train(
    store: Path, run_dir: Path, *, resume: bool = False, epochs: int = 1, seed: int = 0
) -> None:
    config = RunConfig(input=str(store), run_dir=run_dir, hidden=4, epochs=epochs, seed=seed)
    start_run(config, gt.communicator(), resume=resume).fit(epochs)


def test_weights_of_another_run_are_refused(tmp_path: Path) -> None:
    store, one, two = tmp_path / "store", tmp_path / "one", tmp_path / "two"
    make_store(GRAPH, store, Plan(1))
    train(store, one)
    train(store, two, seed=1)
    shard = gt.open_shard(open_store(store))
    trained_model(one, shard)
    shutil.copy(two / "weights.safetensors", one / "weights.safetensors")
    with pytest.raises(ConfigError, match=r"expected the weights of this run, .* got others"):
        trained_model(one, shard)
    (one / "summary.json").write_text("[")
    with pytest.raises(ConfigError, match="expected the summary of the run"):
        trained_model(one, shard)


def test_a_run_does_not_continue_on_another_graph(tmp_path: Path) -> None:
    features = np.array(GRAPH.nodes["features"].to_pylist(), np.float32)
    features[0, 0] += 1
    nodes = GRAPH.nodes.drop_columns(["features"])
    other = gt.Graph(nodes.append_column("features", matrix_column(features)), GRAPH.edges)
    make_store(GRAPH, tmp_path / "store", Plan(1))
    make_store(GRAPH, tmp_path / "parts", Plan(3, "dbh"))
    make_store(other, tmp_path / "other", Plan(1))
    train(tmp_path / "store", tmp_path / "run")
    train(tmp_path / "parts", tmp_path / "run", resume=True, epochs=2)
    with pytest.raises(ConfigError, match="expected a run on this graph"):
        train(tmp_path / "other", tmp_path / "run", resume=True, epochs=3)


def test_a_run_inside_its_store_is_refused(tmp_path: Path) -> None:
    make_store(GRAPH, tmp_path / "store", Plan(1))
    for run_dir in (tmp_path / "store", tmp_path / "store" / "run"):
        with pytest.raises(ConfigError, match="--run-dir: expected a directory outside"):
            train(tmp_path / "store", run_dir)


def test_the_fingerprint_is_the_same_on_any_workers() -> None:
    alone = graph_fingerprint(gt.open_shard(GRAPH))

    def work(comm: gt.Communicator) -> str:
        return graph_fingerprint(gt.open_shard(GRAPH, comm))

    assert gt.run_local(work, workers=3) == alone
