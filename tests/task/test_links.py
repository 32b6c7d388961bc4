"""Link prediction: negatives, edges that carry no messages, learning, and errors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.nn import GCN, EdgeModel, GraphSAGE, NodeEmbedding, decoder_for
from graphtheta.nn.embedding import is_sharded
from graphtheta.shard.subset import with_edges
from graphtheta.strategy import ClusterBatch, GlobalBatch, MiniBatch, Strategy
from graphtheta.task import EdgePrediction, LinkPrediction
from graphtheta.task.negatives import draw_negatives
from graphtheta.tgar import ParallelEdges
from graphtheta.train.run_dir import RunDirectory
from tests.task.graphs import COMMUNITIES, N, labelled, planted

SETUPS = [(1, "node-hash"), (2, "dbh"), (3, "node-hash"), (4, "edge-hash")]


# -- negatives ------------------------------------------------------------------------------------


def test_negatives_are_uniform_and_differ_by_step() -> None:
    keys = np.arange(3000)
    nodes, at_source = draw_negatives(keys, 5, "both", 10, seed=1, step=2)
    assert nodes.shape == at_source.shape == (3000, 5)
    np.testing.assert_allclose(np.bincount(nodes.ravel(), minlength=10) / 15000, 0.1, atol=0.015)
    assert abs(at_source.mean() - 0.5) < 0.02
    for other in (
        draw_negatives(keys, 5, "both", 10, seed=1, step=3),
        draw_negatives(keys, 5, "both", 10, seed=2, step=2),
        draw_negatives(keys, 5, "both", 10, seed=1, step=2, evaluation=True),
    ):
        assert abs((nodes == other[0]).mean() - 0.1) < 0.02
    some = draw_negatives(keys[7:9], 3, "both", 10, seed=1, step=2)
    np.testing.assert_array_equal(some[0], nodes[7:9, :3])  # each edge has its own draws


def test_only_the_requested_endpoint_is_replaced() -> None:
    assert not draw_negatives(np.arange(9), 4, "dst", 5, seed=0, step=0)[1].any()
    assert draw_negatives(np.arange(9), 4, "src", 5, seed=0, step=0)[1].all()


def scored(strategy: Strategy, workers: int, method: str) -> list[Any]:
    """Return the pairs of node keys that each step scores, sorted."""

    def job(comm: Communicator) -> list[Any]:
        shard = gt.open_shard(labelled(), comm, method=method)
        keys = np.arange(N, dtype=np.float64)[:, None]
        mine = torch.from_numpy(keys[shard.node_key_L[: shard.num_masters]])
        model = EdgeModel(GCN(3, 4, 1), decoder_for("dot", 1)).double()
        bound = LinkPrediction(negatives=3).bind(model, shard, 0)
        seen: list[Any] = []
        bound.targets._loss = lambda edges, src, dst: seen.append((src, dst))  # type: ignore
        steps = []
        for step in strategy.schedule(bound.message_shard, bound.targets, layers=2, seed=0)(1):
            batch = step()
            batch.step_targets.loss(batch.view, mine[batch.step_targets.seeds])
            pairs = np.rint(torch.cat(seen.pop(), 2).reshape(-1, 2).numpy()).astype(np.int64)
            everyone = np.concatenate(comm.all_gather(pairs, stage="test"))
            steps.append(sorted(map(tuple, everyone.tolist())))
        return steps

    return gt.run_local(job, workers=workers, timeout_s=60, check=True)


@pytest.mark.parametrize("way", ["global", "mini", "cluster"])
def test_negatives_are_equal_on_any_number_of_workers(way: str) -> None:
    made = {
        "global": GlobalBatch(),
        "mini": MiniBatch(50),
        "cluster": ClusterBatch(2, COMMUNITIES),
    }[way]
    expected = scored(made, *SETUPS[0])
    assert sum(map(len, expected)) > 0
    for workers, method in SETUPS[1:]:
        assert scored(made, workers, method) == expected


def test_negatives_of_clusters_are_of_their_nodes() -> None:
    for step in scored(ClusterBatch(2, COMMUNITIES), 3, "dbh"):
        communities = set(COMMUNITIES[np.array(step).ravel()].tolist())
        assert len(communities) <= 2


# -- edges without messages ---------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "method"), SETUPS)
def test_parallel_edges_are_found_on_all_workers(workers: int, method: str) -> None:
    graph = labelled()
    chosen = np.arange(0, graph.num_edges, 7)

    def job(comm: Communicator) -> list[int]:
        shard = gt.open_shard(graph, comm, method=method)
        between = ParallelEdges(shard, comm)
        mine = np.flatnonzero(np.isin(shard.edge_key, chosen))
        keys = shard.edge_key[between.of(mine, comm)]
        return sorted(np.concatenate(comm.all_gather(keys, stage="test")).tolist())

    def pairs(keys: Any) -> list[frozenset[int]]:
        return [frozenset((int(graph.src[k]), int(graph.dst[k]))) for k in keys]

    expected = set(pairs(chosen))
    every = pairs(range(graph.num_edges))
    assert sum(pair in expected for pair in every) > len(chosen)  # there are repeats
    assert gt.run_local(job, workers=workers, timeout_s=60) == [
        key for key, pair in enumerate(every) if pair in expected
    ]


def rows_of(
    model: str, shard: Any, strategy: Strategy, task: Any, step: int, **micro_batch: int
) -> tuple[dict[int, Any], Any]:
    """Return the outputs of a step's seeds by node_key, and the keys of its targets."""
    encoder: Any = {"gcn": GCN, "sage": GraphSAGE}[model](3, 4, 5, dropout=0.0)
    made = EdgeModel(encoder, decoder_for("dot", 5)).double()
    bound = task.bind(made, shard, 0)
    steps = strategy.schedule(bound.message_shard, bound.targets, layers=2, seed=0)(0)
    batch = next(make for number, make in enumerate(steps) if number == step)(**micro_batch)
    outputs = made(batch.view, batch.view.inputs())[batch.rows].detach().numpy()
    keys = shard.node_key_L[batch.step_targets.seeds]
    targets = bound.message_shard.edge_key[batch.step_targets.targets]
    return dict(zip(keys.tolist(), outputs, strict=True)), targets


