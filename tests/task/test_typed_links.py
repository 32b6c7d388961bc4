"""Links and labels of edges of one relation of a typed graph, whose other relations are hidden."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError
from graphtheta.exchange.directory import rank_and_row
from graphtheta.nn import RGCN, EdgeModel, TypedInput, decoder_for
from graphtheta.shard.shard import Shard
from graphtheta.strategy import ClusterBatch, GlobalBatch, MiniBatch, Strategy
from graphtheta.task import EdgePrediction, LinkPrediction, Task
from graphtheta.task.link import BoundLinkTask
from graphtheta.tgar import ParallelEdges
from tests.nn.steps import assert_equal

SETUPS = [(2, "dbh"), (3, "node-hash")]
USERS, ITEMS, RATES = 40, 25, "user-rates-item"
FIRST = {"item": 0, "shop": ITEMS, "user": ITEMS + 3}  # node keys
Ints = NDArray[np.int64]


@cache
def shop(num_rates: int = 200, scale: int = 1) -> Graph:
    """Return users who rate, view and follow at random, with the reverse of each relation."""
    rng = np.random.default_rng(3)
    counts = {"item": ITEMS * scale, "shop": 3, "user": USERS * scale}
    users, items = np.divmod(rng.permutation(36 * scale * counts["item"]), counts["item"])
    split = rng.choice([0, 1, 1, 1, 1, 1, 2, 3], num_rates).astype(np.int8)
    rates = {
        "src": users[:num_rates],  # a tenth of the users rate nothing
        "dst": items[:num_rates],
        "split:split": split,
        "label:stars": pa.array(rng.integers(0, 3, num_rates), mask=np.arange(num_rates) % 5 == 0),
    }
    seen = np.flatnonzero(split < 2)[::3]
    views = {"src": users[seen], "dst": items[seen], "split:when": split[seen]}
    follows = {"src": rng.choice(users, 60), "dst": rng.choice(users, 60)}
    sells = {"src": np.arange(counts["item"]) % 3, "dst": np.arange(counts["item"])}
    return Graph.from_arrow(
        {name: pa.table({"id": np.arange(count)}) for name, count in counts.items()},
        {
            RATES: rates, "user-views-item": views, "user-follows-user": follows,
            "shop-sells-item": sells,
        },
        add_reverse=True,
    )  # fmt: skip


def edge_model(shard: Shard, decoder: str = "dot", outputs: int = 1) -> EdgeModel:
    encoder = RGCN(6, 6, 5, num_relations=len(shard.relations), num_bases=2, dropout=0.2)
    return EdgeModel(TypedInput(shard, 6, encoder), decoder_for(decoder, 5, outputs=outputs))


# -- the same on any number of workers ----------------------------------------------------------

COMMUNITIES = np.random.default_rng(1).integers(0, 4, USERS + ITEMS + 3)
FANOUTS = {one: [3, 2] for one in shop().relations}
CASES: dict[str, tuple[Callable[[], Task], Callable[[], Strategy], dict[str, Any]]] = {
    "link global": (lambda: LinkPrediction(target_relation=RATES), GlobalBatch, {}),
    "link mini": (
        lambda: LinkPrediction(f"{RATES}.split", negatives=2, validation_messages=True),
        lambda: MiniBatch(40, FANOUTS),
        {},
    ),
    "link cluster": (
        lambda: LinkPrediction("split", target_relation=RATES, split_pairs=True, corrupt="dst"),
        lambda: ClusterBatch(2, COMMUNITIES, boundary_hops=1),
        {},
    ),
    "edge mini": (
        lambda: EdgePrediction("stars", target_relation=RATES, exclude_targets=True),
        lambda: MiniBatch(40, [4, 4]),
        {"decoder": "mlp", "outputs": 3},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_same_as_single(case: str) -> None:
    task, strategy, options = CASES[case]

    def train(workers: int, method: str) -> Any:
        def job(comm: Communicator) -> Any:
            shard = gt.open_shard(shop(), comm, method=method)
            model = edge_model(shard, **options).double()
            trainer = gt.Trainer(
                model, shard, task=task(), strategy=strategy(), lr=0.02, evaluate_every=99
            )
            trainer.fit(2)
            return trainer.history.loss, trainer.evaluate()

        return gt.run_local(job, workers=workers, timeout_s=60)

    losses, metrics = train(1, "node-hash")
    assert len(metrics) > 4
    for setup in SETUPS:
        got, got_metrics = train(*setup)
        assert_equal(got, losses, 1e-10)
        assert got_metrics == pytest.approx(metrics, rel=1e-9)


# -- negatives and candidates -------------------------------------------------------------------


def bind(shard: Shard, **options: Any) -> BoundLinkTask:
    return LinkPrediction(target_relation=RATES, **options).bind(edge_model(shard), shard, 3)


def drawn(workers: int, method: str, **options: Any) -> Any:
    """Return edge keys, the node keys drawn for each, and whether they replace the source."""

    def job(comm: Communicator) -> Any:
        shard = gt.open_shard(shop(), comm, method=method)
        bound = bind(shard, negatives=9, **options)
        edges, owned = shard.edges_of(RATES), shard.node_key_L[: shard.num_masters]
        groups = bound._negatives.candidates.groups(shard, edges)
        codes, at_source = bound._negatives.draw(shard.edge_key[edges], groups, comm, step=1)
        keys = np.zeros((comm.size, shard.manifest.num_nodes), np.int64)
        for rank, of_rank in enumerate(comm.all_gather(owned, stage="test")):
            keys[rank, : len(of_rank)] = of_rank
        rows = np.column_stack([shard.edge_key[edges], keys[rank_and_row(codes)], at_source])
        rows = np.concatenate(comm.all_gather(rows, stage="test"))
        return rows[np.argsort(rows[:, 0])]

    return gt.run_local(job, workers=workers, timeout_s=60)


@pytest.mark.parametrize("candidates", [None, "all"])
def test_negatives_are_of_the_type_that_they_replace(candidates: str | None) -> None:
    rows = drawn(1, "node-hash", candidates=candidates, ranking=candidates is None)
    nodes, at_source = rows[:, 1:10], rows[:, 10:].astype(bool)
    assert set(nodes[at_source]) == set(range(FIRST["user"], FIRST["user"] + USERS))
    assert set(nodes[~at_source]) == set(range(ITEMS))
    np.testing.assert_array_equal(drawn(3, "dbh", candidates=candidates, ranking=False), rows)


def test_ranks_are_among_nodes_of_the_type() -> None:
    graph, z = shop(), np.random.default_rng(0).standard_normal((USERS + ITEMS + 3, 5))
    rates = graph.edge_table(RATES)
    known = list(zip(rates["src"].to_pylist(), rates["dst"].to_pylist(), strict=True))
    scores, ranks = z @ z.T, []
    users, items = range(FIRST["user"], FIRST["user"] + USERS), range(ITEMS)
    for u, i in known[::10]:
        for pairs in ([(u, x) for x in items], [(x, i) for x in users]):
            others = set(pairs) - set(known)
            ranks.append(1 + sum(scores[p] > scores[u, i] for p in others))

    def job(comm: Communicator) -> float:
        shard = gt.open_shard(graph, comm, method="dbh")
        bound = bind(shard)
        assert bound._ranking is not None
        edges = shard.edges_of(RATES)
        mine = torch.from_numpy(z[shard.node_key_L[: shard.num_masters]])
        chosen = edges[shard.edge_key[edges] % 10 == 0]  # the first relation: keys are rows
        return bound._ranking(chosen, mine, bound._scorer)["mrr"]

    for workers in (1, 3):
        found = gt.run_local(job, workers=workers, timeout_s=60)
        assert found == pytest.approx((1 / np.array(ranks)).mean())


# -- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("validation", [False, True])
def test_reverses_of_held_out_edges_carry_no_messages(validation: bool) -> None:
    whole = gt.open_shard(shop())
    split = whole.edge_columns[f"split:{RATES}.split"].numpy()
    held_out = [3] if validation else [2, 3]
    pairs = ParallelEdges(whole, whole.comm)
    between = np.zeros(whole.num_edges, np.bool_)
    between[pairs.of(np.flatnonzero(np.isin(split, held_out)), whole.comm)] = True
    of_val = np.zeros_like(between)
    of_val[pairs.of(np.flatnonzero(split == 2), whole.comm)] = True
    reverses = np.zeros_like(between)
    reverses[whole.edges_of("item-rev_rates-user")] = True
    hidden = np.isin(split, held_out) | (reverses & between)
    want = sorted(whole.edge_key[~hidden].tolist())
    assert (reverses & between).sum() >= np.isin(split, held_out).sum() > 10

    def job(comm: Communicator) -> list[int]:
        shard = gt.open_shard(shop(), comm, method="dbh")
        task = LinkPrediction(target_relation=RATES)
        keys = task.message_shard(shard, validation=validation).edge_key
        return sorted(np.concatenate(comm.all_gather(keys, stage="test")).tolist())

    for workers in (1, 3):
        assert gt.run_local(job, workers=workers, timeout_s=60) == want


def test_random_ratings_cannot_be_predicted() -> None:
    """A model that only tells users from items has no use against negatives of the same type."""
    shard = gt.open_shard(shop(1200, 4))
    task = LinkPrediction(target_relation=RATES, ranking=False, corrupt="dst")
    trainer = gt.Trainer(edge_model(shard, "mlp"), shard, task=task, lr=0.02, evaluate_every=20)
    assert not trainer.task.warnings
    found = trainer.fit(20)
    assert abs((found["val_auc"] + found["test_auc"]) / 2 - 0.5) < 0.07


@pytest.mark.parametrize(
    ("back", "split_pairs", "is_leak"),
    [("rev_rates", False, False), ("rated_by", False, True), ("rated_by", True, False)],
)
def test_reverses_give_no_held_out_edge_away(back: str, split_pairs: bool, is_leak: bool) -> None:
    """A node's vector holds those of the nodes that send to it, so that a reverse shows its edge.

    An edge back of another name is no reverse, and gives the edge away: the model would notice.
    """
    rates = shop(600, 4).edge_table(RATES)
    ends = [rates.column(end).to_numpy() for end in ("src", "dst")]
    users, items = (np.unique(end, return_inverse=True)[1] for end in ends)
    graph = Graph.from_arrow(
        {
            name: {"id": np.arange(end.max() + 1)}
            for name, end in (("user", users), ("item", items))
        },
        {
            RATES: {"src": users, "dst": items, "split:split": rates["split:split"]},
            f"item-{back}-user": {"src": items, "dst": users},
        },
    )
    shard = gt.open_shard(graph)
    encoder = RGCN(512, 512, 512, num_relations=2, num_layers=1, dropout=0)
    model = EdgeModel(TypedInput(shard, 512, encoder), decoder_for("dot", 512))
    with torch.no_grad():
        for weight in (encoder.convs[0].weight, encoder.convs[0].root):
            weight.copy_(torch.eye(512).expand_as(weight))
    task = LinkPrediction(
        target_relation=RATES, ranking=False, corrupt="dst", split_pairs=split_pairs
    ).bind(model, shard, 0)
    assert bool(task.warnings) == is_leak
    found = task.evaluate()
    auc = (found["val_auc"] + found["test_auc"]) / 2
    assert auc > 0.9 if is_leak else abs(auc - 0.5) < 0.07


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            LinkPrediction(target_relation="user-rate-item"),
            r"relation \(--relation\): expected one of item-rev_rates-user, .*got 'user-rate-item'",
        ),
        (
            LinkPrediction(target_relation="rates"),
            r"expected one of item-rev_rates-user, .*'rates'",
        ),
        (
            LinkPrediction(target_relation="user-follows-user"),
            r"a split of user-follows-user, got only splits of others \('user-rates-item\.split'",
        ),
        (
            LinkPrediction("user-rates-item.split", target_relation="user-views-item"),
            r"split of user-views-item \(--split\): expected one of user-views-item\.when, got 'us",
        ),
        (EdgePrediction("stars"), r"label of edges .*expected one of user-rates-item\.stars, got"),
        (
            EdgePrediction(split="user-views-item.when"),
            r"split of user-rates-item \(--split\): expected one of user-rates-item\.split, got",
        ),
        (LinkPrediction(candidates="id"), r"node column of candidates .*: expected one of all, go"),
    ],
)
def test_unknown_names_raise_config_error(task: Task, message: str) -> None:
    shard = gt.open_shard(shop())
    with pytest.raises(ConfigError, match=message):
        task.bind(edge_model(shard), shard, 0)


def test_the_default_split_is_the_only_one_of_its_name() -> None:
    shard = gt.open_shard(shop())
    link = LinkPrediction().bind(edge_model(shard), shard, 0)
    assert link.resolved == {"relation": RATES, "split": f"{RATES}.split"}
    bound = EdgePrediction().bind(edge_model(shard, "mlp", 3), shard, 0)
    names = {"relation": RATES, "label": f"{RATES}.stars", "split": f"{RATES}.split"}
    assert bound.resolved == names
