"""Groups of real processes train as one worker does, and end together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import graphtheta as gt
from tests.integration.groups_job import train
from tests.jobs import run_job
from tests.nn.steps import assert_equal

pytestmark = pytest.mark.spawn
JOB = "tests/integration/groups_job.py"


@pytest.mark.parametrize(
    ("launcher", "ranks", "groups", "prefetch"),
    [("mpiexec", 2, 2, 0), ("mpiexec", 4, 2, 2), ("torchrun", 2, 2, 2)],
)
def test_training_same_as_single(launcher: str, ranks: int, groups: int, prefetch: int) -> None:
    want = gt.run_local(lambda comm: train(comm, 1, 0), workers=1)
    words = [JOB, str(groups), str(prefetch)]
    job = run_job(words, ranks, launcher=launcher, timeout_s=120)
    assert job.code == 0, job.output
    (line,) = [line for line in job.output.splitlines() if line.startswith("{")]
    found = json.loads(line)
    assert_equal(found["loss_history"], want["loss_history"], 1e-9)
    taken = found["micro_batches_by_group"]
    assert len(taken) == groups
    assert sum(taken) == sum(want["micro_batches_by_group"])


def test_a_rank_of_another_group_that_fails_ends_the_job() -> None:
    job = run_job([JOB, "2", "0", "3"], 4)
    assert job.code == 1, job.output
    assert "error: rank 3" in job.output
    assert "RuntimeError: this rank fails" in job.output


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
    # Another number of groups goes on with the run; another number of micro-batches does not.
    more: list[str | Path] = ["--epochs", "4", "--resume", "--run-dir", run_dir]
    job = run_job([*words, *more, "--groups", "1"], 2, env=env, timeout_s=120)
    assert job.code == 0, job.output
    job = run_job([*words, *more, "--micro-batches", "5"], 2, env=env, timeout_s=120)
    assert job.code == 2
    assert "--micro-batches: the run" in job.output
    job = run_job([*words, "--groups", "3", "--run-dir", tmp_path / "new"], 2, env=env)
    assert job.code == 2
    assert "groups: expected a number that divides 2 workers, got 3" in job.output