def changed(graph: Graph, kept: NDArray[np.bool_]) -> Graph:
    return Graph(graph.nodes, graph.edges.filter(pa.array(kept)))


@pytest.mark.parametrize(
    "strategy", [MiniBatch(20), ClusterBatch(3, COMMUNITIES, boundary_hops=2)], ids=["mini", "cl"]
)
def test_targets_carry_no_messages(strategy: Strategy) -> None:
    """Compare a step with one on a graph without its targets, their repeats and reverses."""
    graph, task = labelled(), LinkPrediction()
    found, targets = rows_of("sage", gt.open_shard(graph), strategy, task, 1)
    pairs = {frozenset((int(graph.src[k]), int(graph.dst[k]))) for k in targets}
    between = np.array(
        [
            frozenset(pair) in pairs
            for pair in zip(graph.src.tolist(), graph.dst.tolist(), strict=True)
        ]
    )
    hidden = between | (graph.column("split:split") >= 2)
    assert between.sum() > len(targets)
    shard = gt.open_shard(changed(graph, ~hidden))
    encoder = GraphSAGE(3, 4, 5, dropout=0.0).double()
    view = gt.tgar.View(shard)
    outputs = encoder(view, view.inputs()).detach().numpy()
    expected = dict(zip(shard.node_key_L.tolist(), outputs, strict=True))
    for key, row in found.items():
        np.testing.assert_allclose(row, expected[key], rtol=1e-12, atol=1e-14)
    loud, _ = rows_of(
        "sage", gt.open_shard(graph), strategy, LinkPrediction(exclude_targets=False), 1
    )
    assert max(np.abs(loud[key] - row).max() for key, row in found.items()) > 1e-3


