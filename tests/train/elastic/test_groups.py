"""Groups that come and go train the same model as one job."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graphtheta as gt
from graphtheta.errors import ConfigError, VersionGone, WrongServer
from graphtheta.train.elastic import host as host_module
from graphtheta.train.elastic.host import ParameterHost
from graphtheta.train.elastic.ledger import Work
from graphtheta.train.elastic.source import Contribution, GroupName, RowGradient
from graphtheta.train.elastic.terms import terms_of
from graphtheta.train.run_dir import RunDirectory
from tests.train.elastic.jobs import Result, in_groups, one_job, small_store, trainer_of

EPOCHS = 2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("elastic") / "store")


def host_of(
    name: str, store: Path, *, delay: int = 0, epochs: int = EPOCHS, **options: Any
) -> ParameterHost:
    trainer = trainer_of(name, store, gt.communicator(), **options)
    return ParameterHost(trainer, epochs, delay=delay)


def assert_same(got: Result, want: Result, tolerance: float = 0.0) -> None:
    assert got[0]["loss_history"] == pytest.approx(want[0]["loss_history"], rel=tolerance, abs=0)
    for key, value in want[0].items():
        if key.startswith(("val_", "test_", "train_", "best_epoch")):
            assert got[0][key] == pytest.approx(value, rel=tolerance, abs=0), key
    for key, tensor in got[1].items():
        if key in want[1] and tensor.shape == want[1][key].shape:
            torch.testing.assert_close(tensor, want[1][key], rtol=tolerance, atol=tolerance)


SLOW = pytest.mark.slow
CASES = [
    pytest.param("gcn", 3),
    pytest.param("link", 1),
    *(pytest.param(name, n, marks=SLOW) for name, n in [("gcn", 1), ("gate", 1), ("gate", 3)]),
    pytest.param("link", 3, marks=SLOW),
]


@pytest.mark.parametrize(("name", "micro_batches"), CASES)
def test_groups_train_the_same_model_as_one_job_bit_for_bit(
    name: str, micro_batches: int, store: Path
) -> None:
    want = one_job(name, store, EPOCHS, micro_batches=micro_batches)
    for groups in (1, 3):
        host = host_of(name, store, micro_batches=micro_batches)
        for got in in_groups(name, store, host, groups):
            assert_same(got, want)
        host.close()


@pytest.mark.parametrize("name", ["gcn", pytest.param("link", marks=SLOW)])
def test_groups_of_two_workers(name: str, store: Path) -> None:
    same_size = one_job(name, store, EPOCHS, micro_batches=3, workers=2)
    single = one_job(name, store, EPOCHS, micro_batches=3)
    host = host_of(name, store, micro_batches=3)
    for got in in_groups(name, store, host, 2, workers=2):
        assert_same(got, same_size, 0.0 if name == "gcn" else 1e-5)
        assert_same(got, single, 1e-4)
    host.close()


@pytest.mark.parametrize("name", ["gcn", pytest.param("link", marks=SLOW)])
@pytest.mark.parametrize("delay", [1, pytest.param(4, marks=SLOW)])
def test_a_delay_gives_one_curve_for_any_number_of_groups(
    name: str, delay: int, store: Path
) -> None:
    found = []
    for groups in (1, 3):
        host = host_of(name, store, delay=delay, micro_batches=2)
        found += in_groups(name, store, host, groups)
        state = host.status()
        assert max(state["staleness"]) == delay
        assert len(host._versions) <= delay + 2
        host.close()
    for got in found[1:]:
        assert_same(got, found[0])
    assert found[0][0]["loss_history"] != one_job(name, store, EPOCHS)[0]["loss_history"]


@pytest.mark.parametrize("patience", [0, 1])
def test_patience_ends_training_as_in_one_job(patience: int, store: Path) -> None:
    options: dict[str, Any] = {"patience": patience, "lr": 0.2, "evaluate_every": 2}
    want = one_job("gcn", store, 12, **options)
    assert want[0]["stop_reason"] == "patience"
    host = host_of("gcn", store, epochs=12, **options)
    for got in in_groups("gcn", store, host, 2):
        assert_same(got, want)
        assert got[0]["stop_reason"] == "patience"
    host.close()


# -- restarts --------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def resumed(name: str, store: Path, run: Path, epochs: int, delay: int, **options: Any) -> Any:
    files = RunDirectory(run, resume=True)
    trainer = trainer_of(name, store, gt.communicator(), run_dir=files, **options)
    trainer.resume()
    return ParameterHost(trainer, epochs, delay=delay)


@pytest.mark.parametrize(
    ("name", "delay"),
    [
        ("gcn", 2),
        ("link", 0),
        pytest.param("link", 2, marks=SLOW),
        pytest.param("gate", 0, marks=SLOW),
    ],
)
def test_a_host_goes_on_from_its_snapshot_with_the_same_result(
    name: str, delay: int, store: Path, tmp_path: Path
) -> None:
    epochs, options = 3, {"micro_batches": 2, "patience": 9}
    host = host_of(name, store, delay=delay, epochs=epochs, **options)
    (want,) = in_groups(name, store, host, 1)
    host.close()
    steps = host.status()["version"]
    run = tmp_path / "run"
    saved_at, killed_at = iter([2, steps // 2, steps - 1]), 0
    for snapshot_at in saved_at:
        host = resumed(name, store, run, epochs, delay, **options)
        assert host.status()["version"] == killed_at  # the last snapshot
        with pytest.raises(Killed):
            in_groups(name, store, host, 1, source=partial(Killing, host, snapshot_at))
        host.close()
        killed_at = snapshot_at
    host = resumed(name, store, run, epochs, delay, **options)
    (got,) = in_groups(name, store, host, 1)
    host.close()
    assert_same(got, want)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(epochs))
    again = resumed(name, store, run, epochs, delay, **options)  # has nothing to do
    (got,) = in_groups(name, store, again, 1)
    again.close()
    assert_same(got, want)


class Killing:
    """A host that saves a snapshot at a version, and is killed after the next result."""

    def __init__(self, host: ParameterHost, snapshot_at: int) -> None:
        self._host, self._snapshot_at, self._is_saved = host, snapshot_at, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def push(self, *arguments: Any) -> Any:
        if self._is_saved:
            raise Killed
        outcome = self._host.push(*arguments)
        if self._host.status()["version"] == self._snapshot_at:
            self._host.snapshot()
            self._is_saved = True
        return outcome


def test_the_end_waits_for_a_snapshot_on_its_way_to_the_disk(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = resumed("gcn", store, tmp_path / "run", 1, 0)
    group, captured, go = GroupName.new(1), threading.Event(), threading.Event()
    write = host_module.write_checkpoint

    def slow_write(*arguments: Any) -> None:
        captured.set()
        assert go.wait(20)
        write(*arguments)

    monkeypatch.setattr(host_module, "write_checkpoint", slow_write)
    snapshot = threading.Thread(target=host.snapshot)
    snapshot.start()
    assert captured.wait(20)
    timer = threading.Timer(0.3, go.set)
    timer.start()
    while (task := host.next(group)).work is not None:
        if task.work.is_evaluation:
            host.report(group, task.work.version, {"val_accuracy": 0.5})
        else:
            host.push(group, task.work, contribution(host))
    assert go.is_set()
    snapshot.join()
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} >= {"epoch-000001"}
    host.snapshot()  # does nothing
    host.close()


def test_two_hosts_do_not_share_a_run_directory(store: Path, tmp_path: Path) -> None:
    host = resumed("gcn", store, tmp_path / "run", 1, 0)
    with pytest.raises(ConfigError, match="expected no other run that writes it"):
        resumed("gcn", store, tmp_path / "run", 1, 0)
    host.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 2}, "expected accumulate=1"),
        (
            {"schedule": lambda made: torch.optim.lr_scheduler.ReduceLROnPlateau(made)},
            "that does not wait for metrics, got ReduceLROnPlateau",
        ),
    ],
)
def test_a_host_refuses_what_it_cannot_do(
    options: dict[str, Any], message: str, store: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        host_of("gcn", store, **options)


# -- what cannot be used ---------------------------------------------------------------------------


def contribution(host: ParameterHost, **changes: Any) -> Contribution:
    size = host._updates.layout.num_gradients
    return replace(Contribution(1.0, 2.0, np.zeros(size, np.float32), {}), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradients": np.zeros(3, np.float32)}, r"push: expected gradients of shape \(5[0-9],\)"),
        ({"gradients": np.zeros(57)}, "float64"),
        ({"rows": {"w": RowGradient(np.zeros(1), np.zeros((1, 1)), False)}}, "no parameter, got w"),
    ],
)
def test_a_result_of_another_shape_is_refused(
    changes: dict[str, Any], message: str, store: Path
) -> None:
    host, group = host_of("gcn", store), GroupName.new(1)
    task = host.next(group)
    assert task.work is not None
    with pytest.raises(ConfigError, match=message):
        host.push(group, task.work, contribution(host, **changes))
    host.close()


def test_gradients_that_are_not_finite_are_computed_again_and_then_end_the_run(store: Path) -> None:
    host, group = host_of("gcn", store), GroupName.new(1)
    for _ in range(2):
        task = host.next(group)
        assert task.work == Work(0, 0, 0)
        assert host.push(group, task.work, contribution(host, loss=float("nan"))) == "refused"
    with pytest.raises(ConfigError, match="expected finite gradients, but those of micro-batch 0"):
        host.next(group)
    with pytest.raises(ConfigError, match="Lower the learning rate"):
        host.wait(0)
    host.close()


def test_versions_that_are_not_in_flight_are_gone(store: Path) -> None:
    host = host_of("link", store)
    assert len(host.pull(0))
    with pytest.raises(VersionGone, match="expected a version in flight, got 1"):
        host.pull(1)
    with pytest.raises(VersionGone):
        host.pull_rows(1, "encoder.weight", np.arange(3))
    with pytest.raises(ConfigError, match="expected node keys of the graph, got 5000"):
        host.pull_rows(0, "encoder.weight", np.array([1, 5000]))
    with pytest.raises(ConfigError, match="got 'bias'"):
        host.pull_rows(0, "bias", np.array([1]))
    host.close()


def test_results_of_steps_that_are_not_open_do_not_count(store: Path) -> None:
    host, group = host_of("gcn", store), GroupName.new(1)
    assert host.push(group, Work(5, 0, 5), contribution(host)) == "not open"
    assert host.push(group, Work(0, 0, 0), contribution(host)) == "counted"
    assert host.push(group, Work(0, 0, 0), contribution(host)) == "repeated"
    assert host.status()["repeated_results"] == 2
    host.close()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gcn", gt.NodePrediction("y", "split")),
        ("link", gt.LinkPrediction("split", ranking=False)),
    ],
)
def test_columns_that_are_found_and_named_are_the_same(
    name: str, found: gt.NodePrediction | gt.LinkPrediction, store: Path
) -> None:
    host = host_of(name, store)
    trainer = trainer_of(name, store, gt.communicator(), task=found, parameters=host)
    host.join(GroupName.new(1), terms_of(trainer))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 4}, "join: seed: expected '3' of the parameter service, got '4'"),
        ({"strategy": gt.MiniBatch(16, [3, 3])}, "join: strategy: expected"),
    ],
)
def test_a_group_with_other_options_is_refused(
    options: dict[str, Any], message: str, store: Path
) -> None:
    host = host_of("gcn", store)
    trainer = trainer_of("gcn", store, gt.communicator(), parameters=host, **options)
    with pytest.raises(WrongServer, match=message):
        trainer.fit()
    host.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batches": 2}, "expected no micro_batches with parameters"),
        ({"accumulate": 2}, "expected no accumulate"),
        ({"run_dir": "run"}, "expected no run_dir"),
    ],
)
def test_options_of_the_service_are_refused_in_a_group(
    options: dict[str, Any], message: str, store: Path
) -> None:
    host = host_of("gcn", store)
    with pytest.raises(ConfigError, match=message):
        trainer_of("gcn", store, gt.communicator(), parameters=host, **options)
    trainer = trainer_of("gcn", store, gt.communicator(), parameters=host)
    with pytest.raises(ConfigError, match="expected the 2 epochs of the parameter service, got 3"):
        trainer.fit(3)
    host.close()
