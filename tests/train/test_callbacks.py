"""Callbacks and loggers: what they get, stopping, errors and files."""

from __future__ import annotations

import csv
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError
from graphtheta.train.callbacks import Callback, CSVLogger, MLflowLogger, WandbLogger
from tests.graphs import random_graph, to_graph

GRAPH = to_graph(random_graph(30, 90))


def trainer(comm: Communicator | None = None, **options: Any) -> gt.Trainer:
    shard = gt.open_shard(GRAPH, comm or SingleCommunicator())
    model = gt.nn.GCN(3, 4, 4, weighted=False)
    return gt.Trainer(model, shard, strategy=gt.MiniBatch(2), **options)


class Recorder:
    """Callback that records what is called."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def on_fit_begin(self, trainer: gt.Trainer, epochs: int) -> None:
        self.calls.append(("fit", epochs))

    def on_epoch_begin(self, trainer: gt.Trainer, epoch: int) -> None:
        self.calls.append(("epoch", epoch))

    def on_step_begin(self, trainer: gt.Trainer, step: int) -> None:
        self.calls.append(("step", step))

    def on_step_end(self, trainer: gt.Trainer, step: int, loss: float) -> None:
        assert loss > 0
        self.calls.append(("step end", step))

    def on_epoch_end(self, trainer: gt.Trainer, epoch: int, metrics: dict[str, float]) -> None:
        assert metrics["loss"] == trainer.history.loss[-1]
        metrics["more"] = 7.0
        self.calls.append(("epoch end", epoch))

    def on_fit_end(self, trainer: gt.Trainer, summary: Mapping[str, Any]) -> None:
        self.calls.append(("end", summary["stop_reason"]))


class Logs:
    """Logger that keeps what it gets."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.num_closed = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.lines.append((step, dict(metrics)))

    def close(self) -> None:
        self.num_closed += 1


@pytest.mark.parametrize("options", [{}, {"micro_batches": 3}, {"accumulate": 2}])
def test_callbacks_are_called_on_all_workers(options: dict[str, Any]) -> None:
    def work(comm: Communicator) -> tuple[Recorder, Logs, int]:
        mine, logs = Recorder(), Logs()
        ready = trainer(comm, callbacks=[mine], loggers=[logs], **options)
        ready.fit(2)
        assert bool(logs.lines) == (comm.rank == 0)
        return mine, logs, ready.history.steps

    found, logs, steps = gt.run_local(work, workers=2, timeout_s=60)
    per_epoch = steps // 2
    assert per_epoch > 1

    def epoch(number: int) -> list[tuple[Any, ...]]:
        first = number * per_epoch
        numbers = range(first, first + per_epoch)
        inner = [call for n in numbers for call in (("step", n), ("step end", n))]
        return [("epoch", number), *inner, ("epoch end", number)]

    assert found.calls == [("fit", 2), *epoch(0), *epoch(1), ("end", "epochs")]
    assert [step for step, _ in logs.lines] == [0, 1]
    assert {"loss", "seconds", "lr", "val_accuracy", "more"} <= set(logs.lines[0][1])
    assert logs.num_closed == 1


class Stopper(Callback):
    def on_step_end(self, trainer: gt.Trainer, step: int, loss: float) -> None:
        if trainer.history.loss and trainer.comm.rank == trainer.comm.size - 1:
            trainer.stop()  # on one worker


def test_a_callback_ends_training_on_all_workers(tmp_path: Path) -> None:
    def work(comm: Communicator) -> dict[str, Any]:
        mine = trainer(comm, callbacks=[Stopper()], run_dir=tmp_path / "run")
        summary = mine.fit(9)
        assert mine.history.stop_reason == "callback"
        return summary

    summary = gt.run_local(work, workers=2, timeout_s=60)
    assert (summary["epochs"], summary["stop_reason"]) == (2, "callback")
    saved = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert saved["stop_reason"] == "callback"


def test_patience_is_a_reason_to_stop() -> None:
    assert trainer(patience=0).fit(99)["stop_reason"] == "patience"