@pytest.mark.parametrize(
    "strategy", [MiniBatch(20), ClusterBatch(3, COMMUNITIES, boundary_hops=2)], ids=["mini", "cl"]
)
def test_targets_carry_no_messages_in_any_micro_batch(strategy: Strategy) -> None:
    shard, task = gt.open_shard(labelled()), LinkPrediction()
    whole, targets = rows_of("sage", shard, strategy, task, 1)
    assert len(targets) > 2
    for number in range(3):
        some = {"micro_batch": number, "num_micro_batches": 3}
        for key, row in rows_of("sage", shard, strategy, task, 1, **some)[0].items():
            np.testing.assert_allclose(row, whole[key], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("model", ["gcn", "sage"])
def test_hold_out_edges_leave_no_trace(model: str) -> None:
    """Compare embeddings of graphs with other hold-out edges: they are the same."""
    graph = labelled()
    split = graph.column("split:split")
    fewer = changed(graph, (split < 2) | (np.arange(graph.num_edges) % 2 == 0))
    first, _ = rows_of(model, gt.open_shard(graph), GlobalBatch(), LinkPrediction(), 0)
    second, _ = rows_of(model, gt.open_shard(fewer), GlobalBatch(), LinkPrediction(), 0)
    common = first.keys() & second.keys()
    assert len(common) > N // 2
    for key in common:
        np.testing.assert_array_equal(first[key], second[key])


@pytest.mark.parametrize(("workers", "method"), SETUPS)
def test_a_shard_with_some_edges_is_that_of_the_smaller_graph(workers: int, method: str) -> None:
    graph = labelled()
    kept = np.random.default_rng(2).random(graph.num_edges) < 0.6

    def rows(shard: Any, comm: Communicator) -> Any:
        masters = shard.node_key_L[: shard.num_masters]
        degrees = [shard.node_column(name).numpy() for name in ("in_degree", "out_degree")]
        types, loopless = shard.in_degree_by_type.numpy(), shard.loopless_in_degree.numpy()
        nodes = np.column_stack([masters, *degrees, types, loopless])
        by_row = np.repeat(
            np.arange(len(shard.in_edges.indptr) - 1), np.diff(shard.in_edges.indptr)
        )
        edges = np.column_stack(
            [
                shard.node_key_L[shard.in_edges.other],
                shard.node_key_L[by_row],
                shard.in_position,
                shard.edge_columns["type"].numpy(),
            ]
        )
        found = [np.concatenate(comm.all_gather(x, stage="test")) for x in (nodes, edges)]
        assert len(found[1]) == shard.manifest.num_edges
        return [x[np.lexsort(x.T[::-1])] for x in found]

    def restricted(comm: Communicator) -> Any:
        shard = gt.open_shard(graph, comm, method=method)
        return rows(with_edges(shard, kept[shard.edge_key]), comm)

    expected = rows(gt.open_shard(changed(graph, kept)), gt.communicator())
    for found, want in zip(gt.run_local(restricted, workers=workers), expected, strict=True):
        np.testing.assert_array_equal(found, want)


def test_a_copied_embedding_stays_sharded() -> None:
    model = copy.deepcopy(NodeEmbedding(gt.open_shard(labelled()), 4)).double()
    assert [is_sharded(parameter) for parameter in model.parameters()] == [True]


# -- learning ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy",
    [GlobalBatch(), MiniBatch(256), ClusterBatch(4, np.arange(160) % 8)],
    ids=["global", "mini", "cluster"],
)
def test_planted_communities_are_learned(strategy: Strategy) -> None:
    def job(comm: Communicator) -> dict[str, float]:
        shard = gt.open_shard(planted(), comm, method="dbh", undirected=True)
        encoder = NodeEmbedding(shard, 16, GraphSAGE(8 + 16, 32, 16, dropout=0.2))
        model = EdgeModel(encoder, decoder_for("dot", 16))
        task = LinkPrediction(negatives=2, ranking=False)
        trainer = gt.Trainer(model, shard, task=task, strategy=strategy, lr=0.02, evaluate_every=5)
        summary: dict[str, float] = trainer.fit(60)
        return summary

    assert gt.run_local(job, workers=2, timeout_s=60)["test_auc"] > 0.75


def test_labels_of_edges_are_learned() -> None:
    shard = gt.open_shard(planted())
    model = EdgeModel(GraphSAGE(8, 16, 16, dropout=0.1), decoder_for("mlp", 16))
    trainer = gt.Trainer(model, shard, task=EdgePrediction(), lr=0.02, evaluate_every=10)
    assert trainer.fit(60)["test_auroc"] > 0.9


