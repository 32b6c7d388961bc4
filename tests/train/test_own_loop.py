"""A training loop of one's own, that of the guide, trains as `Trainer` does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError
from tests.graphs import random_graph, to_graph

GUIDE = (Path(__file__).parents[2] / "docs" / "training-loop.md").read_text()
GRAPH = to_graph(random_graph(30, 90))
EPOCHS, WARMUP = 3, 5


class Log:
    """Logger that keeps the metrics of all epochs."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.lines.append(dict(metrics))


def loop_of_the_guide() -> Callable[..., Any]:
    _, block = re.findall(r"^```python\n(.*?)^```", GUIDE, re.M | re.S)
    names: dict[str, Any] = {}
    exec(block[: block.index("\nmetrics = ")], names)
    function: Callable[..., Any] = names["train"]
    return function


@pytest.mark.parametrize("workers", [1, 3])
def test_the_loop_of_the_guide_equals_the_trainer(workers: int) -> None:
    train = loop_of_the_guide()

    def own(comm: Communicator) -> list[dict[str, float]]:
        log = Log()
        train(comm, log, epochs=EPOCHS, warmup=WARMUP)
        return log.lines

    def by_trainer(comm: Communicator) -> list[dict[str, float]]:
        log, shard = Log(), gt.open_shard(train.__globals__["graph"], comm)
        gt.Trainer(
            gt.nn.GCN(shard.num_features, 16, shard.num_classes),
            shard,
            strategy=gt.MiniBatch(64),
            optimizer="adamw",
            lr=0.02,
            weight_decay=5e-4,
            schedule=gt.optim.Cosine(WARMUP),
            clip=1.0,
            loggers=[log],
        ).fit(EPOCHS)
        return log.lines

    found, want = (gt.run_local(f, workers=workers, timeout_s=60) for f in (own, by_trainer))
    assert len(found) == EPOCHS
    for mine, theirs in zip(found, want, strict=True):
        for name in ("val_loss", "test_loss", "test_accuracy"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-7)


def step(comm: Communicator, *, token: bool, backward: bool = True) -> list[np.ndarray]:
    """Return the gradients of one step of a loop."""
    shard = gt.open_shard(GRAPH, comm)
    model = gt.nn.GCN(3, 4, 4, weighted=False).double()
    task = gt.NodePrediction().bind(model, shard, seed=0)
    (first,) = gt.GlobalBatch().schedule(shard, task.targets, layers=2, seed=0)(0)
    batch = first()
    share, _ = batch.mean_loss(model(batch.view, batch.view.inputs(torch.float64)))
    if backward:
        (share + batch.view.token if token else share).backward()
    gt.sum_gradients(model, batch.view)
    return [p.grad.numpy() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("backward", [True, False])
def test_a_forgotten_token_is_one_line(workers: int, backward: bool) -> None:
    with pytest.raises(ConfigError, match=r"\(loss \+ view.token\).backward\(\)") as caught:
        gt.run_local(
            lambda comm: step(comm, token=False, backward=backward), workers=workers, timeout_s=60
        )
    assert "\n" not in str(caught.value)


def test_gradients_do_not_depend_on_the_workers() -> None:
    want = step(SingleCommunicator(), token=True)
    got = gt.run_local(lambda comm: step(comm, token=True), workers=3, timeout_s=60)
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-14)
