"""Checkpoints: whole or not taken, kept when the disk is full, and written by one run at a time."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.train import checkpoint
from graphtheta.train.checkpoint import latest_checkpoint
from graphtheta.train.run_dir import RunDirectory
from graphtheta.train.weights import load_weights, save_weights
from tests.graphs import CORNER_GRAPHS, to_graph

GRAPH = to_graph(CORNER_GRAPHS["random"])


def trainer(
    run_dir: Path | None, comm: Communicator | None = None, *, embed: bool = False, **options: Any
) -> gt.Trainer:
    shard = gt.open_shard(GRAPH, comm or gt.communicator())
    columns = shard.num_features + 3 * embed
    model: torch.nn.Module = gt.nn.GCN(columns, 4, shard.num_classes)
    model = gt.nn.NodeEmbedding(shard, 3, model) if embed else model
    files = None if run_dir is None else RunDirectory(run_dir, resume=True)
    return gt.Trainer(model, shard, run_dir=files, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints after epochs 2 and 4."""
    run = tmp_path_factory.mktemp("trained") / "run"
    trainer(run, embed=True, checkpoint_every=2).fit(4)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "half removed": lambda newest: (newest / "model.safetensors").unlink(),
    "no list of files": lambda newest: (newest / "files.json").unlink(),
    "list cut short": lambda newest: os.truncate(newest / "files.json", 20),
    "list of another type": lambda newest: (newest / "files.json").write_text("[1]"),
    "flipped bit in weights": lambda newest: flip(newest / "best.safetensors"),
    "flipped bit in the optimiser": lambda newest: flip(newest / "optimizer.safetensors"),
    "flipped bit in numbers": lambda newest: flip(newest / "progress.json"),
    "flipped bit in rows": lambda newest: flip(newest / "model.rows-00000.safetensors"),
    "no rows": lambda newest: (newest / "optimizer.rows-00000.safetensors").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_newest_whole_checkpoint_is_taken_and_named(
    damage: str, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest = run / "checkpoints" / "epoch-000004"
    DAMAGE[damage](newest)
    mine = trainer(run, embed=True)
    assert mine.resume() == 2
    assert mine.resumed_from == run / "checkpoints" / "epoch-000002"
    (line,) = caplog.messages
    assert str(newest) in line
    assert "\n" not in line
    assert mine.fit(5)["epochs"] == 5


def test_only_damaged_checkpoints_are_an_error_of_one_line(run: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        flip(folder / "progress.json")
    with pytest.raises(ConfigError, match="expected a whole checkpoint, got only damaged") as got:
        trainer(run, embed=True).resume()
    assert "\n" not in str(got.value)


def test_other_folders_are_ignored(run: Path) -> None:
    checkpoints = run / "checkpoints"
    for name in ("epoch-000099", "epoch-old", "epoch-000009.bak", ".epoch.partial", "lost+found"):
        (checkpoints / name).mkdir()
    (checkpoints / "epoch-000050").write_text("a file")
    (checkpoints / "epoch-old" / "file").touch()
    assert latest_checkpoint(checkpoints) == checkpoints / "epoch-000004"
    mine = trainer(run, embed=True)
    assert mine.resume() == 4
    mine.fit(5)
    kept = {path.name for path in checkpoints.iterdir()}
    assert {"epoch-000004", "epoch-000005", "epoch-old", "epoch-000099"} <= kept
    assert ".epoch.partial" not in kept
    assert latest_checkpoint(checkpoints) == checkpoints / "epoch-000005"
    assert latest_checkpoint(run / "none") is None


def test_every_epoch_is_saved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saved = []
    monkeypatch.setattr(
        "graphtheta.train.saving.save_checkpoint", lambda _, state: saved.append(state.epochs)
    )
    mine = trainer(tmp_path / "run", checkpoint_every=2)
    mine.fit(4)
    assert "already" not in caplog.text
    caplog.clear()
    mine.fit(4)
    (line,) = caplog.messages
    assert "already trained for 4 epochs; fit(epochs=4) counts them and trains nothing" in line
    assert mine.fit(5)["epochs"] == 5
    assert saved == [2, 4, 5]
    mine.patience = -1
    mine.fit(6)
    assert "already trained for 5 epochs, the last" in caplog.messages[-1]
    assert len(caplog.messages) == 2


def test_rows_of_an_embedding_are_all_there_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"

    def save(comm: Communicator) -> None:
        mine = trainer(tmp_path / "run", comm, embed=True)
        save_weights(mine.model, mine.shard, path)

    def load() -> None:
        mine = trainer(tmp_path / "run", embed=True)
        load_weights(mine.model, mine.shard, path)

    gt.run_local(save, workers=2, timeout_s=60)
    load()
    rows = path.with_name("weights.rows-00001.safetensors")
    content = rows.read_bytes()
    for damage in (rows.unlink, lambda: rows.write_bytes(content[::-1])):
        damage()
        with pytest.raises(ConfigError, match=r"weights\.rows-00001.*expected the rows that were"):
            load()
    rows.write_bytes(content)
    state = safetensors.torch.load_file(path)
    safetensors.torch.save_file(state, path)  # without the list of rows
    with pytest.raises(ConfigError, match="expected weights of this model"):
        load()


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let no file grow beyond a size, so that the kernel's error comes from every writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_full_disk_at_a_checkpoint_is_one_line_and_keeps_the_others(run: Path) -> None:
    mine = trainer(run, embed=True)
    mine.resume()
    with full_disk(700), pytest.raises(ConfigError, match="expected to write") as got:
        mine.save(5)
    assert "\n" not in str(got.value)
    assert "File too large" in str(got.value)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["epoch-000002", "epoch-000004"]
    assert trainer(run, embed=True).resume() == 4


@pytest.mark.parametrize("at", ["rename", "fsync", "mkdir"])
def test_failing_disk_is_one_line(at: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    mine = trainer(run, embed=True)
    mine.resume()
    where: dict[str, tuple[Any, str]] = {
        "rename": (checkpoint, "rename_durably"),
        "fsync": (os, "fsync"),
        "mkdir": (Path, "mkdir"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*where[at], fail)
        with pytest.raises(ConfigError, match=r"expected to write .*No space left on device"):
            mine.save(5)
    assert latest_checkpoint(run / "checkpoints") == run / "checkpoints" / "epoch-000004"


def test_full_disk_at_other_files_of_a_run_is_one_line(run: Path) -> None:
    directory = RunDirectory(run, resume=True)
    writers: list[Callable[[], None]] = [
        lambda: directory.append_metrics({"epoch": 4}),
        lambda: directory.write_config({"model": "gcn"}),
        lambda: directory.write_summary({"epochs": 4}),
    ]
    for write in writers:
        with full_disk(1), pytest.raises(ConfigError, match="expected to write") as got:
            write()
        assert "\n" not in str(got.value)


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first, second = trainer(run), trainer(run)
    epoch = first._epoch

    def while_it_runs(number: int) -> dict[str, float]:
        for start in (lambda: second.fit(1), second.resume):
            with pytest.raises(ConfigError, match="expected no other run that writes it"):
                start()
        return epoch(number)

    first._epoch = while_it_runs  # type: ignore[method-assign]
    first.fit(1)
    assert not (run / "lock").exists()
    assert second.resume() == 1
    assert second.fit(2)["epochs"] == 2
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]


def test_run_that_came_first_is_not_overwritten(tmp_path: Path) -> None:
    """Both look while the directory is free."""
    first, second = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    first.lock()
    first.write_config({"model": "gcn"})
    first.metrics.write_text('{"epoch": 0}\n')
    first.unlock()
    with pytest.raises(ConfigError, match="holds a run already"):
        second.lock()
    assert not (tmp_path / "run" / "lock").exists()


@pytest.mark.parametrize("writes", [True, False])
def test_ctrl_c_saves_as_sigterm_does(writes: bool, tmp_path: Path) -> None:
    mine = trainer(tmp_path / "run" if writes else None)
    epoch = mine._epoch

    def interrupted(number: int) -> dict[str, float]:
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # also from the launcher
        return epoch(number)

    mine._epoch = interrupted  # type: ignore[method-assign]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit if writes else KeyboardInterrupt) as caught:
            mine.fit(50, signals=True)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    if writes:
        assert caught.value.code == 130
        assert trainer(tmp_path / "run").resume() == 3