def test_signals_are_left_alone_unless_requested() -> None:
    handlers: list[Any] = []

    class Look(Callback):
        def on_epoch_begin(self, trainer: gt.Trainer, epoch: int) -> None:
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    ready = trainer(callbacks=[Look()])
    ready.fit(1)
    ready.fit(2, signals=True)
    assert handlers[0] == before
    assert handlers[1] != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_of_one_callback_ends_all_workers() -> None:
    logs = Logs()

    class Broken(Callback):
        def on_step_begin(self, trainer: gt.Trainer, step: int) -> None:
            if trainer.comm.rank == 1 and step == 1:
                raise ValueError("broken callback")

    def work(comm: Communicator) -> None:
        trainer(comm, callbacks=[Broken()], loggers=[logs]).fit(3)

    with pytest.raises(Exception, match="broken callback"):
        gt.run_local(work, workers=2, timeout_s=60)
    assert logs.num_closed == 1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_goes_on_after_an_interruption(accumulate: int) -> None:
    ready = trainer(accumulate=accumulate, optimizer="sgd", lr=0.5)
    parameter = next(ready.model.parameters())

    def interrupted(gradient: Any) -> None:
        handle.remove()
        raise KeyboardInterrupt

    handle = parameter.register_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        ready.fit(1)
    found = ready.fit(8)["loss_history"]
    assert found == trainer(accumulate=accumulate, optimizer="sgd", lr=0.5).fit(8)["loss_history"]


class Misspelt:
    def on_epoch_ends(self, trainer: Any) -> None: ...


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"callbacks": [Misspelt()]}, "got Misspelt with the method on_epoch_ends"),
    ({"callbacks": [3]}, "got int with none of them"),
    ({"callbacks": [Callback]}, "got Callback with a class; construct an object"),
    ({"loggers": [print]}, r"expected loggers with log\(metrics, step\), got print"),
    ({"loggers": [CSVLogger]}, "got CSVLogger"),
]


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_other_objects_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        trainer(**options)


# -- loggers --------------------------------------------------------------------------------------


def test_csv_file_grows_columns_and_replaces_later_epochs(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.csv"
    first = CSVLogger(path)
    for step in range(4):
        first.log({"loss": 1.0 / (step + 1)} | ({"val": 0.5} if step == 2 else {}), step)
    again = CSVLogger(path)
    again.log({"loss": 9.0, "lr": 0.1}, 3)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["val"] for row in rows] == ["", "", "0.5", ""]
    assert (rows[3]["loss"], rows[3]["lr"], rows[0]["lr"]) == ("9.0", "0.1", "")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"expected a table of metrics .* another file"):
        CSVLogger(path).log({"loss": 1.0}, 0)


@pytest.mark.parametrize(("kind", "package"), [(MLflowLogger, "mlflow"), (WandbLogger, "wandb")])
def test_a_tracker_that_is_not_installed_is_one_line(
    kind: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"expected the package {package} .* pip install"):
        kind("name").log({"loss": 1.0}, 0)


class Tracker:
    """Stand-in for the modules mlflow and wandb."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.run: Any = None

    def active_run(self) -> Any:
        return self.run

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            return SimpleNamespace(log=self.log, finish=self.finish)

        return call


def test_trackers_log_to_their_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow, wandb = Tracker(), Tracker()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    loggers = [
        MLflowLogger("cora", tracking_uri="runs", run_name="a"),
        WandbLogger("cora", mode="offline"),
    ]
    for logger in loggers:
        logger.log({"loss": 1.0}, 0)
        logger.log({"loss": 0.5}, 1)
        logger.close()
    names = ["set_tracking_uri", "set_experiment", "start_run", "log_metrics", "log_metrics"]
    assert [name for name, *_ in mlflow.calls] == [*names, "end_run"]
    assert mlflow.calls[4] == ("log_metrics", ({"loss": 0.5},), {"step": 1})
    assert [name for name, *_ in wandb.calls] == ["init", "log", "log", "finish"]
    mlflow.run = wandb.run = SimpleNamespace(log=wandb.log)  # of the user, who ends it
    for logger in loggers:
        logger.log({"loss": 1.0}, 0)
        logger.close()
    assert [name for name, *_ in mlflow.calls[6:]] == ["set_tracking_uri", "log_metrics"]
    assert [name for name, *_ in wandb.calls[4:]] == ["log"]
