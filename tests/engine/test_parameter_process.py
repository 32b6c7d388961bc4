"""The commands parameters, train --parameters and status, in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from graphtheta.cli import main
from tests.jobs import running, under_mpiexec
from tests.train.elastic.jobs import small_store

TRAIN = ("--strategy", "mini", "--batch-size", "15", "--fanouts", "3,3", "--micro-batches", "3")

PRELOADED = [  # what the commands import late
    "graphtheta.cli.parameters",
    "graphtheta.cli.train",
    "graphtheta.cli.worker",
    "graphtheta.engine.client.parameters",
    "graphtheta.engine.server.parameter_process",
    "graphtheta.run.group",
]


@contextmanager
def serving(*words: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `graphtheta parameters`, and yield its process and address."""
    command = [sys.executable, "-m", "graphtheta", "parameters", *map(str, words)]
    with running(command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("serving"):
                yield process, line.split()[-1]
                return
        raise AssertionError(f"exit code {process.wait()}")


def finished(program: Sequence[Any], code: int = 0) -> str:
    done = subprocess.run([*map(str, program)], capture_output=True, text=True, timeout=100)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.spawn
def test_groups_of_other_processes_train_the_run(tmp_path: Path) -> None:
    store, run = small_store(tmp_path / "store"), tmp_path / "run"
    train = ["-m", "graphtheta", "train", store]
    alone = ["--run-dir", tmp_path / "alone", "--epochs", 60, *TRAIN]
    finished([sys.executable, *train, *alone])
    with ExitStack() as stack:
        words = (store, "--run-dir", run, "--epochs", 60, *TRAIN)
        process, address = stack.enter_context(serving(*words))
        group = [sys.executable, *train, "--parameters", address, "--timeout", 60]
        first = stack.enter_context(running(group))
        while not (run / "metrics.jsonl").exists():
            time.sleep(0.1)
        assert main(["status", str(run)]) == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert list((run / "checkpoints").iterdir())
        process, _ = stack.enter_context(serving(*words, "--bind", address))
        for one in (process, first):
            assert one.wait(100) == 0
    records = [json.loads((tmp_path / n / "summary.json").read_text()) for n in ("alone", "run")]
    assert records[0]["loss_history"] == records[1]["loss_history"]
    assert records[0]["weights_hash"] == records[1]["weights_hash"]


def forked(folder: Path, name: str, *words: Any) -> BaseProcess:
    """Start a command of graphtheta in a process that is forked with its modules loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *PRELOADED])
    arguments = ([*map(str, words)], folder / f"{name}.log")
    process = context.Process(target=run_command, args=arguments, daemon=True)
    process.start()
    return process


def run_command(words: list[str], log: Path) -> None:
    with log.open("ab", buffering=0) as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    sys.exit(main(words))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.spawn
def test_killed_processes_train_the_same_weights(tmp_path: Path) -> None:
    """A small version of benchmarks/campaign.py, which disturbs a longer run more often."""
    store, run = small_store(tmp_path / "store"), tmp_path / "run"
    words = ["--epochs", 40, "--evaluate-every", 5, "--threads", 1, *TRAIN]
    train = ["train", store, *words, "--run-dir", tmp_path / "alone"]
    assert main([*map(str, train)]) == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    more = ["--lease-seconds", 0.5, "--checkpoint-seconds", 0.2, "--grace", 1, "--bind", address]
    log, groups = tmp_path / "service.log", []

    def serve() -> BaseProcess:
        return forked(tmp_path, "service", "parameters", store, "--run-dir", run, *words, *more)

    def start_group() -> None:
        join = ("train", store, "--parameters", address, "--timeout", 60, "--threads", 1)
        groups.append(forked(tmp_path, f"group{len(groups)}", *join))

    def num_steps() -> int:
        return log.read_text().count('"event": "step"') if log.exists() else 0

    def wait_for_steps(more: int) -> None:
        before = num_steps()
        wait_until(lambda: num_steps() >= before + more)

    service = serve()
    try:
        start_group()
        start_group()
        for _ in range(2):
            wait_for_steps(5)
            groups[-1].kill()
            start_group()
        wait_until(lambda: any(run.glob("checkpoints/*")))
        service.kill()
        service.join()
        service = serve()
        wait_for_steps(5)
        groups[0].kill()
        service.join(60)
        for one in groups:
            one.join(60)
    finally:
        for one in (service, *groups):
            one.kill()
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert service.exitcode == 0, logs
    assert {one.exitcode for one in groups[:-1]} <= {-signal.SIGKILL, 0}, logs
    assert groups[-1].exitcode == 0, logs
    records = [json.loads((tmp_path / n / "summary.json").read_text()) for n in ("alone", "run")]
    assert records[0]["loss_history"] == records[1]["loss_history"]
    assert records[0]["weights_hash"] == records[1]["weights_hash"]


@pytest.mark.slow
@pytest.mark.spawn
def test_a_group_of_two_processes(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    with serving(store, "--run-dir", tmp_path / "run", "--epochs", 5, *TRAIN) as (process, address):
        group = ["-m", "graphtheta", "train", store, "--parameters", address]
        assert "best epoch" in finished(under_mpiexec(group, 2))
        assert process.wait(60) == 0


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    address = "127.0.0.1:1"
    for words, expected in (
        (
            ["train", "cora", "--parameters", address, "--hidden", "3"],
            "--hidden: expected",
        ),
        (["train", "--parameters", address], "train: expected INPUT"),
        (["train", "cora", "--parameters", address, "--resume"], "--resume: expected"),
        (
            ["train", "cora", "--run-dir", str(tmp_path / "r"), "--delay", "2"],
            "expected 0 without a",
        ),
        (["status", str(tmp_path / "no")], "status: expected HOST:PORT"),
        (["status", str(tmp_path)], "expected the directory of a run"),
    ):
        assert main(words) == 2
        assert expected in capsys.readouterr().err
