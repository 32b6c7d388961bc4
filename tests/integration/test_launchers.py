"""Training by real processes is that of one worker, whatever starts them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import graphtheta as gt
from tests.integration.train_job import train
from tests.jobs import LAUNCHERS, run_job
from tests.nn.steps import assert_equal

pytestmark = pytest.mark.spawn


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(("name", "method"), [("gat_edges", "dbh"), ("sage_max", "node-hash")])
def test_training_same_as_single(launcher: str, name: str, method: str) -> None:
    want = gt.run_local(lambda comm: train(comm, name, method), workers=1)
    job = run_job(["tests/integration/train_job.py", name, method], 2, launcher=launcher)
    assert job.code == 0, job.output
    (line,) = [line for line in job.output.splitlines() if line.startswith("{")]
    for key, values in json.loads(line).items():
        assert_equal(values, want[key], 1e-8)


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
