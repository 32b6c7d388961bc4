"""The command line in groups of real processes; `test_launchers.py` trains in groups, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs import run_job
from tests.nn.steps import assert_equal

pytestmark = pytest.mark.spawn


@pytest.mark.slow
def test_command_line_in_groups(tmp_path: Path) -> None:
    env = {"GRAPHTHETA_CACHE": str(tmp_path / "cache")}
    words: list[str | Path] = [
        "-m",
        "graphtheta",
        "train",
        "cora",
        "--epochs",
        "3",
        "--strategy",
        "mini",
    ]
    words += ["--batch-size", "70", "--micro-batches", "4"]
    losses = []
    for ranks, groups in ((1, 1), (4, 2)):
        run_dir = tmp_path / f"run-{ranks}"
        job = run_job(
            [*words, "--groups", str(groups), "--run-dir", run_dir], ranks, env=env, timeout_s=120
        )
        assert job.code == 0, job.output
        summary = json.loads((run_dir / "summary.json").read_text())
        assert summary["groups"] == groups
        losses.append(summary["loss_history"])
    assert "4 workers in 2 groups" in job.output
    assert "micro-batches per group: " in job.output
    assert_equal(losses[1], losses[0], 1e-5)
    # Other numbers of groups and micro-batches go on with the run; another batch size does not.
    more: list[str | Path] = ["--epochs", "4", "--resume", "--run-dir", run_dir]
    job = run_job(
        [*words, *more, "--groups", "1", "--micro-batches", "5"], 2, env=env, timeout_s=120
    )
    assert job.code == 0, job.output
    job = run_job([*words, *more, "--batch-size", "71"], 2, env=env, timeout_s=120)
    assert job.code == 2
    assert "--batch-size: the run" in job.output
    job = run_job([*words, "--groups", "3", "--run-dir", tmp_path / "new"], 2, env=env)
    assert job.code == 2
    assert "groups: expected a number that divides 2 workers, got 3" in job.output
