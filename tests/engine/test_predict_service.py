"""Predictions over the network equal those of `infer`, however requests are batched."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

import graphtheta as gt
from graphtheta.cli import main
from graphtheta.engine import connect
from graphtheta.engine.server.graph import ServerGraph
from graphtheta.engine.server.predict_service import PredictService
from graphtheta.engine.server.server import GraphServer
from graphtheta.engine.wire.protocol import Limits
from graphtheta.errors import ConfigError, UnknownNode
from graphtheta.inference.whole import infer
from graphtheta.partition import open_store
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.proto.v1.graph_pb2_grpc import ScoringStub
from graphtheta.run.run import trained_model
from tests.engine.stores import code_of, corrupted_tables, make, weighted
from tests.typed_graphs import typed_graph


@pytest.mark.parametrize(("parts", "method"), [(1, "node-hash"), (3, "dbh")])
def test_predictions_are_those_of_infer(tmp_path: Path, parts: int, method: str) -> None:
    make(weighted(), tmp_path / "store", parts, method)
    train = ["train", str(tmp_path / "store"), "--model", "gcn", "--epochs", "3"]
    more = ["--label", "y", "--run-dir", str(tmp_path / "run")]
    assert main([*train, *more]) == 0
    store = open_store(tmp_path / "store")
    shard = gt.open_shard(store)
    model, _ = trained_model(tmp_path / "run", shard)
    wanted = infer(model, shard).softmax(1).numpy()[np.argsort(shard.node_key_L)]
    service = PredictService(store, tmp_path / "run", Limits())
    with (
        closing(service),
        closing(GraphServer(ServerGraph(store), predict_service=service)) as server,
        connect(f"127.0.0.1:{server.port}") as remote,
        ThreadPoolExecutor(8) as threads,
    ):
        rng = np.random.default_rng(0)
        requests = [rng.integers(0, remote.num_nodes, size) for size in (0, 1, 5, 40) * 6]
        before = service.predictor.num_batches
        responses = list(threads.map(lambda keys: remote.predict(keys, "node_key"), requests))
        assert service.predictor.num_batches - before < len(requests)
        for keys, found in zip(requests, responses, strict=True):
            if len(keys):
                np.testing.assert_allclose(found["probability"], wanted[keys], rtol=1e-5)
                chosen = wanted[keys, found["prediction"]]  # one of two that are as likely
                np.testing.assert_allclose(chosen, wanted[keys].max(1), rtol=1e-5)
        with pytest.raises(UnknownNode):
            remote.predict([10**6], "new_id")
        fuzz(f"127.0.0.1:{server.port}")
        assert len(remote.predict([1], "node_key")["prediction"]) == 1


def test_predicted_classes_have_their_names(tmp_path: Path) -> None:
    ends = {"src": [0, 1, 2, 3], "dst": [1, 2, 3, 0]}
    texts = {"y": ["no", "yes", "no", "maybe"], "x": [0.0, 1.0, 0.0, 2.0]}
    nodes = pa.table({"id": range(4), **texts, "split": ["train"] * 4})
    options = {"features": "x", "labels": "y", "splits": "split"}
    graph = gt.Graph.from_arrow(nodes, pa.table(ends), **options)
    store = make(graph, tmp_path / "store", 2, "dbh")
    train = ["train", str(tmp_path / "store"), "--epochs", "2", "--run-dir", str(tmp_path / "run")]
    assert main(train) == 0
    service = PredictService(store, tmp_path / "run", Limits())
    with (
        closing(service),
        closing(GraphServer(ServerGraph(store), predict_service=service)) as server,
        connect(f"127.0.0.1:{server.port}") as remote,
    ):
        found = remote.predict([3, 0, 0, 2])
    names = np.array(["maybe", "no", "yes"])
    assert found["prediction"].tolist() == names[found["probability"].argmax(1)].tolist()


@settings(max_examples=40, deadline=None)
@given(table=corrupted_tables())
def fuzz(address: str, table: bytes) -> None:
    with grpc.insecure_channel(address) as channel:
        request = messages.PredictRequest(nodes=table)
        code = code_of(ScoringStub(channel).Predict(request, timeout=30))
    assert code.name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND"), code


def test_a_missing_run_is_an_error(tmp_path: Path) -> None:
    store = make(weighted(), tmp_path / "store", 2, "dbh")
    with pytest.raises(ConfigError):
        PredictService(store, tmp_path / "nothing", Limits())


@pytest.mark.parametrize(
    "options", [(), ("--target-type", "paper", "--label", "y", "--split", "split")]
)
def test_predictions_of_a_typed_graph_are_those_of_the_runs_type(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    graph = typed_graph()
    store = make(graph, tmp_path / "store", 2, "dbh")
    train = ["train", str(tmp_path / "store"), "--model", "rgcn", "--hidden", "4", "--epochs", "2"]
    assert main([*train, *options, "--run-dir", str(tmp_path / "run")]) == 0
    shard = gt.open_shard(store)
    model, _ = trained_model(tmp_path / "run", shard)
    wanted = infer(model, shard, node_type="paper").softmax(1).numpy()
    ids = shard.original_ids_of("paper").to_pylist()
    service = PredictService(store, tmp_path / "run", Limits())
    with (
        closing(service),
        closing(GraphServer(ServerGraph(store), predict_service=service)) as server,
        connect(f"127.0.0.1:{server.port}") as remote,
    ):
        np.testing.assert_allclose(remote.predict(ids)["probability"], wanted, rtol=1e-5)
        with pytest.raises(ConfigError, match=r"nodes of the type paper, .* got one of author"):
            remote.predict(remote.new_ids([0], node_type="author"), "new_id")
        with pytest.raises(UnknownNode):
            remote.predict(["nothing"])


def test_runs_of_edges_are_refused(tmp_path: Path) -> None:
    store = make(typed_graph(), tmp_path / "store", 1, "dbh")
    train = ["train", str(tmp_path / "store"), "--task", "edge", "--model", "rgcn", "--epochs", "1"]
    names = ["--relation", "author-writes-paper", "--label", "stars", "--split", "split"]
    assert main([*train, *names, "--hidden", "4", "--run-dir", str(tmp_path / "run")]) == 0
    with pytest.raises(ConfigError, match="expected a run of --task node, got edge"):
        PredictService(store, tmp_path / "run", Limits())
