"""Evaluation that does not flatter: twins of held-out edges, and candidates of negatives."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.exchange.directory import rank_and_row
from graphtheta.nn import GCN, EdgeModel, NodeEmbedding, decoder_for
from graphtheta.strategy import ClusterBatch, GlobalBatch, Strategy
from graphtheta.task import EdgePrediction, LinkPrediction
from graphtheta.task.candidates import Candidates, node_kinds
from graphtheta.task.edge_targets import Negatives
from graphtheta.task.pair_scorer import PairScorer
from graphtheta.task.ranking import Ranking
from tests.task.graphs import labelled

SETUPS = [(1, "node-hash"), (2, "dbh"), (3, "node-hash")]
SPLITS = {"train": 1, "val": 2, "test": 3}


def graph_of(nodes: int, src: Any, dst: Any, **columns: Any) -> gt.Graph:
    edges = {"src": np.asarray(src), "dst": np.asarray(dst)}
    edges |= {name.replace("__", ":"): np.asarray(values) for name, values in columns.items()}
    return gt.Graph(pa.table({"id": np.arange(nodes)}), pa.table(edges))


def friendships(nodes: int = 60, pairs: int = 300, seed: int = 0) -> gt.Graph:
    """Return random friendships, listed in both directions, and split by row."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(nodes * (nodes - 1) // 2, pairs, replace=False)
    low, high = (end[chosen] for end in np.triu_indices(nodes, 1))
    split = rng.choice([1, 1, 1, 2, 3], 2 * pairs).astype(np.int8)
    return graph_of(nodes, np.append(low, high), np.append(high, low), split__split=split)


def marketplace(users: int = 90, items: int = 30, edges: int = 600, seed: int = 0) -> gt.Graph:
    """Return random purchases: edges from users to items, in which there is nothing to learn."""
    rng = np.random.default_rng(seed)
    src, dst = rng.integers(0, users, edges), users + rng.integers(0, items, edges)
    split = rng.choice([1, 1, 1, 2, 3], edges).astype(np.int8)
    return graph_of(users + items, src, dst, split__split=split)


# -- twins ----------------------------------------------------------------------------------------


def twins(graph: gt.Graph, of: set[int], among: set[int]) -> int:
    """Count by the definition the edges of some splits with another edge between their nodes."""
    split = graph.column("split:split")
    pairs = [frozenset(p) for p in zip(graph.src.tolist(), graph.dst.tolist(), strict=True)]
    present = {pair for pair, code in zip(pairs, split.tolist(), strict=True) if code in among}
    return sum(
        code in of and pair in present for pair, code in zip(pairs, split.tolist(), strict=True)
    )


def warned(
    caplog: pytest.LogCaptureFixture, graph: gt.Graph, task: Any, workers: int, method: str,
    **options: Any,
) -> list[str]:  # fmt: skip
    def job(comm: Communicator) -> None:
        shard = gt.open_shard(graph, comm, method=method, **options)
        edge = isinstance(task, EdgePrediction)
        decoder = decoder_for("mlp" if edge else "dot", 4, outputs=task.num_outputs(shard))
        model = EdgeModel(NodeEmbedding(shard, 4, GCN(4, 4, 4)), decoder)
        gt.Trainer(model, shard, task=task)

    caplog.clear()
    with caplog.at_level(logging.WARNING, "graphtheta"):
        gt.run_local(job, workers=workers, timeout_s=60)
    return [text for text in caplog.messages if " prediction: " in text]


