"""Training by real processes is that of one worker, whatever starts them, also in groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import graphtheta as gt
from tests.integration.train_job import MODELS, train, train_in_groups
from tests.jobs import Finished, run_job
from tests.nn.steps import assert_equal

pytestmark = pytest.mark.spawn


@pytest.fixture(scope="module")
def single() -> dict[str, Any]:
    """What one worker finds in each case."""
    found: dict[str, Any] = {
        name: gt.run_local(lambda comm, case=(name, method): train(comm, *case), workers=1)
        for name, method in MODELS
    }
    found["groups"] = gt.run_local(lambda comm: train_in_groups(comm, 1, 0), workers=1)
    return found


def check(job: Finished, single: dict[str, Any], groups: dict[str, int]) -> None:
    lines = [line for line in job.output.splitlines() if line.startswith("{")]
    assert len(lines) == 1, job.output
    found = json.loads(lines[0])
    for name, _ in MODELS:
        for key, values in found[name].items():
            assert_equal(values, single[name][key], 1e-8)
    for name, number in groups.items():
        assert_equal(found[name]["loss_history"], single["groups"]["loss_history"], 1e-9)
        taken = found[name]["micro_batches_by_group"]
        assert len(taken) == number
        assert sum(taken) == sum(single["groups"]["micro_batches_by_group"])


@pytest.mark.slow  # the same job under mpiexec is not
def test_torchrun_same_as_single(single: dict[str, Any]) -> None:
    job = run_job(["tests/integration/train_job.py"], 2, launcher="torchrun", timeout_s=120)
    assert job.code == 0, job.output
    check(job, single, {"groups_of_two": 2, "groups_of_one": 2})


def test_mpiexec_same_as_single_until_a_rank_of_another_group_fails(
    single: dict[str, Any],
) -> None:
    job = run_job(["tests/integration/train_job.py", "--fail", "3"], 4, timeout_s=120)
    check(job, single, {"groups_of_two": 2, "groups_of_one": 4})
    assert job.code == 1, job.output
    assert "error: rank 3" in job.output
    assert "RuntimeError: this rank fails" in job.output


@pytest.mark.slow
def test_command_line_under_torchrun(tmp_path: Path) -> None:
    run_dir, out = tmp_path / "run", tmp_path / "predictions"
    env = {"GRAPHTHETA_CACHE": str(tmp_path / "cache")}
    words = ["train", "cora", "--run-dir", run_dir, "--epochs", "5"]
    job = run_job(["-m", "graphtheta", *words], 2, launcher="torchrun", env=env)
    assert job.code == 0, job.output
    assert job.output.count("cora: 2,708 nodes, 10,556 edges, 2 workers") == 1, job.output
    assert json.loads((run_dir / "summary.json").read_text())["workers"] == 2
    words = ["predict", run_dir, "cora", "--out", out]
    job = run_job(["-m", "graphtheta", *words], 2, launcher="torchrun", env=env)
    assert job.code == 0, job.output
    assert len(list(out.glob("*.parquet"))) == 2