def evaluated(**options: Any) -> dict[str, float]:
    """Return the metrics of an untrained model."""
    shard = gt.open_shard(labelled())
    model = EdgeModel(GCN(3, 4, 5, seed=1), decoder_for("dot", 5, seed=1)).double()
    return gt.Trainer(model, shard, task=LinkPrediction(**options)).evaluate()


def test_losses_and_weights_of_links_equal_their_definitions() -> None:
    seen: list[torch.Tensor] = []

    def remember(scores: torch.Tensor, exists: torch.Tensor) -> torch.Tensor:
        assert exists[:, 0].all()
        assert not exists[:, 1:].any()
        seen.append(scores)
        return F.softplus(scores[:, 1] - scores[:, 0])  # a loss of pairs: one for each edge

    found = evaluated(loss=remember, loss_weight="type")
    scores = seen[0]
    shard = gt.open_shard(labelled())
    column = shard.edge_columns["split:split"] == 2
    weights = shard.edge_columns["type"][column].double()
    pairs = F.softplus(scores[:, 1] - scores[:, 0])
    assert found["val_loss"] == pytest.approx(float((pairs * weights).sum() / weights.sum()))
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    losses = F.softplus(scores * signs)
    for options, weight in (
        ({}, [1.0, 1.0]),
        ({"loss": "cross-entropy"}, [1.0, 1.0]),
        ({"class_weight": {"true": 3}}, [3.0, 1.0]),
        ({"class_weight": "balanced", "negatives": 3}, [4 / 2, 4 / 6]),
    ):
        each = torch.tensor(weight, dtype=torch.float64)
        want = float((losses * each).sum() / (len(losses) * each.sum()))
        assert evaluated(**options)["val_loss"] == pytest.approx(want)
    want = float((losses * (-(-losses).expm1()) ** 2).mean())
    assert evaluated(loss="focal")["val_loss"] == pytest.approx(want)


def test_metrics_of_links_are_chosen_by_name() -> None:
    def of_validation(**options: Any) -> dict[str, float]:
        found = evaluated(**options).items()
        return {name.removeprefix("val_"): value for name, value in found if "val_" in name}

    every = of_validation()
    assert every.keys() == {"loss", "auc", "mrr", "hits@1", "hits@3", "hits@10"}
    some = of_validation(metrics="auc,auroc,average_precision,accuracy,hits@10,hits@40")
    assert some.keys() == {
        *("loss", "auc", "auroc", "average_precision", "accuracy", "hits@10", "hits@40")
    }
    assert some["auc"] == some["auroc"] == every["auc"]
    assert some["hits@10"] == every["hits@10"] < some["hits@40"]
    assert of_validation(metrics=[]).keys() == {"loss", "auroc"}
    shard, model = gt.open_shard(labelled()), edge_model()
    for monitor, metrics, main, higher in (
        (None, None, "mrr", True),
        (None, "brier", "auroc", True),
        ("loss", None, "loss", False),
        ("val_brier", "mrr", "brier", False),
        ("hits@5", "auc", "hits@5", True),
    ):
        task = LinkPrediction(metrics=metrics, monitor=monitor)
        bound = gt.Trainer(model, shard, task=task).task
        assert (bound.metric.name, bound.metric.higher_is_better) == (main, higher)
        assert main in {name.removeprefix("val_") for name in bound.evaluate()}


# -- errors ------------------------------------------------------------------------------


def edge_model(decoder: str = "dot", **options: Any) -> EdgeModel:
    return EdgeModel(GCN(3, 4, 5), decoder_for(decoder, 5, **options)).double()


def without(prefix: str) -> Graph:
    graph = labelled()
    names = [name for name in graph.edges.column_names if not name.startswith(prefix)]
    return Graph(graph.nodes, graph.edges.select(names))


