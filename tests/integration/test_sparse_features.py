"""Sparse features in everything that reads columns: the engine, PyG, exports, runs, the CLI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse
import torch

import graphtheta as gt
from graphtheta.data.source import DenseSource
from graphtheta.errors import EngineError
from graphtheta.export import export
from graphtheta.partition import Plan, Store, make_store, open_store
from graphtheta.shard import sparse_rows
from graphtheta.shard.fingerprint import graph_fingerprint
from graphtheta.shard.sparse_rows import SparseRows
from tests.engine.stores import serving

N, F = 50, 150
RNG = np.random.default_rng(0)
WORDS = scipy.sparse.random(N, F, 0.03, "csr", np.float32, RNG)
NODES = {
    "id": np.arange(N),
    "features": WORDS,
    "label:y": RNG.integers(0, 3, N),
    "split:split": RNG.integers(1, 4, N).astype(np.int8),
}
GRAPH = gt.Graph(NODES, {"src": RNG.integers(0, N, 200), "dst": RNG.integers(0, N, 200)})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(GRAPH, tmp_path_factory.mktemp("sparse") / "store", Plan(2, "node-hash"))


def test_the_engine_returns_the_requested_rows(store: Store) -> None:
    with serving(store.path, 2) as remote:
        keys = np.array([7, 3, 3, 41])
        found = remote.columns(keys, ["features"], "node_key")["features"]
        assert np.array_equal(found, WORDS.toarray()[keys])
        every = remote.columns(None, ["features"])["features"]
        assert np.array_equal(every, WORDS.toarray())


def test_pyg_reads_them(store: Store, tmp_path: Path) -> None:
    pyg = pytest.importorskip("torch_geometric")
    assert torch.equal(GRAPH.to_pyg().x, torch.from_numpy(WORDS.toarray()))
    edges = torch.from_numpy(np.stack([GRAPH.src, GRAPH.dst]))
    data = pyg.data.Data(x=torch.from_numpy(WORDS.toarray()).to_sparse(), edge_index=edges)
    assert abs(gt.Graph.from_pyg(data).features - WORDS).max() == 0
    export("pyg", store, tmp_path / "pyg")
    features = torch.load(tmp_path / "pyg" / "part_0" / "node_feats.pt")
    rows = WORDS.toarray()[features["global_id"].numpy()]
    assert torch.equal(features["feats"]["x"], torch.from_numpy(rows))


def test_dense_storage_on_request(tmp_path: Path) -> None:
    store = make_store(DenseSource(GRAPH), tmp_path / "dense", Plan(1))
    assert (store.manifest.format_version, store.manifest.node_columns["features"].sparse) == (
        2,
        None,
    )
    shard = gt.open_shard(store.path)
    rows = WORDS.toarray()[shard.node_key_L[: shard.num_masters]]
    assert torch.equal(shard.features, torch.from_numpy(rows))
    assert DenseSource(GRAPH).digest() != GRAPH.digest()


def test_parts_of_one_worker_are_joined(store: Store) -> None:
    shard = gt.open_shard(open_store(store.path))
    rows = WORDS.toarray()[shard.node_key_L[: shard.num_masters]]
    assert isinstance(shard.features, SparseRows)
    assert torch.equal(shard.features.dense(), torch.from_numpy(rows))


def test_the_fingerprint_reads_them(store: Store) -> None:
    other = dict(NODES, features=WORDS * 2)
    graph = gt.Graph(other, {"src": GRAPH.src, "dst": GRAPH.dst})
    mine, another = (graph_fingerprint(gt.open_shard(g)) for g in (GRAPH, graph))
    assert mine == graph_fingerprint(gt.open_shard(store.path))
    assert mine != another


def test_typed_graphs_have_sparse_types() -> None:
    tags = {"id": np.arange(4), "features": RNG.random((4, 2), np.float32)}
    relations: Any = {
        ("node", "has", "tag"): {"src": [0, 1, 2], "dst": [N, N + 1, N + 3]},
        ("node", "to", "node"): {"src": GRAPH.src, "dst": GRAPH.dst},
    }
    outputs = []
    for features in (WORDS, WORDS.toarray()):
        nodes = {"node": dict(NODES, features=features), "tag": tags}
        shard = gt.open_shard(gt.Graph(nodes, relations))
        assert isinstance(shard.features_of("node"), SparseRows) == (features is WORDS)
        encoder = gt.nn.RGCN(8, 8, 3, num_relations=2, seed=1)
        model = gt.nn.TypedInput(shard, 8, encoder, seed=1)
        trainer = gt.Trainer(model, shard, label="node.y", split="node.split", lr=0.01)
        trainer.fit(epochs=2)
        outputs.append(torch.tensor(trainer.history.loss))
    assert torch.allclose(*outputs, rtol=1e-5)


def test_embeddings_next_to_sparse_features(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    sparse_rows._report.cache_clear()
    losses = []
    for graph in (store.path, DenseSource(GRAPH)):
        shard = gt.open_shard(graph)
        encoder = gt.nn.GCN(F + 4, 8, 3, dropout=0.5, seed=1)
        model = gt.nn.NodeEmbedding(shard, 4, encoder, seed=1)
        trainer = gt.Trainer(model, shard, lr=0.01)
        trainer.fit(epochs=2)
        losses.append(trainer.history.loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert "become dense" not in caplog.text


def test_forged_rows_of_a_server_are_refused() -> None:
    from graphtheta.data.sparse import SparseMatrix
    from graphtheta.engine.client.responses import check_table

    matrix = SparseMatrix(np.array([0, 1]), np.array([F], np.int32), None, F)
    table = pa.record_batch({"features": matrix.column()})
    with pytest.raises(EngineError, match="ascending indices of its columns in 'features'"):
        check_table(table, {"features": table.schema.field(0).type})
