"""Mini-batches: identities with other strategies, and any number of workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.strategy import GlobalBatch, MiniBatch, NodeTargets, Strategy
from graphtheta.strategy.dense_ids import dense_ids
from graphtheta.tgar import Fanout, Neighbourhoods, View
from tests.graphs import to_graph
from tests.nn.steps import CASES, assert_equal
from tests.strategy.graphs import graph

WORKERS = [(2, "dbh"), (3, "node-hash"), (4, "edge-hash"), (7, "kaminpar")]
STRATEGIES: dict[str, Callable[[int], Strategy]] = {
    "exact": lambda layers: MiniBatch(4),
    "sampled": lambda layers: MiniBatch(4, [3] * layers),
    "first layer sampled": lambda layers: MiniBatch(4, [2, *[None] * (layers - 1)]),
    "with replacement": lambda layers: MiniBatch(4, [3] * layers, replace=True),
    "weighted": lambda layers: MiniBatch(4, [3] * layers, weight="weight"),
    "all": lambda layers: MiniBatch(1000),
    "large": lambda layers: MiniBatch(4, [1000] * layers),
}


def train(
    name: str, strategy: str | None, workers: int = 1, method: str = "node-hash", epochs: int = 2
) -> tuple[list[float], Any]:
    """Return the losses and the last weights, with dropout."""

    def job(comm: Communicator) -> Any:
        shard = gt.open_shard(graph(), comm, method=method)
        model = CASES[name](dropout=0.3).double()
        chosen = GlobalBatch() if strategy is None else STRATEGIES[strategy](len(model.convs))
        trainer = gt.Trainer(model, shard, strategy=chosen, optimizer="sgd", evaluate_every=99)
        trainer.fit(epochs)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        return trainer.history.loss, weights.numpy()

    result: tuple[list[float], Any] = gt.run_local(job, workers=workers, timeout_s=60)
    return result


@cache
def single(name: str, strategy: str) -> tuple[list[float], Any]:
    return train(name, strategy)


# Statistics of a batch are over the nodes that are active, and a mini-batch leaves out what no
# target reaches.
BATCH_NORM = {"gcn_batch_norm", "gat_edges"}


@pytest.mark.parametrize("name", sorted(CASES.keys() - BATCH_NORM))
def test_one_batch_of_all_is_the_global_batch(name: str) -> None:
    losses, weights = train(name, "all")
    expected, expected_weights = train(name, None)
    assert_equal(losses, expected, 1e-12)
    assert_equal(weights, expected_weights, 1e-10)


COVER = [
    (name, strategy, *WORKERS[(i + j) % 4])
    for i, name in enumerate(CASES)
    for j, strategy in enumerate(["exact", "sampled", "with replacement", "weighted"])
    if (i + j) % 2 == 0
]


@pytest.mark.parametrize(("name", "strategy", "workers", "method"), COVER)
def test_same_as_single(name: str, strategy: str, workers: int, method: str) -> None:
    losses, weights = train(name, strategy, workers, method)
    expected, expected_weights = single(name, strategy)
    assert_equal(losses, expected, 1e-9)
    assert_equal(weights, expected_weights, 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "method"), WORKERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", CASES)
def test_same_as_single_in_full(name: str, strategy: str, workers: int, method: str) -> None:
    losses, weights = train(name, strategy, workers, method)
    expected, expected_weights = single(name, strategy)
    assert_equal(losses, expected, 1e-9)
    assert_equal(weights, expected_weights, 1e-8)


def test_fanouts_of_all_edges_draw_nothing() -> None:
    """Without replacement, a fan-out that no in-degree exceeds takes all edges."""
    for name in ("gat_edges", "sage_max"):
        losses, weights = train(name, "large", 3, "dbh")
        expected, expected_weights = single(name, "exact")
        assert_equal(losses, expected, 1e-12)
        assert_equal(weights, expected_weights, 1e-10)


@pytest.mark.parametrize(
    ("workers", "method"),
    [pytest.param(1, "node-hash", marks=pytest.mark.slow), (3, "dbh")],
)
def test_prefetching_changes_nothing(workers: int, method: str) -> None:
    def job(comm: Communicator) -> Any:
        shard = gt.open_shard(graph(), comm, method=method)
        losses = []
        for depth in (0, 1, 3):
            model = CASES["gat_edges"](dropout=0.3).double()
            strategy = MiniBatch(3, [3] * len(model.convs))
            trainer = gt.Trainer(model, shard, strategy=strategy, prefetch=depth)
            trainer.fit(3)
            losses.append(trainer.history.loss)
        return losses

    none, one, three = gt.run_local(job, workers=workers, timeout_s=60)
    assert none == one == three


def test_an_error_while_preparing_ends_the_run() -> None:
    class Broken(MiniBatch):
        def schedule(self, *given: Any, **options: Any) -> Any:
            steps = super().schedule(*given, **options)

            def some(epoch: int) -> Any:
                yield next(steps(epoch))
                raise ConfigError("broken")

            return some

    shard = gt.open_shard(graph())
    trainer = gt.Trainer(CASES["gcn"]().double(), shard, strategy=Broken(3), prefetch=2)
    with pytest.raises(ConfigError, match="broken"):
        trainer.fit(1)


def test_every_training_node_is_a_target_once_an_epoch() -> None:
    def job(comm: Communicator) -> Any:
        shard = gt.open_shard(graph(), comm, method="dbh")
        rows = torch.nonzero(shard.split("split") == 1).flatten()
        targets = NodeTargets(shard, rows, lambda outputs, nodes: (outputs.sum(), len(nodes)))
        steps = MiniBatch(5).schedule(shard, targets, layers=2, seed=0)
        sizes, seen = [], []
        for epoch in range(2):
            keys = []
            for step in steps(epoch):
                mine = shard.node_key_L[step().step_targets.targets]
                everyone = np.concatenate(comm.all_gather(mine, stage="targets"))
                sizes.append(len(everyone))
                keys.append(sorted(everyone.tolist()))
            seen.append(keys)
        expected = np.concatenate(comm.all_gather(shard.node_key_L[rows.numpy()], stage="all"))
        return sizes, seen, sorted(expected.tolist())

    sizes, (first, second), expected = gt.run_local(job, workers=3)
    assert first != second
    for keys in (first, second):
        assert sorted(chain(*keys)) == expected
    steps = -(-len(expected) // 5)
    assert sizes == 2 * [*[5] * (steps - 1), len(expected) - 5 * (steps - 1)]


def test_dense_ids_of_keys_on_any_worker() -> None:
    keys = np.random.default_rng(0).permutation(1000)[:200]

    def job(comm: Communicator) -> Any:
        mine = np.split(keys, [50, 50, 120])[comm.rank]  # one has none
        ranks, total = dense_ids(mine, 1000, comm)
        return np.concatenate(comm.all_gather(ranks, stage="ranks")), total

    ranks, total = gt.run_local(job, workers=4)
    assert total == 200
    np.testing.assert_array_equal(ranks, np.argsort(np.argsort(keys)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MiniBatch(0), "batch_size >= 1, got 0"),
        (lambda: MiniBatch(4, {"a-b-c": [3], ("a", "b", "c"): [2]}), "one relation by two names"),
        (lambda: MiniBatch(4, [3, 0]), r"fanouts >= 1 or None, got \[3, 0\]"),
        (lambda: MiniBatch("8"), "batch_size >= 1, got '8'. Give an integer"),  # type: ignore
        (lambda: MiniBatch(8, 10), "fanouts >= 1 or None, got 10. Give a list"),  # type: ignore
        (lambda: MiniBatch(8, [2.5, 3]), "fanouts >= 1 or None"),  # type: ignore
        (lambda: MiniBatch(4, replace=True), "Give fanouts"),
        (lambda: trainer(MiniBatch(4, [3])), "expected 2 fanouts, one for each graph layer, got 1"),
        (lambda: trainer(MiniBatch(4, [3, 3], weight="x")), "edge column of weights .*got 'x'"),
        (lambda: weighted(np.full(5, -1.0)), "expected weights of at least 0, got -1.0 in"),
    ],
)
def test_wrong_options_raise_config_error(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def weighted(values: np.ndarray) -> gt.Trainer:
    made = to_graph((3, np.arange(5) % 3, np.arange(5) % 2), dtype=np.float64)
    edges = made.edges.append_column("weight", pa.array(values))
    shard = gt.open_shard(gt.Graph(made.nodes, edges))
    strategy = MiniBatch(4, [3, 3], weight="weight")
    return gt.Trainer(CASES["gcn"]().double(), shard, strategy=strategy)


def trainer(strategy: Strategy) -> gt.Trainer:
    return gt.Trainer(CASES["gcn"]().double(), gt.open_shard(graph()), strategy=strategy)


def test_fanouts_may_be_an_array() -> None:
    assert MiniBatch(4, np.array([3, 2])).fanouts == (3, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("aggregator", ["max", "min"])
@pytest.mark.parametrize(("workers", "method"), [(1, "node-hash"), (3, "dbh")])
def test_a_row_has_one_winner_if_it_is_sampled_twice(
    aggregator: str, workers: int, method: str
) -> None:
    """Check that the derivative with respect to a factor of the input is the output itself."""

    class Extreme(gt.tgar.TGARLayer):
        def __init__(self) -> None:
            super().__init__()
            self.aggregator = aggregator

        def gather(self, src: Any, dst: Any, edge: Any) -> torch.Tensor:
            value: torch.Tensor = src["h"]
            return value

    def job(comm: Communicator) -> list[float]:
        shard = gt.open_shard(graph(), comm, method=method)
        masters = np.arange(shard.num_masters)
        view = View(shard, blocks=Neighbourhoods(shard).blocks(masters, [Fanout(6, True)]))
        factor = torch.ones((), dtype=torch.float64, requires_grad=True)
        out = Extreme()(view[0], view.inputs() * factor)
        torch.autograd.backward(out.sum() + view.token)
        assert factor.grad is not None
        sums = np.array([float(factor.grad), float(out.detach().sum())])
        comm.all_reduce(sums, stage="test")
        return [float(x) for x in sums]

    slope, value = gt.run_local(job, workers=workers, timeout_s=60)
    assert slope == pytest.approx(value, rel=1e-12)
    assert value != 0
