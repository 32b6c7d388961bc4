"""Trainer: learning, best epoch, files, checkpoints and resuming."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.data.schema import matrix_column
from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.inference.whole import infer
from graphtheta.run.prediction_writer import write_predictions
from graphtheta.train.run_dir import RunDirectory


def small_graph(**labels: pa.Array) -> gt.Graph:
    rng = np.random.default_rng(3)
    n, e = 60, 300
    columns = labels or {"label:y": pa.array(rng.integers(0, 3, n))}
    nodes = {
        "id": pa.array([f"n{i:02d}" for i in rng.permutation(n)]),
        "features": matrix_column(rng.standard_normal((n, 6)).astype(np.float32)),
        "split:split": pa.array((np.arange(n) % 4).astype(np.int8)),
        **columns,
    }
    edges = {"src": rng.integers(0, n, e), "dst": rng.integers(0, n, e)}
    return gt.Graph(pa.table(nodes), pa.table(edges))


GRAPH = small_graph()


def trainer(comm: Communicator, run_dir: Path | None = None, **options: Any) -> gt.Trainer:
    shard = gt.open_shard(GRAPH, comm, method="dbh")
    model = gt.nn.GCN(shard.num_features, 8, shard.num_classes, batch_norm=True)
    directory = RunDirectory(run_dir, resume=True) if run_dir else None
    return gt.Trainer(model, shard, run_dir=directory, **{"lr": 0.05, **options})


def local(work: Any, workers: int = 2) -> Any:
    return gt.run_local(work, workers=workers, timeout_s=60)


def test_repr_shows_what_is_trained() -> None:
    mine = trainer(SingleCommunicator(), strategy=gt.MiniBatch(5, [3, None]))
    assert repr(mine) == (
        "Trainer(GCN, label y, split split, MiniBatch(batch_size=5, fanouts=(3, None), "
        "replace=False, weight=None), 1 worker, 0 epochs trained)"
    )
    assert repr(mine.groups) == "Groups(index=0/1, comm=SingleCommunicator(rank=0/1))"
    assert repr(gt.ClusterBatch(3, only=[1])) == (
        "ClusterBatch(clusters_per_batch=3, boundary_hops=0, communities='leiden', only=[1], "
        "renormalise=False)"
    )


def test_fit_lowers_the_loss_and_summarises() -> None:
    summary = local(lambda comm: trainer(comm).fit(30))
    losses = summary["loss_history"]
    assert len(losses) == 30
    assert losses[-1] < 0.8 * losses[0]
    assert {
        "test_accuracy", "val_accuracy", "best_epoch", "epoch_seconds", "phase_seconds",
        "bytes_sent", "peak_rss_bytes", "workers", "threads", "seed", "store_checksum", "versions",
    } <= set(summary)  # fmt: skip
    assert summary["workers"] == 2
    assert summary["bytes_sent"] > 0
    assert {"median", "p10", "p90"} == set(summary["epoch_seconds"])
    assert "forward layer 0 sync" in summary["phase_seconds"]


def test_best_epoch_is_the_first_of_the_best_validation(tmp_path: Path) -> None:
    summary = local(lambda comm: trainer(comm, tmp_path).fit(25))
    lines = [json.loads(s) for s in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = max(line["val_accuracy"] for line in lines)
    first = next(line for line in lines if line["val_accuracy"] == best)
    assert summary["best_epoch"] == first["epoch"]
    assert summary["test_accuracy"] == first["test_accuracy"]


def test_after_fit_the_model_holds_the_best_weights() -> None:
    def work(comm: Communicator) -> tuple[float, float]:
        mine = trainer(comm)
        summary = mine.fit(25)
        return summary["val_accuracy"], mine.evaluate()["val_accuracy"]

    best, now = local(work)
    assert now == best


def test_patience_ends_training_early() -> None:
    summary = local(lambda comm: trainer(comm, patience=3).fit(200))
    assert summary["epochs"] == summary["best_epoch"] + 1 + 3


def test_second_fit_continues_from_the_last_epoch(tmp_path: Path) -> None:
    whole = local(lambda comm: trainer(comm).fit(14))
    assert whole["best_epoch"] < 13

    def twice(comm: Communicator) -> tuple[dict[str, Any], dict[str, Any]]:
        mine = trainer(comm, tmp_path)
        mine.fit(9)
        first = mine.fit(9)  # all epochs are done already
        return first, mine.fit(14)

    first, second = local(twice)
    assert first["loss_history"] == whole["loss_history"][:9]
    assert second["loss_history"] == whole["loss_history"]
    assert second["best_epoch"] == whole["best_epoch"]

    def resumed(comm: Communicator) -> dict[str, Any]:
        mine = trainer(comm, tmp_path)
        mine.resume()
        result: dict[str, Any] = mine.fit(16)
        return result

    assert local(resumed)["loss_history"] == local(lambda c: trainer(c).fit(16))["loss_history"]


def test_second_fit_keeps_weights_that_the_caller_set() -> None:
    mine = trainer(gt.communicator())
    mine.fit(14)
    for parameter in mine.model.parameters():
        torch.nn.init.zeros_(parameter)
    mine.fit(15)
    assert mine.history.loss[14] == pytest.approx(np.log(3), rel=1e-3)


@pytest.mark.parametrize("evaluate_every", [1, 3])
@pytest.mark.parametrize("kind", ["no validation", "one class"])
def test_without_a_validation_metric_the_last_epoch_is_best(kind: str, evaluate_every: int) -> None:
    split, labels = np.arange(60) % 4, np.random.default_rng(1).random(60) > 0.5
    if kind == "no validation":
        split[split == 2] = 0
    labels[split == 2] = False
    made = small_graph(**{"label:y": pa.array(labels)})
    column = made.nodes.column_names.index("split:split")
    nodes = made.nodes.set_column(column, "split:split", pa.array(split.astype(np.int8)))
    shard = gt.open_shard(gt.Graph(nodes, made.edges))
    model = gt.nn.GCN(shard.num_features, 8, 1)
    mine = gt.Trainer(model, shard, patience=2, evaluate_every=evaluate_every)
    summary = mine.fit(11)
    assert (summary["epochs"], summary["best_epoch"]) == (11, 10)
    assert "test_auroc" in summary
    assert (mine.evaluate()["train_loss"] == summary["train_loss"]) == (evaluate_every == 1)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 3)])
def test_resume_continues_as_if_never_stopped(before: int, after: int, tmp_path: Path) -> None:
    whole = local(lambda comm: trainer(comm, tmp_path / "whole").fit(12), before)
    local(lambda comm: trainer(comm, tmp_path / "cut").fit(7), before)

    def go_on(comm: Communicator) -> dict[str, Any]:
        mine = trainer(comm, tmp_path / "cut")
        assert mine.resume() == 7
        return mine.fit(12)

    resumed = local(go_on, after)
    assert resumed["loss_history"] == pytest.approx(whole["loss_history"], rel=1e-4)
    assert resumed["best_epoch"] == whole["best_epoch"]
    epochs = [
        json.loads(line)["epoch"]
        for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    ]
    assert epochs == list(range(12))


def test_resume_drops_epochs_after_the_checkpoint(tmp_path: Path) -> None:
    def stop_late(comm: Communicator) -> None:
        mine = trainer(comm, tmp_path, checkpoint_every=4)
        mine.save = lambda epochs: None if epochs != 4 else gt.Trainer.save(mine, epochs)  # type: ignore[method-assign]
        mine.fit(6)

    local(stop_late)

    def go_on(comm: Communicator) -> int:
        mine = trainer(comm, tmp_path)
        done = mine.resume()
        mine.fit(8)
        return done

    assert local(go_on) == 4
    epochs = [json.loads(s)["epoch"] for s in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(8))


def test_only_the_last_two_checkpoints_stay(tmp_path: Path) -> None:
    local(lambda comm: trainer(comm, tmp_path, checkpoint_every=2).fit(8))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["epoch-000006", "epoch-000008"]


@pytest.mark.parametrize(
    ("seconds", "kept"), [(1e-9, ["000006", "000007"]), (0.0, ["000007"]), (600.0, ["000007"])]
)
def test_checkpoints_by_time(seconds: float, kept: list[str], tmp_path: Path) -> None:
    local(lambda comm: trainer(comm, tmp_path, checkpoint_seconds=seconds).fit(7))
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == [f"epoch-{epoch}" for epoch in kept]


def test_sigusr1_saves_and_continues_and_sigterm_saves_and_stops(tmp_path: Path) -> None:
    mine = trainer(gt.communicator(), tmp_path)
    epoch = mine._epoch

    def signalled(number: int) -> dict[str, float]:
        if number == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        if number == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return epoch(number)

    mine._epoch = signalled  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as caught:
        mine.fit(50, signals=True)
    assert caught.value.code == 143
    assert mine.history.stop_reason == "signal"
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["epoch-000003", "epoch-000006"]


def test_run_directory_refuses_a_second_run(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path)
    first.write_config({"model": "gcn"})
    RunDirectory(tmp_path)  # a run that was refused before its first epoch leaves only this
    first.metrics.write_text('{"epoch": 0}\n')
    with pytest.raises(ConfigError, match="--resume"):
        RunDirectory(tmp_path)


def test_trainer_refuses_the_folder_of_another_run(tmp_path: Path) -> None:
    def work(comm: Communicator) -> None:
        shard = gt.open_shard(GRAPH, comm)
        gt.Trainer(gt.nn.GCN(6, 4, 3), shard, run_dir=tmp_path / "run").fit(2)

    local(work)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(ConfigError, match="holds a run already"):
        local(work)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_predictions_come_in_the_order_of_the_input_nodes() -> None:
    single = local(lambda comm: trainer(comm).predict(), 1)
    three = local(lambda comm: trainer(comm).predict(), 3)
    assert single.shape == (GRAPH.num_nodes, 3)
    torch.testing.assert_close(three, single, rtol=1e-4, atol=1e-5)


def test_predictions_on_disk_are_keyed_by_original_id(tmp_path: Path) -> None:
    expected = local(lambda comm: trainer(comm).predict(), 1).argmax(1)

    def work(comm: Communicator) -> None:
        mine = trainer(comm)
        outputs = infer(mine.model, mine.shard)
        embeddings = infer(mine.model, mine.shard, embeddings=True)
        write_predictions(outputs, mine.shard, mine.task.spec, tmp_path / "out", embeddings)

    local(work, 3)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [f"part-{rank:05d}.parquet" for rank in range(3)]
    table = pq.read_table(tmp_path / "out")
    found = dict(zip(table["id"].to_pylist(), table["prediction"].to_pylist(), strict=True))
    ids = GRAPH.nodes["id"].to_pylist()
    assert [found[name] for name in ids] == expected.tolist()
    assert len(table["embedding"][0].as_py()) == 8


def test_predictions_refuse_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    mine = trainer(gt.communicator())
    with pytest.raises(ConfigError, match="new or empty directory"):
        write_predictions(infer(mine.model, mine.shard), mine.shard, mine.task.spec, tmp_path)


LABELS: dict[str, pa.Array] = {
    "binary": pa.array(np.arange(60) % 3 == 0),
    "multilabel": matrix_column(np.random.default_rng(0).random((60, 4)) > 0.5),
    "regression": pa.array(np.linspace(-1, 1, 60).astype(np.float32)),
    "several_outputs": matrix_column(
        np.random.default_rng(1).standard_normal((60, 2)).astype(np.float32)
    ),
    "missing": pa.array([None if i % 5 == 0 else i % 3 for i in range(60)], pa.int64()),
}


@pytest.mark.parametrize("kind", list(LABELS))
def test_every_task_trains_the_same_on_any_number_of_workers(kind: str, tmp_path: Path) -> None:
    graph = small_graph(**{"label:t": LABELS[kind]})

    def work(comm: Communicator) -> tuple[dict[str, Any], Path]:
        shard = gt.open_shard(graph, comm, method="edge-hash")
        model = gt.nn.GraphSAGE(shard.num_features, 8, shard.num_classes)
        mine = gt.Trainer(model, shard, lr=0.02)
        summary = mine.fit(8)
        out = tmp_path / f"{kind}-{comm.size}"
        write_predictions(infer(model, shard), shard, mine.task.spec, out)
        return summary, out

    (single, _), (three, folder) = local(work, 1), local(work, 3)
    assert three["loss_history"] == pytest.approx(single["loss_history"], rel=1e-4)
    metric = f"val_{single['metric']}"
    assert three[metric] == pytest.approx(single[metric], rel=1e-3)
    assert pq.read_table(folder).num_rows == 60


def test_trainer_raises_when_no_node_is_in_the_training_split() -> None:
    nodes = GRAPH.nodes.drop(["split:split"]).append_column(
        "split:split", pa.array(np.full(60, 2, np.int8))
    )
    shard = gt.open_shard(gt.Graph(nodes, GRAPH.edges))
    with pytest.raises(GraphFormatError, match="training split"):
        gt.Trainer(gt.nn.GCN(6, 4, 3), shard)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": "adma"}, "optimizer .*got 'adma'"),
        ({"lr": 0.0}, "lr: expected a finite number > 0, got 0.0"),
        ({"lr": float("nan")}, "lr: expected a finite number > 0, got nan"),
        ({"weight_decay": "1"}, "weight_decay: expected a finite number >= 0, got '1'"),
        ({"seed": 1.5}, "seed: expected an integer, got 1.5"),
        ({"patience": -1}, "patience: expected an integer >= 0, got -1"),
        ({"strategy": "mini"}, "expected a strategy such as .*got the name 'mini'"),
        ({"label": "z"}, "label of nodes .*got 'z'"),
        ({"split": "z"}, "split of nodes .*got 'z'"),
    ],
)
def test_trainer_raises_on_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        trainer(gt.communicator(), **options)


def test_fit_raises_unless_epochs_are_a_positive_integer() -> None:
    ready = trainer(gt.communicator())
    for epochs in (1.5, "3", -1, 0, None):
        with pytest.raises(ConfigError, match="epochs: expected an integer"):
            ready.fit(epochs)  # type: ignore[arg-type]


def test_trainer_raises_when_the_outputs_do_not_fit_the_label() -> None:
    shard = gt.open_shard(GRAPH)
    with pytest.raises(ConfigError, match="expected 3 outputs"):
        gt.Trainer(gt.nn.GCN(6, 4, 2), shard).fit(1)


def test_trainer_raises_when_the_loss_is_nan() -> None:
    shard = gt.open_shard(GRAPH)
    model = gt.nn.GCN(6, 4, 3)
    torch.nn.init.constant_(model.convs[0].lin.weight, float("nan"))
    with pytest.raises(ConfigError, match="loss became nan"):
        gt.Trainer(model, shard).fit(1)
