"""Edge and link prediction: the same results on any number of workers, for every strategy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from graphtheta.strategy import STRATEGIES, ClusterBatch, GlobalBatch, MiniBatch, Strategy
from graphtheta.task import TASKS, EdgePrediction, LinkPrediction
from tests.nn.steps import assert_equal
from tests.task.graphs import COMMUNITIES, train

WORKERS = [(2, "dbh"), (3, "node-hash"), (4, "edge-hash"), (4, "node-hash")]
WAYS: dict[str, Callable[[], Strategy]] = {
    "global": GlobalBatch,
    "mini": lambda: MiniBatch(32),
    "mini sampled": lambda: MiniBatch(32, [3, 3]),
    "cluster": lambda: ClusterBatch(2, COMMUNITIES),
    "cluster boundary": lambda: ClusterBatch(3, COMMUNITIES, boundary_hops=1),
}
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "link": (lambda: LinkPrediction(relation="type", negatives=3), {}),
    "link dot": (
        lambda: LinkPrediction(corrupt="dst", validation_messages=True, exclude_targets=False),
        {"decoder": "dot"},
    ),
    "link embedding": (lambda: LinkPrediction(negatives=2), {"decoder": "mlp", "embedding": 4}),
    "link weighed": (
        lambda: LinkPrediction(
            negatives=2,
            loss="focal",
            class_weight="balanced",
            loss_weight="type",
            metrics="auc,average_precision,mcc,hits@7",
            monitor="hits@7",
        ),
        {"decoder": "dot"},
    ),
    "edge": (EdgePrediction, {"decoder": "mlp", "outputs": 3}),
    "edge masked": (
        lambda: EdgePrediction(exclude_targets=True),
        {"decoder": "bilinear", "outputs": 3},
    ),
}


@cache
def single(case: str, way: str) -> Any:
    task, options = CASES[case]
    return train(task(), WAYS[way](), **options)


COVER = [
    (case, way, *WORKERS[(i + j) % 4])
    for i, case in enumerate(CASES)
    for j, way in enumerate(WAYS)
    if case in ("link", "edge") or (i + j) % 3 == 0
]


def check(case: str, way: str, workers: int, method: str) -> None:
    task, options = CASES[case]
    losses, metrics, outputs = train(task(), WAYS[way](), workers, method, **options)
    expected, expected_metrics, expected_outputs = single(case, way)
    assert_equal(losses, expected, 1e-10)
    assert_equal(outputs, expected_outputs, 1e-9)
    assert metrics.keys() == expected_metrics.keys()
    for name, value in metrics.items():
        assert value == pytest.approx(expected_metrics[name], rel=1e-9), name


@pytest.mark.parametrize(("case", "way", "workers", "method"), COVER)
def test_same_as_single(case: str, way: str, workers: int, method: str) -> None:
    check(case, way, workers, method)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "method"), [*WORKERS, (7, "dbh"), (3, "kaminpar")])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_same_as_single_in_full(case: str, way: str, workers: int, method: str) -> None:
    check(case, way, workers, method)


def test_every_strategy_and_edge_task_is_covered() -> None:
    assert {type(make()) for make in WAYS.values()} == set(STRATEGIES.values())
    covered = {type(task()) for task, _ in CASES.values()}
    assert covered == {TASKS["link"], TASKS["edge"]}


def test_a_mini_batch_of_all_edges_is_the_global_batch() -> None:
    for case in ("link dot", "edge"):
        task, options = CASES[case]
        losses, _, outputs = train(task(), MiniBatch(10_000), **options)
        expected, _, expected_outputs = single(case, "global")
        assert_equal(losses, expected, 1e-12)
        assert_equal(outputs, expected_outputs, 1e-10)