@pytest.mark.parametrize(
    ("task", "model", "graph", "message"),
    [
        (LinkPrediction(), edge_model(), without("split"), "a split of edges, got none. Name"),
        (EdgePrediction(), edge_model(), without("label"), "a label of edges, got none. Name"),
        (EdgePrediction("x"), edge_model(), labelled(), "expected one of kind, got 'x'"),
        (EdgePrediction(), edge_model(), labelled(), "with 3 outputs, .* needs, got 1"),
        (LinkPrediction(), GCN(3, 4, 5).double(), labelled(), "model with a decoder, got GCN"),
        (LinkPrediction(relation="x"), edge_model(), labelled(), "edge column of rela.*got 'x'"),
        (LinkPrediction(relation="attr"), edge_model(), labelled(), "integers from 0 in the rela"),
        (LinkPrediction(relation="type"), edge_model(), labelled(), "of 5 relations, got one of 0"),
        (LinkPrediction(loss="mae"), edge_model(), labelled(), "for a binary .*got AbsoluteError"),
        (
            LinkPrediction(metrics="rmse"),
            edge_model(),
            labelled(),
            "got 'rmse'.*also have auc",
        ),
        (
            LinkPrediction(metrics="mrr,auc", ranking=False),
            *(edge_model(), labelled(), "no ranks without ranking .*got mrr"),
        ),
        (
            LinkPrediction(class_weight={"a": 1}),
            edge_model(),
            labelled(),
            "'false', 'true'.*got 'a'",
        ),
        (LinkPrediction(loss_weight="attr"), edge_model(), labelled(), "expected a number for ea"),
        (EdgePrediction(metrics="mrr"), edge_model("mlp", outputs=3), labelled(), "got 'mrr'"),
    ],
)
def test_what_does_not_fit_raises_config_error(
    task: Any, model: Any, graph: Graph, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        gt.Trainer(model, gt.open_shard(graph), task=task)


def test_wrong_widths_and_options_raise_config_error() -> None:
    wide = EdgeModel(GCN(3, 4, 6), decoder_for("dot", 5)).double()
    with pytest.raises(ConfigError, match="embeddings of 5 columns, as the decoder reads, got"):
        gt.Trainer(wide, gt.open_shard(labelled()), task=LinkPrediction()).fit(1)
    with pytest.raises(ConfigError, match="negatives >= 1, got 0"):
        LinkPrediction(negatives=0)
    with pytest.raises(ConfigError, match="expected corrupt among dst, src, both"):
        LinkPrediction(corrupt="tail")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected edges with a relation"):
        decoder_for("distmult", 5)
    with pytest.raises(ConfigError, match="one output a pair, got 3"):
        decoder_for("dot", 5, outputs=3)


def test_no_training_edge_raises_graph_format_error() -> None:
    graph = labelled()
    split = pa.array(np.full(graph.num_edges, 2, np.int8))
    at = graph.edges.column_names.index("split:split")
    tested = Graph(graph.nodes, graph.edges.set_column(at, "split:split", split))
    for task, model in (
        (LinkPrediction(), edge_model()),
        (EdgePrediction(), edge_model("mlp", outputs=3)),
    ):
        with pytest.raises(GraphFormatError, match="in the training split 'split', got none"):
            gt.Trainer(model, gt.open_shard(tested), task=task)


# -- node embeddings ---------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_embeddings_are_resumed_on_other_workers(before: int, after: int, tmp_path: Path) -> None:
    def trainer(comm: Communicator, folder: str) -> gt.Trainer:
        shard = gt.open_shard(labelled(), comm, method="dbh")
        encoder = NodeEmbedding(shard, 4, GCN(3 + 4, 6, 5, dropout=0.3))
        model = EdgeModel(encoder, decoder_for("dot", 5)).double()
        directory = RunDirectory(tmp_path / folder, resume=True)
        return gt.Trainer(model, shard, task=LinkPrediction(ranking=False), run_dir=directory)

    def go_on(comm: Communicator) -> Any:
        mine = trainer(comm, "cut")
        assert mine.resume() == 3
        return mine.fit(6)["loss_history"], mine.evaluate()

    def whole(comm: Communicator) -> Any:
        mine = trainer(comm, "whole")
        return mine.fit(6)["loss_history"], mine.evaluate()

    expected, metrics = gt.run_local(whole, workers=before, timeout_s=60)
    gt.run_local(lambda comm: trainer(comm, "cut").fit(3), workers=before, timeout_s=60)
    losses, found = gt.run_local(go_on, workers=after, timeout_s=60)
    assert losses == pytest.approx(expected, rel=1e-8)
    assert found == pytest.approx(metrics, rel=1e-6)
    files = [path.name for path in (tmp_path / "cut").glob("weights.*")]
    assert len(files) == 1 + after
