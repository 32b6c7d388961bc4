"""Checkpoints within an epoch: a run that continues from one is bit for bit an undisturbed run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.train import saving
from graphtheta.train.run_dir import RunDirectory
from graphtheta.train.saving import Pauses, RunSaver
from graphtheta.train.signals import SignalRequests, Stopped
from tests.graphs import CORNER_GRAPHS, to_graph

GRAPH = to_graph(CORNER_GRAPHS["random"])  # an epoch has 4 steps


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be a pause after every step."""
    monkeypatch.setattr(saving, "_PAUSE_S", 0.0)


def trainer(run_dir: Path, comm: Communicator | None = None, **options: Any) -> gt.Trainer:
    shard = gt.open_shard(GRAPH, comm or gt.communicator())
    model = gt.nn.GCN(shard.num_features + 3, 4, shard.num_classes, dropout=0.5)
    given: dict[str, Any] = {"strategy": gt.MiniBatch(3, [2, 2]), "lr": 0.05, "evaluate_every": 2}
    return gt.Trainer(
        gt.nn.NodeEmbedding(shard, 3, model),
        shard,
        run_dir=RunDirectory(run_dir, resume=True),
        **{**given, **options},
    )


class Failure(Exception):
    pass


class EndAt:
    """Callback that fails, or sends a signal, in a step."""

    def __init__(self, step: int, number: int = 0) -> None:
        self.step, self.number = step, number

    def on_step_end(self, trainer: gt.Trainer, step: int, loss: float) -> None:
        if step == self.step:
            if not self.number:
                raise Failure
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("workers", "step", "options"),
    [
        (1, 13, {"optimizer": "adamw", "weight_decay": 0.01}),
        (1, 14, {"accumulate": 2, "schedule": "cosine", "optimizer": "sgd", "weight_decay": 0.01}),
        (2, 14, {"micro_batches": 2}),
        (2, 2, {"prefetch": 1, "schedule": "linear"}),
    ],
)
def test_continues_within_an_epoch_bit_for_bit(
    workers: int, step: int, options: dict[str, Any], tmp_path: Path
) -> None:
    def fit(comm: Communicator, run: str, *callbacks: Any, seconds: float = 0) -> Any:
        given = {**options, "callbacks": callbacks, "checkpoint_seconds": seconds}
        mine = trainer(tmp_path / run, comm, **given)
        mine.resume()
        if run == "cut" and not callbacks:
            assert mine.resumed_from is not None
            assert mine.resumed_from.name.startswith(f"epoch-{step // 4:06d}-step-")
        summary = mine.fit(5)
        states = [p.tolist() for p in mine.model.parameters()]
        return summary["loss_history"], states, mine.history.steps, mine.history.best

    whole = gt.run_local(lambda comm: fit(comm, "whole"), workers=workers)
    with pytest.raises(Failure):
        gt.run_local(lambda comm: fit(comm, "cut", EndAt(step), seconds=1e-9), workers=workers)
    assert gt.run_local(lambda comm: fit(comm, "cut"), workers=workers) == whole
    lines = ((tmp_path / run / "metrics.jsonl").read_text() for run in ("cut", "whole"))
    assert len({text.count("\n") for text in lines} | {5}) == 1


def test_a_signal_stops_within_an_epoch(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole").fit(4)["loss_history"]
    mine = trainer(tmp_path / "run", callbacks=[EndAt(5, signal.SIGTERM)])
    with pytest.raises(Stopped) as stop:
        mine.fit(4, signals=True)
    assert (stop.value.epochs, stop.value.steps, stop.value.code) == (1, 2, 143)
    again, other = trainer(tmp_path / "run"), trainer(tmp_path / "run", strategy=gt.MiniBatch(5))
    for one in (again, other):
        assert one.resume() == 1
        assert one.resumed_from == tmp_path / "run" / "checkpoints" / "epoch-000001-step-000002"
    with pytest.raises(ConfigError, match=r"epochs \(--epochs\) >= 2, since the run continues"):
        again.fit(1)
    with pytest.raises(ConfigError, match="an epoch of 4 steps, since it continues after step 2"):
        other.fit(4)
    assert mine.fit(4)["loss_history"] == pytest.approx(whole)  # rows have made up for updates
    assert again.fit(4)["loss_history"] == whole


def test_pauses_come_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, found = 0.0, []
    monkeypatch.setattr(saving, "_PAUSE_S", 1.0)
    monkeypatch.setattr(saving.time, "monotonic", lambda: now)
    monkeypatch.setattr(saving, "agree_on", lambda *_, **__: (found.append(step), 0, ""))
    mine = trainer(tmp_path)
    saver = RunSaver(None, mine.groups, every=0, seconds=0)
    pauses = Pauses(saver, mine.world, SignalRequests(), lambda _: 200)
    for step in range(200):
        now += 0.01 if step < 150 else 5.0
        pauses.after_step(mine.state(0))
    assert found[:8] == [0, 2, 6, 14, 30, 62, 112, 162]
    assert found[-3:] == [197, 198, 199]
