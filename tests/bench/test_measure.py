"""What is measured is what is meant; how long it takes is not looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import graphtheta as gt
from graphtheta.bench.epoch import ModelOptions, epoch_record
from graphtheta.bench.executors import chunked_layers, executors, require_fused
from graphtheta.bench.graphs import describe_graph, rmat_graph
from graphtheta.bench.kernels import KERNELS, Aggregate, kernel_records, num_records
from graphtheta.bench.partition import Job, partition_record
from graphtheta.bench.scaling import efficiency
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.nn import MODELS
from graphtheta.tgar import View
from graphtheta.tgar.compiler import NotLowered
from graphtheta.tgar.explain import Explanation

GRAPH = rmat_graph(6, 4, features=8, classes=3)


@pytest.fixture(scope="module")
def shard() -> gt.Shard:
    return gt.open_shard(GRAPH)


def test_generated_graph_has_all_that_layers_read() -> None:
    assert (GRAPH.num_nodes, GRAPH.num_features) == (64, 8)
    assert 0 < GRAPH.num_edges <= 256
    assert not (GRAPH.src == GRAPH.dst).any()
    assert GRAPH.column("attr").shape == (GRAPH.num_edges, 16)
    assert GRAPH.label().max() == 2
    assert (GRAPH.split() == 1).all()
    assert rmat_graph(6, 4, features=8, classes=3).digest() == GRAPH.digest()


def test_kernels_are_recorded_one_by_one(shard: gt.Shard) -> None:
    graph = describe_graph("small", shard.manifest)
    triad, *records = kernel_records(
        shard, graph, threads=1, widths=(4,), runs=2, allow_chunked=True
    )
    assert triad["benchmark"] == "triad"
    assert len(records) + 1 == num_records(tuple(KERNELS), (4,))
    assert {r["case"]["kernel"] for r in records} == KERNELS.keys()
    assert {r["case"]["library"] for r in records} == {"graphtheta", "torch-csr"}
    assert {r["case"]["direction"] for r in records} == {"forward", "backward"}
    assert {r["case"]["dropout"] for r in records} == {0.0, 0.6}
    assert all(len(record["samples"]) == 2 for record in records)
    cases = [tuple(record["case"].items()) for record in records]
    assert len(set(cases)) == len(cases)


@pytest.mark.parametrize("weighted", [False, True])
def test_aggregate_is_the_product_with_the_adjacency_matrix(
    shard: gt.Shard, weighted: bool
) -> None:
    weight = torch.rand(shard.num_edges)
    shard.edge_columns["weight"] = weight
    x = torch.randn(shard.num_masters, 5)
    topology = shard.topology
    rows = torch.repeat_interleave(torch.from_numpy(np.diff(topology.indptr)))
    messages = x[topology.src.long()] * (weight[:, None] if weighted else 1)
    expected = torch.zeros_like(x).index_add_(0, rows, messages)
    found = Aggregate("sum", weighted=weighted)(View(shard)[0], x)
    torch.testing.assert_close(found, expected)


class _Explained(Aggregate):
    def __init__(self, executor: str, reason: str = "") -> None:
        super().__init__("sum")
        self._said = Explanation("Layer", "sum", False, executor, reason)

    def explain(self) -> Explanation:
        return self._said


def test_chunked_layer_fails_with_its_reason() -> None:
    fused, chunked = _Explained("fused"), _Explained("chunked", "gather calls sort")
    require_fused(torch.nn.ModuleList([fused]))
    both = torch.nn.ModuleList([fused, chunked])
    assert executors(both) == ["chunked", "fused"]
    assert chunked_layers(both) == ["Layer (gather calls sort)"]
    with pytest.raises(ConfigError, match=r"fused kernels, got .* \(gather calls sort\)"):
        require_fused(both)


@pytest.mark.parametrize("model", MODELS)
def test_epochs_of_every_model(shard: gt.Shard, model: str) -> None:
    graph = describe_graph("small", shard.manifest)
    record = epoch_record(shard, graph, ModelOptions(model, hidden=4), threads=1, runs=3, warmup=1)
    assert record["case"]["model"] == model
    assert len(record["samples"]) == 3
    assert any("gather_sum" in name for name in record["stages"])
    assert record["bytes_sent"] == 0
    assert record["peak_bytes"] > record["epoch_bytes"] > 0


def test_epochs_of_several_workers_send_bytes() -> None:
    def train(comm: Communicator) -> dict[str, object]:
        shard = gt.open_shard(GRAPH, comm)
        return epoch_record(shard, {}, ModelOptions(hidden=4), threads=1, runs=2, warmup=1)

    record = gt.run_local(train, workers=2)
    assert isinstance(record, dict)
    assert record["bytes_sent"] > 0
    assert record["case"]["workers"] == 2


def test_chunked_epochs_are_refused_on_request(
    shard: gt.Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "graphtheta.tgar.layer.program_of", lambda *a, **o: NotLowered("a test asks for it")
    )
    options = ModelOptions(hidden=4)
    with pytest.raises(ConfigError, match="a test asks for it"):
        epoch_record(shard, {}, options, threads=1, runs=1, warmup=1, allow_chunked=False)


@pytest.mark.spawn
def test_partitioning_is_measured_and_leaves_nothing(tmp_path: Path) -> None:
    graph = tmp_path / "graph"
    gt.datasets.generate.rmat(graph, scale=6, edge_factor=4)
    place = tmp_path / "place"
    place.mkdir()
    record = partition_record(Job(str(graph), str(place), "dbh", 4, 1), {"graph": "small"}, runs=2)
    assert record["case"]["method"] == "dbh"
    assert len(record["samples"]) == 2
    assert record["num_edges"] == 256
    assert record["phases"]["assign"] >= 0
    assert record["quality"]["replication_factor"] >= 1
    assert not list(place.iterdir())


@pytest.mark.spawn
def test_partitioning_that_is_refused_says_why(tmp_path: Path) -> None:
    graph = tmp_path / "graph"
    gt.datasets.generate.rmat(graph, scale=3, edge_factor=4)
    record = partition_record(Job(str(graph), str(tmp_path), "dbh", 1000, 1), {"graph": "small"})
    assert "1000" in record["refused"].replace(",", "")


def test_efficiency_is_speed_up_over_cores() -> None:
    def record(seconds: float, workers: int, threads: int) -> dict[str, object]:
        return {"median": seconds, "case": {"workers": workers, "threads": threads}}

    assert efficiency(record(1.0, 1, 2), record(1.0, 2, 1)) == (1.0, 1.0)
    assert efficiency(record(1.0, 1, 1), record(0.5, 4, 1)) == (2.0, 0.5)
