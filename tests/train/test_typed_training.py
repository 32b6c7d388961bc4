"""Training on typed graphs: the same losses for any number of workers and strategy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError
from graphtheta.nn import GAT, HGT, RGCN, GraphSAGE, TypedInput, to_hetero
from graphtheta.shard.shard import Shard
from graphtheta.strategy import ClusterBatch, GlobalBatch, MiniBatch, Strategy
from graphtheta.task import NodePrediction
from graphtheta.train.run_dir import RunDirectory
from tests.nn.steps import assert_equal
from tests.typed_graphs import typed_graph, typed_tables

GRAPH = typed_graph()  # authors and papers have features, venues and an empty type have none
SETUPS = [(2, "dbh"), (3, "node-hash")]
COMMUNITIES = np.random.default_rng(1).integers(0, 5, GRAPH.num_nodes)
BY_RELATION = {
    str(relation): [2, 1 + number % 2] for number, relation in enumerate(GRAPH.relations)
}
MODELS: dict[str, Callable[[Shard], Any]] = {
    "rgcn": lambda s: RGCN(6, 5, 3, num_relations=5, num_bases=2, dropout=0.3),
    "hgt": lambda s: HGT(6, 3, 3, metadata=s.metadata, heads=2, dropout=0.3),
    "lifted gat": lambda s: to_hetero(GAT(6, 5, 3, heads=2, dropout=0.3), s, "mean"),
}
WAYS: dict[str, Callable[[], Strategy]] = {
    "global": GlobalBatch,
    "mini": lambda: MiniBatch(3),
    "mini by relation": lambda: MiniBatch(3, BY_RELATION),
    "mini in total": lambda: MiniBatch(3, [3, 2]),
    "cluster": lambda: ClusterBatch(2, COMMUNITIES, boundary_hops=1),
}
COVER = [(way, list(MODELS)[number % 3]) for number, way in enumerate(WAYS)]


def train(strategy: Strategy, model: str, workers: int = 1, method: str = "node-hash") -> Any:
    """Return losses, and the metrics of the last weights, with float64 and dropout."""

    def job(comm: Communicator) -> Any:
        shard = gt.open_shard(GRAPH, comm, method=method)
        typed = TypedInput(shard, 6, MODELS[model](shard), embedding=["paper"]).double()
        trainer = gt.Trainer(typed, shard, strategy=strategy, lr=0.02, evaluate_every=99)
        trainer.fit(2)
        return trainer.history.loss, trainer.evaluate()

    return gt.run_local(job, workers=workers, timeout_s=60)


@cache
def single(way: str, model: str) -> Any:
    return train(WAYS[way](), model)


def assert_same(got: Any, want: Any) -> None:
    assert_equal(got[0], want[0], 1e-10)
    assert got[1] == pytest.approx(want[1], rel=1e-9)


@pytest.mark.parametrize(("way", "model"), COVER)
def test_same_as_single(way: str, model: str) -> None:
    for workers, method in SETUPS:
        assert_same(train(WAYS[way](), model, workers, method), single(way, model))


def test_the_relation_is_not_reported_as_a_column_that_is_not_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shard = gt.open_shard(GRAPH)
    gt.Trainer(TypedInput(shard, 6, GraphSAGE(6, 5, 3)), shard).fit(1)
    assert "Edge columns" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "method"), [*SETUPS, (4, "hdrf")])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_same_as_single_in_full(way: str, model: str, workers: int, method: str) -> None:
    assert_same(train(WAYS[way](), model, workers, method), single(way, model))


@pytest.mark.parametrize("model", MODELS)
def test_a_mini_batch_of_all_targets_is_the_global_batch(model: str) -> None:
    assert_same(train(MiniBatch(1000), model, 2, "dbh"), single("global", model))


@pytest.mark.parametrize("on_disk", [False, True])
def test_rows_of_types_are_resharded(on_disk: bool, tmp_path: Path) -> None:
    """Only types that learn vectors have rows, which any number of workers reads again."""

    def job(comm: Communicator, epochs: int, method: str = "node-hash") -> Any:
        shard = gt.open_shard(GRAPH, comm, method=method)
        encoder = RGCN(6, 5, 3, num_relations=5, num_bases=2, dropout=0.3)
        storage = tmp_path / f"rows {comm.size} {comm.rank}" if on_disk else None
        model = TypedInput(shard, 6, encoder, embedding=["paper"], storage=storage)
        copied = copy.deepcopy(model)
        kept = [(p.node_type, len(p)) for p in copied.vectors]
        assert kept == [(name, len(shard.masters_of(name))) for name in model.learned]
        assert set(model.learned) == {"paper", "venue", "empty"}
        run = RunDirectory(tmp_path / f"run {comm.size}", resume=True)
        trainer = gt.Trainer(
            model.double(), shard, strategy=MiniBatch(3), run_dir=run, micro_batches=2
        )
        trainer.resume()
        trainer.fit(epochs)
        return trainer.history.loss

    want = gt.run_local(lambda comm: job(comm, 4), workers=1, timeout_s=60)
    gt.run_local(lambda comm: job(comm, 2, "dbh"), workers=2, timeout_s=60)
    (tmp_path / "run 2").rename(tmp_path / "run 3")
    got = gt.run_local(lambda comm: job(comm, 4, "range"), workers=3, timeout_s=60)
    assert_equal(got, want, 1e-10)


# -- labels and splits of a type ------------------------------------------------------------------


@cache
def several() -> Shard:
    """Return a shard in which authors have a split, and venues a label, besides papers."""
    nodes, edges = typed_tables()
    nodes["author"] |= {"split:part": pa.array((np.arange(13) % 4).astype(np.int8))}
    nodes["venue"] |= {"label:kind": pa.array(np.arange(4) % 2)}
    nodes["paper"] |= {"label:title": pa.array(np.arange(21) % 2)}
    return gt.open_shard(Graph.from_arrow(nodes, edges))


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        (NodePrediction(), ("paper.y", "paper.split")),
        (NodePrediction("paper.title"), ("paper.title", "paper.split")),
        (NodePrediction("title", target_type="paper"), ("paper.title", "paper.split")),
        (NodePrediction("paper.y", "paper.split", target_type="paper"), ("paper.y", "paper.split")),
        (NodePrediction(split="split"), ("paper.y", "paper.split")),
    ],
)
def test_columns_are_those_of_one_type(task: NodePrediction, columns: tuple[str, str]) -> None:
    bound = task.bind(gt.nn.GCN(1, 1, 1), several(), 0)
    assert tuple(bound.resolved.values()) == columns
    assert bound.counts["train"] > 0


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (NodePrediction("y"), r"label of nodes \(--label\): expected one of paper\.title, .*'y'"),
        (
            NodePrediction(target_type="papers"),
            r"node type \(--target-type\): expected one of author, empty, paper, venue, got 'pap",
        ),
        (
            NodePrediction(target_type="author"),
            r"a label of author, got only labels of others \('paper\.y', ",
        ),
        (
            NodePrediction("paper.y", "author.part"),
            r"split of paper \(--split\): expected one of paper\.split, got 'author\.part'",
        ),
        (NodePrediction("venue.kind"), r"a split of venue, got only splits of others \('author"),
        (
            NodePrediction("venue.kind", target_type="paper"),
            r"label of paper .*: expected one of paper\.title, paper\.y, got 'venue\.kind'",
        ),
    ],
)
def test_columns_of_other_types_raise_config_error(task: NodePrediction, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task.bind(gt.nn.GCN(1, 1, 1), several(), 0)
