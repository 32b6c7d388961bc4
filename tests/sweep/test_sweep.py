"""Sweeps: reproducible, continued as if never interrupted, and never lost by a failed trial."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import graphtheta as gt
from graphtheta.cli import main
from graphtheta.errors import ConfigError
from graphtheta.partition import Plan, make_store
from graphtheta.run.resolve import load_config
from graphtheta.run.run import start_run
from graphtheta.sweep.plan import SweepPlan, read_plan
from graphtheta.sweep.run_sweep import run_sweep
from graphtheta.sweep.search import Search
from graphtheta.sweep.trial import Trial, best_trial, read_trials, trial_folder
from tests.graphs import random_graph, to_graph

SPACE = "[space]\nlr = {low = 1e-3, high = 0.1, log = true}\nhidden = [2, 4]\n"
ONE = gt.communicator()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "store"
    make_store(to_graph(random_graph(60, 200)), path, Plan(2, "dbh"))
    return path


def plan_of(store: Path, folder: Path, *, space: str = SPACE, **options: Any) -> SweepPlan:
    file = folder.with_suffix(".toml")
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())
    file.write_text(f'input = "{store}"\nepochs = 3\n{space}[sweep]\n{lines}')
    return read_plan(file, folder)


def results(trials: list[Trial]) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.params, t.value, t.reports) for t in trials]


def test_optuna_is_missing(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"sweep: expected the library optuna.*\[sweep\]"):
        run_sweep(plan_of(store, tmp_path / "sweep"), ONE)
    assert not (tmp_path / "sweep").exists()


def test_interrupted_sweep_continues_as_if_it_was_not(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    whole = run_sweep(plan_of(store, tmp_path / "whole", trials=4, pruner="hyperband"), ONE)
    assert [trial.number for trial in whole] == [0, 1, 2, 3]
    assert whole[0].state == "complete"

    def interrupt(trial: Trial) -> None:
        if trial.number == 2:
            raise KeyboardInterrupt

    part = tmp_path / "part"
    run_sweep(plan_of(store, part, trials=1, pruner="hyperband"), ONE)
    plan = plan_of(store, part, trials=4, pruner="hyperband")
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, ONE, on_begin=interrupt)
    assert [trial.state for trial in read_trials(part)][2:] == ["running"]
    assert results(run_sweep(plan, ONE)) == results(whole)
    assert results(run_sweep(plan, ONE)) == results(whole)  # nothing is left to do
    with pytest.raises(ConfigError, match="expected another file than the one that the sweep"):
        run_sweep(read_plan(part / "plan.toml", part), ONE)
    with pytest.raises(ConfigError, match=r"space.hidden: the sweep in .* \[2, 4\], got \[2\]"):
        run_sweep(plan_of(store, part, space=SPACE.replace(", 4", "")), ONE)


def test_trial_is_the_run_of_its_configuration_on_any_number_of_workers(
    store: Path, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    trials = run_sweep(plan_of(store, tmp_path / "one", trials=3, pruner="none"), ONE)
    plan = plan_of(store, tmp_path / "two", trials=3, pruner="none")
    both = gt.run_local(lambda comm: run_sweep(plan, comm), workers=2)
    assert [t.params for t in both] == [t.params for t in trials]
    assert [t.value for t in both] == pytest.approx([t.value for t in trials], abs=1e-5)
    folder = trial_folder(tmp_path / "one", 2)
    config = load_config(folder).model_copy(update={"run_dir": tmp_path / "again"})
    again = start_run(config, ONE).fit(config.epochs)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["loss_history"] == again["loss_history"]
    assert summary[trials[2].monitor] == trials[2].value
    two = json.loads((trial_folder(tmp_path / "two", 2) / "summary.json").read_text())
    first = json.loads((trial_folder(tmp_path / "two", 0) / "summary.json").read_text())
    assert 0.5 < two["bytes_sent"] / first["bytes_sent"] < 2  # not those of all trials so far


def test_trial_that_fails_is_recorded(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    space = "[space]\nlr = [0.01, 1e30]\n"
    plan = plan_of(store, tmp_path / "sweep", space=space, trials=5, seed=1)
    assert main(["sweep", str(plan.source), "--run-dir", str(plan.folder)]) == 0
    trials = read_trials(plan.folder)
    assert {(trial.params["lr"], trial.state) for trial in trials} >= {
        (0.01, "complete"),
        (1e30, "failed"),
    }
    assert all("the loss became" in trial.error for trial in trials if trial.state == "failed")
    assert best_trial(trials).params == {"lr": 0.01}
    printed, warned = capfd.readouterr()
    assert warned.count("the model does not read") <= 1  # once for all trials
    assert "failed: trainer: expected a finite loss" in printed
    assert "to train it again: graphtheta train --config" in printed
    plan = plan_of(store, tmp_path / "bad", space="[space]\nlr = [1e30]\n", trials=2)
    with pytest.raises(ConfigError, match="expected a trial that succeeds, but all 2 failed"):
        run_sweep(plan, ONE)


def test_trial_is_stopped_when_the_search_gives_it_up(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    asked: list[tuple[int, float]] = []

    def report(self: Search, epoch: int, cost: float) -> bool:
        asked.append((epoch, cost))
        return epoch == 1

    monkeypatch.setattr(Search, "report", report)
    with pytest.raises(ConfigError, match=r"expected sweep\.direction with monitor = 'val_new'"):
        run_sweep(plan_of(store, tmp_path / "new", monitor="val_new"), ONE)
    plan = plan_of(store, tmp_path / "sweep", trials=1, monitor="val_loss")
    (trial,) = run_sweep(plan, ONE)
    assert (trial.state, trial.monitor, trial.higher_is_better) == ("pruned", "val_loss", False)
    assert [epoch for epoch, _ in asked] == [0, 1]
    assert asked[1][1] == trial.value == trial.reports[1]
    summary = json.loads((trial_folder(plan.folder, 0) / "summary.json").read_text())
    assert (summary["epochs"], summary["stop_reason"]) == (2, "callback")
