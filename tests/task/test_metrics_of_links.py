"""Ranks, hits and the area under the ROC curve equal brute force and known values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.nn import DECODERS, EdgeModel, NodeEmbedding, decoder_for
from graphtheta.task import LinkPrediction, ranking
from graphtheta.task.metrics.curve import area_under_curve, round_scores
from graphtheta.task.pair_scorer import PairScorer
from graphtheta.task.ranking import Ranking
from tests.task.graphs import N, labelled

SETUPS = [(1, "node-hash"), (2, "dbh"), (3, "node-hash"), (4, "edge-hash")]


def embeddings() -> NDArray[np.float64]:
    """Return embeddings some of which are equal, so that scores tie."""
    rng = np.random.default_rng(0)
    distinct = rng.standard_normal((N // 2, 5))
    return distinct[rng.integers(0, N // 2, N)]


def decoder(name: str) -> Any:
    related = DECODERS[name].needs_relations
    return decoder_for(name, 5, num_relations=5 * related, seed=3).double()


def brute_force(name: str, split: int, relations: bool) -> dict[str, float]:
    """Return ranks by the definition, for one edge, endpoint and node at a time."""
    graph, z, score = labelled(), torch.from_numpy(embeddings()), decoder(name)
    kind = graph.column("type") if relations else np.zeros(graph.num_edges, np.int64)
    triples = list(zip(graph.src.tolist(), kind.tolist(), graph.dst.tolist(), strict=True))
    known, ranks = set(triples), []

    def of(s: int, r: int, t: int) -> float:
        relation = torch.tensor([r]) if relations else None
        return round(float(score(z[[s]], z[[t]], relation).detach()), 9)

    for (s, r, t), part in zip(triples, graph.column("split:split"), strict=True):
        if part != split:
            continue
        true = of(s, r, t)
        for others in (
            [of(s, r, x) for x in range(N) if (s, r, x) not in known],
            [of(x, r, t) for x in range(N) if (x, r, t) not in known],
        ):
            higher = sum(other > true for other in others)
            ranks.append(1 + higher + sum(other == true for other in others) / 2)
    rank = np.array(ranks)
    return {"mrr": (1 / rank).mean(), **{f"hits@{k}": (rank <= k).mean() for k in (1, 3, 10)}}


@pytest.mark.parametrize(("workers", "method"), SETUPS)
@pytest.mark.parametrize("name", DECODERS)
def test_filtered_ranks_equal_brute_force(
    name: str, workers: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "_QUERIES", 8)
    monkeypatch.setattr(ranking, "_CANDIDATES", 7)
    relations = DECODERS[name].needs_relations

    def job(comm: Communicator) -> dict[str, float]:
        shard = gt.open_shard(labelled(), comm, method=method)
        kind = shard.edge_columns["type"].numpy() if relations else None
        edges = np.flatnonzero(shard.edge_columns["split:split"].numpy() == 3)
        mine = torch.from_numpy(embeddings()[shard.node_key_L[: shard.num_masters]])
        scorer = PairScorer(EdgeModel(torch.nn.Identity(), decoder(name)), 5 * relations)
        return Ranking(shard, kind, 5)(edges, mine, scorer)

    found = gt.run_local(job, workers=workers, timeout_s=60, check=True)
    assert found == pytest.approx(brute_force(name, 3, relations))


def test_ranks_of_a_path_are_known() -> None:
    """0 -> 1 -> 2 -> 3 with scores by distance on a line: every rank can be counted by hand."""
    nodes = pa.table({"id": np.arange(4)})
    edges = pa.table({"src": [0, 1, 2], "dst": [1, 2, 3], "split:s": np.array([1, 1, 3], np.int8)})
    shard = gt.open_shard(gt.Graph(nodes, edges))
    z = torch.tensor([[1.0], [2.0], [3.0], [2.0]])
    scorer = PairScorer(EdgeModel(torch.nn.Identity(), decoder_for("dot", 1)), 0)
    z = z[shard.node_key_L.copy()]
    found = Ranking(shard, None, 1)(np.flatnonzero(shard.edge_key == 2), z, scorer)
    # As destination of 2: scores 3, 6, 9 of 0, 1, 2, and 6 of 3: one higher, one equal: 2.5.
    # As source of 3: scores 2, 4, 4 of 0, 1, 3, and 6 of 2: none higher: 1.
    assert found["mrr"] == pytest.approx((1 / 2.5 + 1) / 2)
    assert (found["hits@1"], found["hits@3"]) == (0.5, 1.0)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_area_under_curve_equals_brute_force(workers: int) -> None:
    rng = np.random.default_rng(workers)
    positive, negative = rng.integers(0, 9, 70) / 4 + 0.25, rng.integers(-2, 8, 90) / 4
    difference = positive[:, None] - negative[None]
    expected = ((difference > 0) + (difference == 0) / 2).mean()

    def job(comm: Communicator) -> float:
        cuts = [0, 0, 30, 31][: comm.size - 1]  # some workers have none
        mine = [np.split(scores, cuts)[comm.rank] for scores in both]
        return area_under_curve(*mine, comm).roc

    both = (positive, negative)
    assert gt.run_local(job, workers=workers, timeout_s=60) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [([2.0, 3.0], [1.0], 1.0), ([0.0], [1.0], 0.0), ([1.0], [1.0], 0.5), ([-0.0], [0.0], 0.5)],
)
def test_known_areas(positive: list[float], negative: list[float], expected: float) -> None:
    found = area_under_curve(np.array(positive), np.array(negative), gt.communicator())
    assert found.roc == expected
    assert np.isnan(area_under_curve(np.array(positive), np.zeros(0), gt.communicator())).all()


def test_scores_that_differ_by_rounding_tie() -> None:
    scores = torch.tensor([0.3, 0.3 + 1e-16, 0.31, -1e9, 0.0], dtype=torch.float64)
    found = round_scores(scores)
    assert found[0] == found[1] < found[2]
    np.testing.assert_allclose(found, scores.numpy(), rtol=1e-13)


def test_metrics_of_hold_out_edges_need_no_ranking() -> None:
    shard = gt.open_shard(labelled())
    model = EdgeModel(NodeEmbedding(shard, 5), decoder_for("dot", 8))
    trainer = gt.Trainer(model, shard, task=LinkPrediction(ranking=False))
    assert trainer.evaluate().keys() == {"val_loss", "val_auc", "test_loss", "test_auc"}
    assert trainer.fit(2)["metric"] == "auc"