@pytest.mark.parametrize(("workers", "method"), SETUPS)
def test_twins_that_carry_messages_are_counted(
    workers: int, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    for graph in (friendships(), reduced(labelled())):  # the latter with loops and parallel edges
        val, test = twins(graph, {2}, {0, 1}), twins(graph, {3}, {0, 1})
        held_out = int((graph.column("split:split") > 1).sum())
        (text,) = warned(caplog, graph, LinkPrediction(ranking=False), workers, method)
        assert f"{val + test} of {held_out} validation and test edges" in text
        assert "--split-pairs" in text
        task = LinkPrediction(ranking=False, validation_messages=True)
        test = twins(graph, {3}, {0, 1, 2})
        assert f": {val + test} of" in warned(caplog, graph, task, workers, method)[0]
        split = LinkPrediction(ranking=False, split_pairs=True)
        assert not warned(caplog, graph, split, workers, method)


def reduced(graph: gt.Graph) -> gt.Graph:
    """Return a graph with the edges and splits of another, and no other column."""
    return graph_of(graph.num_nodes, graph.src, graph.dst, split__split=graph.column("split:split"))


def test_added_reverses_are_no_twins(caplog: pytest.LogCaptureFixture) -> None:
    half = friendships()
    rows = np.arange(half.num_edges) < half.num_edges // 2
    once = gt.Graph(half.nodes, half.edges.filter(pa.array(rows)))
    task = LinkPrediction(ranking=False)
    assert not warned(caplog, once, task, 2, "dbh", undirected=True)


@pytest.mark.parametrize(("workers", "method"), SETUPS[1:])
def test_labels_of_twins_are_counted(
    workers: int, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = friendships()
    label = pa.array(np.arange(made.num_edges) % 2 == 0)
    graph = gt.Graph(made.nodes, made.edges.append_column("label:y", label))
    (text,) = warned(caplog, graph, EdgePrediction(), workers, method)
    expected, total = twins(graph, {2, 3}, {1}), int((graph.column("split:split") > 1).sum())
    assert text.startswith(f"edge prediction: {expected} of {total} validation and test edges")
    assert "in the training split" in text


@pytest.mark.parametrize(("workers", "method"), SETUPS)
@pytest.mark.parametrize("validation", [False, True])
def test_split_pairs_leaves_no_twin(validation: bool, workers: int, method: str) -> None:
    graph = reduced(labelled())

    def job(comm: Communicator) -> Any:
        shard = gt.open_shard(graph, comm, method=method)
        messages = LinkPrediction(split_pairs=True).message_shard(shard, validation=validation)
        return sorted(np.concatenate(comm.all_gather(messages.edge_key, stage="test")).tolist())

    split = graph.column("split:split")
    pairs = [frozenset(p) for p in zip(graph.src.tolist(), graph.dst.tolist(), strict=True)]
    held_out = {p for p, code in zip(pairs, split, strict=True) if code > 1}
    tested = {p for p, code in zip(pairs, split, strict=True) if code == 3}
    assert gt.run_local(job, workers=workers, timeout_s=60) == [
        key
        for key, (pair, code) in enumerate(zip(pairs, split, strict=True))
        if pair not in held_out or (validation and code == 2 and pair not in tested)
    ]


def auc(graph: gt.Graph, task: LinkPrediction, epochs: int = 40) -> float:
    shard = gt.open_shard(graph)
    encoder = NodeEmbedding(shard, 16, GCN(16, 16, 16, dropout=0.0))
    model = EdgeModel(encoder, decoder_for("dot", 16))
    trainer = gt.Trainer(model, shard, task=task, lr=0.02, evaluate_every=epochs)
    return float(trainer.fit(epochs)["test_auc"])


def test_random_friendships_cannot_be_predicted() -> None:
    graph = friendships(200, 600)
    assert auc(graph, LinkPrediction(ranking=False)) > 0.6  # flattered by the reverses
    assert abs(auc(graph, LinkPrediction(ranking=False, split_pairs=True)) - 0.5) < 0.07


# -- candidates -----------------------------------------------------------------------------------

Draws = dict[int, list[tuple[int, bool]]]


def draws(
    graph: gt.Graph,
    corrupt: Any = "both",
    workers: int = 1,
    method: str = "node-hash",
    *,
    relation: str | None = None,
    column: str | None = None,
    masters: NDArray[np.int64] | None = None,
    **options: Any,
) -> Draws:
    """Return the node keys drawn for each edge key, and whether they replace the source."""

    def job(comm: Communicator) -> Draws:
        shard = gt.open_shard(graph, comm, method=method, **options)
        number = 0 if relation is None else int(graph.column(relation).max()) + 1
        kinds = None if column is None else node_kinds(shard, column)
        candidates = Candidates(shard, relation, number, kinds)
        edges, owned = np.arange(shard.num_edges), shard.node_key_L[: shard.num_masters]
        some = None if masters is None else np.flatnonzero(np.isin(owned, masters))
        if some is not None:
            ends = zip(graph.src, graph.dst, strict=True)
            inside = [a in masters and b in masters for a, b in ends]  # type: ignore[operator]
            edges = edges[np.array(inside)[shard.edge_key[edges]]]
        codes, at_source = Negatives(candidates, 8, corrupt, 3).draw(
            shard.edge_key[edges], candidates.groups(shard, edges), comm, step=1, masters=some
        )
        assert (codes >= 0).all()
        everyone = comm.all_gather(owned, stage="test")
        table = np.zeros((comm.size, graph.num_nodes), np.int64)
        for rank, keys in enumerate(everyone):
            table[rank, : len(keys)] = keys
        rows = np.column_stack([shard.edge_key[edges], table[rank_and_row(codes)], at_source])
        found = np.concatenate(comm.all_gather(rows, stage="test"))
        return {
            int(row[0]): list(zip(row[1:9].tolist(), (row[9:] > 0).tolist(), strict=True))
            for row in found
        }

    return gt.run_local(job, workers=workers, timeout_s=60)  # type: ignore[no-any-return]


def nodes_of(found: Draws, at_source: bool, keys: Any = None) -> set[int]:
    chosen = found if keys is None else {int(k): found[int(k)] for k in keys}
    return {n for each in chosen.values() for n, source in each if source == at_source}


@pytest.mark.parametrize("corrupt", ["dst", "src", "both"])
def test_candidates_have_the_role_of_the_node_that_they_replace(corrupt: str) -> None:
    graph = marketplace()
    users, items = set(graph.src.tolist()), set(graph.dst.tolist())
    found = draws(graph, corrupt)
    assert nodes_of(found, False) == (set() if corrupt == "src" else items)
    assert nodes_of(found, True) == (set() if corrupt == "dst" else users)
    for workers, method in SETUPS[1:]:
        assert draws(graph, corrupt, workers, method) == found


def test_roles_are_exchanged_in_added_reverses() -> None:
    graph = marketplace()
    users, items = set(graph.src.tolist()), set(graph.dst.tolist())
    for options in ({}, {"seed": 1}):
        found = draws(graph, "dst", 2, "dbh", undirected=True, **options)
        rows = range(graph.num_edges)
        assert nodes_of(found, False, rows) == items
        assert nodes_of(found, False, [k + graph.num_edges for k in rows]) == users


def test_candidates_are_those_of_the_relation() -> None:
    made, rng = marketplace(), np.random.default_rng(4)
    kind = rng.integers(0, 3, made.num_edges)
    dst = np.where(kind == 1, 90 + made.dst % 7, made.dst)
    dst = np.where(kind == 2, 100, dst)  # only one destination
    graph = graph_of(120, made.src, dst, type=kind)
    found = draws(graph, "dst", relation="type")
    for workers, method in SETUPS[1:]:
        assert draws(graph, "dst", workers, method, relation="type") == found
    for number in (0, 1):
        of = np.flatnonzero(kind == number)
        assert nodes_of(found, False, of) == set(dst[of].tolist())
    assert nodes_of(found, False, np.flatnonzero(kind == 2)) == set(dst.tolist())


def test_candidates_of_a_step_are_among_its_nodes() -> None:
    graph = marketplace()
    masters = np.r_[0:90:2, 90:120:3]
    found = draws(graph, masters=masters)
    assert len(found) > 50
    assert nodes_of(found, False) <= set(masters[masters >= 90].tolist())
    assert nodes_of(found, True) <= set(masters[masters < 90].tolist())
    assert draws(graph, "both", 3, "dbh", masters=masters) == found


@pytest.mark.parametrize("kind", ["int", "bool", "text"])
def test_candidates_of_a_column_have_the_kind_of_the_node(kind: str) -> None:
    made, is_item = marketplace(), np.arange(120) >= 90
    values = {"int": is_item * 5 - 2, "bool": is_item, "text": np.where(is_item, "item", "user")}
    both = (np.append(made.src, made.dst), np.append(made.dst, made.src))
    table = pa.table({"id": np.arange(120), "kind": values[kind]})
    graph = gt.Graph(table, graph_of(120, *both).edges)  # in both directions: roles do not help
    found = draws(graph, "dst", column="kind")
    assert nodes_of(found, False, range(600)) == set(range(90, 120))
    assert nodes_of(found, False, range(600, 1200)) == set(range(90))
    assert draws(graph, "dst", 3, "dbh", column="kind") == found


def test_draws_stay_the_same_if_every_node_has_both_roles() -> None:
    graph = labelled()
    every = set(range(graph.num_nodes))
    assert set(graph.src.tolist()) == set(graph.dst.tolist()) == every
    assert draws(graph) == draws(graph, column="all")
    half = np.arange(0, 120, 2)
    few = draws(marketplace(), column="all", masters=half)
    assert nodes_of(few, False) == set(half.tolist())


@pytest.mark.parametrize("column", ["kind", None])
def test_ranks_are_among_candidates(column: str | None) -> None:
    made, kind = marketplace(), np.arange(120) % 3
    graph = gt.Graph(pa.table({"id": np.arange(120), "kind": kind}), made.edges)
    z = np.random.default_rng(0).standard_normal((120, 4))
    scores, known = z @ z.T, set(zip(graph.src.tolist(), graph.dst.tolist(), strict=True))
    users, items = sorted(set(graph.src.tolist())), sorted(set(graph.dst.tolist()))
    ranks = []
    for s, d in zip(graph.src[::20].tolist(), graph.dst[::20].tolist(), strict=True):
        ends = [items, users]
        if column:
            ends = [np.flatnonzero(kind == kind[node]).tolist() for node in (d, s)]
        for pairs in ([(s, x) for x in ends[0]], [(x, d) for x in ends[1]]):
            others = [p for p in pairs if p not in known]
            ranks.append(1 + sum(scores[p] > scores[s, d] for p in others))

    def job(comm: Communicator) -> float:
        shard = gt.open_shard(graph, comm, method="dbh")
        scorer = PairScorer(EdgeModel(torch.nn.Identity(), decoder_for("dot", 4)), 0)
        mine = torch.from_numpy(z[shard.node_key_L[: shard.num_masters]])
        edges = np.flatnonzero(shard.edge_key % 20 == 0)
        candidates = Candidates(shard, kinds=node_kinds(shard, column) if column else None)
        return Ranking(shard, None, 1, candidates)(edges, mine, scorer)["mrr"]

    for workers in (1, 3):
        found = gt.run_local(job, workers=workers, timeout_s=60)
        assert found == pytest.approx((1 / np.array(ranks)).mean())


@pytest.mark.parametrize("ranking", [True, False])
def test_training_compares_what_the_main_metric_compares(ranking: bool) -> None:
    """With relations, ranks are over all nodes, and the area under the curve by relation."""
    made = marketplace()
    graph = gt.Graph(
        made.nodes, made.edges.append_column("type", pa.array(np.arange(made.num_edges) % 2))
    )
    shard = gt.open_shard(graph)
    decoder = decoder_for("distmult", 4, num_relations=2)
    model = EdgeModel(NodeEmbedding(shard, 4, GCN(4, 4, 4)), decoder)
    task = LinkPrediction(relation="type", corrupt="dst", negatives=9, ranking=ranking)
    bound = task.bind(model, shard, 0)
    edges = np.arange(shard.num_edges)
    keys = shard.node_key_L[: shard.num_masters]
    for negatives, everyone in ((bound._negatives, ranking), (bound._one_negative, False)):
        groups = negatives.candidates.groups(shard, edges)
        codes, _ = negatives.draw(shard.edge_key, groups, shard.comm, step=0)
        users = keys[rank_and_row(codes)[1]] < 90
        assert (users.mean() > 0.6) if everyone else not users.any()


@pytest.mark.parametrize("strategy", [GlobalBatch(), ClusterBatch(4, np.arange(120) % 12)])
def test_random_purchases_cannot_be_predicted(strategy: Strategy) -> None:
    graph = marketplace()

    def found(candidates: str | None, epochs: int = 30) -> float:
        shard = gt.open_shard(graph)
        encoder = NodeEmbedding(shard, 8, GCN(8, 8, 8, dropout=0.0))
        task = LinkPrediction(corrupt="dst", candidates=candidates, ranking=False)
        trainer = gt.Trainer(
            EdgeModel(encoder, decoder_for("mlp", 8)),
            shard, task=task, strategy=strategy, lr=0.02, evaluate_every=epochs,
        )  # fmt: skip
        return float(trainer.fit(epochs)["test_auc"])

    assert abs(found(None) - 0.5) < 0.1
    if isinstance(strategy, GlobalBatch):
        assert found("all") > 0.75  # users are told from items


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("x", pa.array(np.arange(120)), "expected one of all, kind, got 'x'"),
        ("kind", pa.array(np.arange(120) / 2), "integers, booleans or texts .* got double"),
        ("kind", pa.array([None, *range(119)]), "integers, booleans or texts .* got 1 nulls"),
    ],
)
def test_wrong_columns_raise_config_error(column: str, values: pa.Array, message: str) -> None:
    graph = gt.Graph(pa.table({"id": np.arange(120), "kind": values}), marketplace().edges)
    shard = gt.open_shard(graph)
    model = EdgeModel(NodeEmbedding(shard, 4, GCN(4, 4, 4)), decoder_for("dot", 4))
    with pytest.raises(ConfigError, match=message):
        gt.Trainer(model, shard, task=LinkPrediction(candidates=column))
