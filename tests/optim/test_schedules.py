"""Schedules of the learning rate: their curves, files, torch's, checkpoints and workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError
from graphtheta.optim import (
    SCHEDULES,
    Constant,
    Cosine,
    LearningRate,
    Linear,
    RateList,
    StepDecay,
    TorchSchedule,
    WarmupStableDecay,
    read_rates,
)
from graphtheta.train.callbacks import Callback
from graphtheta.train.run_dir import RunDirectory
from tests.graphs import random_graph, to_graph

GRAPH = to_graph(random_graph(30, 90))


def curve(schedule: Any, total: int = 10, base: float = 1.0) -> list[float]:
    schedule.check(total)
    return [schedule.rate(position, total, base) for position in range(total)]


def test_curves() -> None:
    assert curve(Constant(4)) == [0.25, 0.5, 0.75, *[1.0] * 7]
    assert curve(Constant(0.2)) == [0.5, *[1.0] * 9]
    assert curve(StepDecay(every=4, gamma=0.5)) == [*[1.0] * 4, *[0.5] * 4, *[0.25] * 2]
    assert curve(Linear(2, final=0.5)) == pytest.approx([0.5, 1.0, *np.linspace(1, 0.5625, 8)])
    decay = WarmupStableDecay(0.1, decay=4, final=0.2)
    assert curve(decay) == pytest.approx([*[1.0] * 6, 1.0, 0.8, 0.6, 0.4])
    sqrt = curve(WarmupStableDecay(decay=4, shape="sqrt"))[6:]
    assert sqrt == pytest.approx(1 - np.sqrt(np.arange(4) / 4))
    assert curve(RateList((0.5, 0.25)), 2) == [0.5, 0.25]


def test_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.3)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=0.03)
    want = []
    for _ in range(10):
        want.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert curve(Cosine(final=0.1), base=0.3) == pytest.approx(want, rel=1e-12)


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: Cosine(warmup=-1), "Cosine: warmup: expected a finite number >= 0"),
    (lambda: Cosine(warmup=2.5), "whole number of steps or epochs, or a share below 1, got 2.5"),
    (lambda: Cosine(by="day"), "expected by='step' or 'epoch', got 'day'"),
    (lambda: Linear(final=float("nan")), "Linear: final: expected a finite number"),
    (lambda: WarmupStableDecay(shape="cubic"), "expected a shape of linear, sqrt, cosine"),
    (lambda: curve(WarmupStableDecay(5, decay=6)), "got a warmup of 5 and decay of 6"),
    (lambda: RateList(()), "got an empty list"),
    (lambda: RateList((0.1, -1.0)), r"lr\[1\]: expected a finite number >= 0, got -1.0"),
    (lambda: RateList((0.1, True)), r"lr\[1\]: expected a number, got True"),
    (lambda: curve(RateList((0.1,)), 2), "learning rates for 2 steps, got 1"),
]


@pytest.mark.parametrize(("make", "words"), WRONG)
def test_wrong_options_are_one_line(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


FILES = {
    '{"lr": [0.1, 0.05], "by": "epoch", "predicted": 1}': None,
    "[0.1]": "expected an object with a list of learning rates",
    '{"rates": [1]}': "got rates",
    '{"lr": 0.1}': "got lr",
    '{"lr": ["a"]}': r"lr\[0\]: expected a finite number",
    '{"lr": [NaN]}': r"lr\[0\]: expected a finite number",
    '{"lr": [1], "by": 3}': "expected by='step'",
    "{": "expected JSON",
}


@pytest.mark.parametrize("text", FILES)
def test_files_are_checked(text: str, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text(text)
    if (words := FILES[text]) is None:
        assert read_rates(path) == RateList((0.1, 0.05), "epoch")
        return
    with pytest.raises(ConfigError, match=words) as caught:
        read_rates(path)
    assert str(caught.value).startswith(str(path))


# -- training -------------------------------------------------------------------------------------


def trained(
    schedule: Any,
    comm: Communicator | None = None,
    *,
    epochs: int = 4,
    run_dir: Path | None = None,
    **options: Any,
) -> tuple[list[float], list[dict[str, float]]]:
    """Return losses, and the learning rates of each epoch."""
    shard = gt.open_shard(GRAPH, comm or SingleCommunicator())
    model = gt.nn.GCN(3, 4, 4, weighted=False, dropout=0.0)
    rates: list[dict[str, float]] = []

    class Log:
        def log(self, metrics: dict[str, float], step: int) -> None:
            rates.append({name: rate for name, rate in metrics.items() if name.startswith("lr")})

    mine = gt.Trainer(
        model,
        shard,
        strategy=gt.MiniBatch(2),
        run_dir=None if run_dir is None else RunDirectory(run_dir, resume=True),
        schedule=schedule,
        loggers=[Log()],
        **{"lr": 0.1, **options},
    )
    if run_dir is not None:
        mine.resume()
    mine.fit(epochs)
    return mine.history.loss, rates


@cache
def num_steps() -> int:
    shard = gt.open_shard(GRAPH)
    mine = gt.Trainer(gt.nn.GCN(3, 4, 4, weighted=False), shard, strategy=gt.MiniBatch(2))
    mine.fit(1)
    return mine.history.steps


def by_torch(optimizer: torch.optim.Optimizer, epochs: int = 4) -> lr_scheduler.LRScheduler:
    return lr_scheduler.CosineAnnealingLR(optimizer, epochs * num_steps())


def test_names_objects_lists_files_and_torch_train_alike(tmp_path: Path) -> None:
    total = 4 * num_steps()
    rates = [Cosine().rate(position, total, 0.1) for position in range(total)]
    (tmp_path / "found.json").write_text(json.dumps({"lr": rates}))
    want, shown = trained("cosine")
    assert want != trained(None)[0]
    assert [line["lr"] for line in shown] == rates[num_steps() - 1 :: num_steps()]
    for given in (Cosine(), rates, {"lr": rates}, str(tmp_path / "found.json")):
        assert trained(given)[0] == want
    assert trained(TorchSchedule(by_torch, by="step"))[0] == pytest.approx(want, rel=1e-6)


def test_schedules_by_epoch() -> None:
    _, shown = trained(SCHEDULES["linear"](by="epoch"))
    assert [line["lr"] for line in shown] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    _, shown = trained(lambda optimizer: lr_scheduler.StepLR(optimizer, 2, 0.5))
    assert [line["lr"] for line in shown] == pytest.approx([0.1, 0.1, 0.05, 0.05])


def test_groups_keep_the_ratio_of_their_rates() -> None:
    def groups(model: nn.Module) -> list[dict[str, Any]]:
        first, *others = model.parameters()
        return [{"params": [first]}, {"params": others, "lr": 0.2}]

    for given in (Linear(by="epoch"), {"lr": [0.1, 0.075, 0.05, 0.025], "by": "epoch"}):
        _, shown = trained(given, parameter_groups=groups)
        assert [line["lr_group_1"] for line in shown] == pytest.approx([0.2, 0.15, 0.1, 0.05])


def test_plateaus_get_the_validation_loss_or_metric() -> None:
    for mode in ("min", "max"):
        _, shown = trained(
            lambda optimizer, mode=mode: lr_scheduler.ReduceLROnPlateau(
                optimizer, mode, patience=0, threshold=10.0, threshold_mode="abs"
            )
        )
        rates = [line["lr"] for line in shown]
        assert rates[0] == 0.1
        assert rates[-1] == pytest.approx(0.001)


KINDS: dict[str, Any] = {
    "cosine": "cosine",
    "one cycle": TorchSchedule(
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=4 * num_steps()),
        by="step",
    ),
    "sequence": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2),
            lr_scheduler.MultiStepLR(optimizer, [1]),
        ],
        [2],
    ),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_continues_the_schedule(kind: str, tmp_path: Path) -> None:
    want, shown = trained(KINDS[kind])

    class Stop(Callback):
        def on_epoch_end(self, trainer: gt.Trainer, epoch: int, metrics: Any) -> None:
            if epoch == 1:
                trainer.stop()

    trained(KINDS[kind], run_dir=tmp_path, callbacks=[Stop()])
    got, rest = trained(KINDS[kind], run_dir=tmp_path)
    assert got == want
    assert rest == shown[2:]


def test_other_lengths_and_schedules_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained("cosine", run_dir=tmp_path, epochs=1)
    trained("cosine", run_dir=tmp_path, epochs=2)
    assert "planned for 1 epochs, and goes on by the curve for 2" in caplog.text
    trained([0.1] * 99, run_dir=tmp_path, epochs=3)
    assert "started with Cosine(" in caplog.text
    assert "goes on with RateList(99 rates of hash" in caplog.text


OTHER = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
ODD: list[tuple[Any, str]] = [
    ("cosin", "schedule .*: expected one of constant, cosine, .*got 'cosin'"),
    (3, "schedule .*got int"),
    (lambda optimizer: 3, "got a function that returns int"),
    (lr_scheduler.StepLR(OTHER, 2), "scheduler of the trainer's optimiser, got one of another"),
    (TorchSchedule(lr_scheduler.ReduceLROnPlateau, by="step"), "expected by='epoch' with Reduce"),
]


def test_an_optimiser_without_a_learning_rate_has_no_schedule() -> None:
    class Free(torch.optim.SGD):
        def __init__(self, params: Any) -> None:
            super().__init__(params, 0.1)
            del self.param_groups[0]["lr"]

    free = Free(nn.Linear(2, 2).parameters())
    assert LearningRate(None, free).rates() == {}
    with pytest.raises(ConfigError, match="a learning rate 'lr' in each group, got Free without"):
        LearningRate("cosine", free)


@pytest.mark.parametrize(("given", "words"), ODD)
def test_other_schedules_are_refused(given: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LearningRate(given, torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1))


# -- accumulation ---------------------------------------------------------------------------------


def test_accumulated_batches_are_one_larger_batch() -> None:
    options: dict[str, Any] = {"optimizer": "sgd", "lr": 0.5}

    def work(comm: Communicator, size: int, accumulate: int) -> torch.Tensor:
        shard = gt.open_shard(GRAPH, comm)
        model = gt.nn.GCN(3, 4, 4, weighted=False, dropout=0.0).double()
        mine = gt.Trainer(
            model, shard, strategy=gt.MiniBatch(size), accumulate=accumulate, **options
        )
        mine.fit(2)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    want = work(SingleCommunicator(), 6, 1)
    for workers in (1, 3):
        got = gt.run_local(lambda comm: work(comm, 2, 3), workers=workers, timeout_s=60)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_accumulation_is_refused_with_micro_batches() -> None:
    shard = gt.open_shard(GRAPH)
    with pytest.raises(ConfigError, match="expected accumulate=1 with groups or micro_batches"):
        gt.Trainer(gt.nn.GCN(3, 4, 4), shard, accumulate=2, micro_batches=2)
