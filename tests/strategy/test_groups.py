"""Groups of workers: losses are the same for any number of groups and any order of pulling."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.partition import Plan, make_store
from graphtheta.strategy import ClusterBatch, GlobalBatch, MiniBatch, NodeTargets, Strategy
from tests.nn.steps import CASES, assert_equal
from tests.strategy.graphs import graph

SETUPS = [(2, 1), (2, 2), (4, 2), (3, 3), (4, 4), (6, 2)]  # workers, groups
STRATEGIES: dict[str, Callable[[int], Strategy]] = {
    "exact": lambda layers: MiniBatch(3),
    "sampled": lambda layers: MiniBatch(3, [3] * layers),
    "weighted": lambda layers: MiniBatch(3, [3] * layers, weight="weight"),
    "clusters": lambda layers: ClusterBatch(5, OF_NODE),
    "clusters and around": lambda layers: ClusterBatch(5, OF_NODE, boundary_hops=1),
    "renormalised": lambda layers: ClusterBatch(5, OF_NODE, renormalise=True),
    "global": lambda layers: GlobalBatch(),
}
OF_NODE = np.random.default_rng(1).integers(0, 12, 60)


def train(
    strategy: str,
    workers: int = 1,
    groups: int = 1,
    *,
    name: str = "gat",
    method: str = "node-hash",
    store: Path | None = None,
    micro_batches: int = 5,
    prefetch: int = 0,
    dtype: torch.dtype = torch.float64,
    sleep: Callable[[int], float] = lambda group: 0.0,
    late: Callable[[int], float] = lambda group: 0.0,
) -> tuple[list[float], Any, dict[str, Any]]:
    """Return the losses, the last weights and the summary, with dropout.

    Groups sleep before every batch, and come late to the first.
    """

    def job(comm: Communicator) -> Any:
        grouped = gt.Groups(comm, groups)
        shard = gt.open_shard(store or graph(), grouped.comm, method=method)
        model = CASES[name](dropout=0.3).to(dtype)
        model.register_forward_pre_hook(lambda *_: time.sleep(sleep(grouped.index)))
        chosen = STRATEGIES[strategy](len(model.convs))
        trainer = gt.Trainer(
            model,
            shard,
            strategy=chosen,
            groups=grouped,
            micro_batches=micro_batches,
            evaluate_every=3,
            prefetch=prefetch,
        )
        time.sleep(late(grouped.index))
        summary = trainer.fit(3)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
        everyone = comm.all_gather(weights, stage="weights")
        assert all(np.array_equal(theirs, weights) for theirs in everyone)
        return trainer.history.loss, weights, summary

    result: tuple[list[float], Any, dict[str, Any]]
    result = gt.run_local(job, workers=workers, timeout_s=60)
    return result


@cache
def single(strategy: str, name: str) -> tuple[list[float], Any]:
    """Return the results of one worker without micro-batches."""
    losses, weights, _ = train(strategy, name=name, micro_batches=1)
    return losses, weights


def assert_same(got: tuple[Any, ...], want: tuple[Any, ...], tolerance: float = 1e-9) -> None:
    assert_equal(got[0], want[0], tolerance)
    assert_equal(got[1], want[1], 10 * tolerance)


COVER = [
    (
        strategy,
        *SETUPS[(i + j) % len(SETUPS)],
        ("gat", "sage_max", "gcn", "rgcn")[(i + 2 * j) % 4],
        ("node-hash", "dbh")[(i + j // 2) % 2],
        2 * (j % 2),
    )
    for i, strategy in enumerate(STRATEGIES)
    for j in range(3)
]


@pytest.mark.parametrize(("strategy", "workers", "groups", "name", "method", "prefetch"), COVER)
def test_same_as_one_worker(
    strategy: str, workers: int, groups: int, name: str, method: str, prefetch: int
) -> None:
    got = train(strategy, workers, groups, name=name, method=method, prefetch=prefetch)
    assert_same(got, single(strategy, name))
    assert sum(got[2]["micro_batches_by_group"]) == 5 * 3 * round(steps(strategy))
    assert got[2]["groups"] == groups


def steps(strategy: str) -> int:
    if strategy == "global":
        return 1
    shard = gt.open_shard(graph())
    rows = torch.nonzero((shard.split("split") == 1) & shard.label("y")[1]).flatten()
    targets = NodeTargets(shard, rows, lambda outputs, nodes: (outputs.sum(), len(nodes)))
    schedule = STRATEGIES[strategy](2).schedule(shard, targets, layers=2, seed=0)
    return len(list(schedule(0)))


@pytest.mark.slow
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("method", ["node-hash", "dbh"])
@pytest.mark.parametrize(("workers", "groups"), SETUPS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_as_one_worker_in_full(
    strategy: str, workers: int, groups: int, method: str, prefetch: int
) -> None:
    got = train(strategy, workers, groups, method=method, prefetch=prefetch)
    assert_same(got, single(strategy, "gat"))


@pytest.mark.parametrize("strategy", [pytest.param("sampled", marks=pytest.mark.slow), "clusters"])
def test_groups_of_one_size_give_the_same_bits(strategy: str) -> None:
    runs = [
        train(strategy, 2 * groups, groups, method="dbh", dtype=torch.float32, micro_batches=7)
        for groups in (1, 2, 3)
    ]
    for losses, weights, _ in runs[1:]:
        assert losses == runs[0][0]
        assert np.array_equal(weights, runs[0][1])


def test_more_micro_batches_change_only_rounding() -> None:
    for number in (1, 2, 3, 50):  # of 50 micro-batches most have no target
        assert_same(train("sampled", micro_batches=number), single("sampled", "gat"))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_slow_group_takes_fewer_micro_batches(prefetch: int) -> None:
    got = train(
        "exact", 2, 2, micro_batches=12, prefetch=prefetch, sleep=lambda group: 0.05 * group
    )
    fast, slow = got[2]["micro_batches_by_group"]
    assert slow < fast
    assert slow > 0
    assert_same(got, single("exact", "gat"))
    assert got[2]["phase_seconds"]["backward wait for groups"] > 0


def test_a_group_may_come_too_late_for_a_step() -> None:
    want = single("exact", "gat")  # compiles the kernels
    got = train("exact", 2, 2, micro_batches=2, late=lambda group: 2.0 * group)
    fast, slow = got[2]["micro_batches_by_group"]
    assert fast > slow
    assert_same(got, want)


def test_a_group_that_fails_ends_the_job() -> None:
    def job(comm: Communicator) -> None:
        groups, calls = gt.Groups(comm, 2), count()
        shard = gt.open_shard(graph(), groups.comm)
        model = CASES["gcn"]().double()

        def fail(*given: Any) -> None:
            if groups.index == 1 and next(calls) == 2:
                raise ConfigError("broken in the second group")

        model.register_forward_pre_hook(fail)
        trainer = gt.Trainer(model, shard, strategy=MiniBatch(3), groups=groups, micro_batches=4)
        trainer.fit(5)

    with pytest.raises(ConfigError, match="broken in the second group"):
        gt.run_local(job, workers=4, timeout_s=30)


@pytest.mark.parametrize(
    ("workers", "groups", "micro_batches", "name", "message"),
    [
        (3, 2, 2, "gcn", "expected a number that divides 3 workers, got 2"),
        (2, 2, 1, "gcn", "at least as many micro-batches as groups, got 1 for 2"),
        (1, 1, 0, "gcn", "got 0 for 1"),
        (1, 1, 2, "gcn_batch_norm", "expected a model without batch normalisation"),
    ],
)
def test_wrong_options_raise_config_error(
    workers: int, groups: int, micro_batches: int, name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train("exact", workers, groups, name=name, micro_batches=micro_batches)


def test_a_store_has_a_multiple_of_the_parts_of_a_group(tmp_path: Path) -> None:
    store = tmp_path / "store"
    make_store(graph(), store, Plan(4, "dbh"))
    assert_same(train("sampled", 4, 2, store=store), single("sampled", "gat"))
    with pytest.raises(ConfigError, match="3 workers do not divide the 4 parts"):
        train("sampled", 6, 2, store=store)


def test_a_shard_of_other_workers_is_refused() -> None:
    def job(comm: Communicator) -> None:
        shard = gt.open_shard(graph(), comm)
        gt.Trainer(CASES["gcn"]().double(), shard, groups=gt.Groups(comm, 2), micro_batches=2)

    with pytest.raises(ConfigError, match=r"Open it with groups\.comm"):
        gt.run_local(job, workers=2)
