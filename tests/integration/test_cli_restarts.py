"""Jobs that are started again with the command they were started with, as docs/deploy does."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.cli import (  # noqa: F401  # fixtures
    Run,
    command,
    cora,
    elsewhere,
)
from tests.jobs import running

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
COMMANDS = {
    "graphtheta-train.service": r"exec \"\$VENV/bin/graphtheta\" (train .*?)'\n",
    "train.yaml": r"exec graphtheta (train .*?)\n +env:",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_of_deploy_start_and_resume(
    name: str, command: Run, tmp_path: Path, cora: Path
) -> None:
    text = (DEPLOY / name).read_text().replace("\\\n", " ")
    found = re.search(COMMANDS[name], text, re.DOTALL)
    assert found is not None
    places = {"$STORE": cora, "/store": cora, "$RUN_DIR": tmp_path / "run", "/runs/run": "run"}
    words = [places.get(word, word) for word in shlex.split(found[1])]
    for epochs in (1, 2):
        result = command(*words, "--epochs", epochs)
        assert result.code == 0, result.err
        assert ("continues from " in result.out) == (epochs == 2)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 2


TORCHRUN = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
LAUNCH = [sys.executable, "-m", "graphtheta", "launch", "-n", "2", "--restarts", "3"]
WORDS = "--strategy mini --batch-size 2 --fanouts 5,5 --epochs 4 --checkpoint-seconds 0.5"


@pytest.mark.slow
@pytest.mark.spawn
@pytest.mark.parametrize(
    ("start", "variable"),
    [
        ([*TORCHRUN, *"--standalone --nproc-per-node 2 --max-restarts 3".split()], "RANK"),
        (LAUNCH, "PMI_RANK"),
    ],
    ids=["torchrun", "launch"],
)
def test_killed_rank_ends_as_if_nothing_happened(
    start: list[str], variable: str, tmp_path: Path, cora: Path
) -> None:
    def job(run_dir: Path, kills: bool) -> Any:
        module = ["-m", "graphtheta"] if variable == "RANK" else []
        words = ["train", cora, *WORDS.split(), "--run-dir", run_dir, "--resume", "auto"]
        with running([*start, *module, *words]) as process:
            if kills:
                wait_for_checkpoint(run_dir, "epoch-00000[01]*")
                rank(process.pid, variable, "1").send_signal(signal.SIGKILL)
            output, _ = process.communicate(timeout=170)
        assert process.returncode == 0, output
        assert ("continues from" in output) == kills, output
        summary = json.loads((run_dir / "summary.json").read_text())
        return summary["loss_history"], summary["weights_hash"]

    assert job(tmp_path / "killed", True) == job(tmp_path / "whole", False)


def wait_for_checkpoint(run_dir: Path, pattern: str) -> None:
    until = time.monotonic() + 60
    while not list((run_dir / "checkpoints").glob(pattern)):
        assert time.monotonic() < until
        time.sleep(0.05)


def rank(launcher: int, variable: str, number: str) -> psutil.Process:
    """Return the process of a rank among those that a launcher has started."""
    for process in psutil.Process(launcher).children(recursive=True):
        if process.environ().get(variable) == number and "train" in process.cmdline():
            return process
    pytest.fail(f"no process with {variable}={number}")
