"""The Slurm script, with stand-ins for Slurm's commands and for graphtheta."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs import Finished, run

pytestmark = pytest.mark.spawn

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "deploy" / "slurm.sh"
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*"
"""
# With --until-signal it tells the script that time is up, and trains until it is told to stop.
GRAPHTHETA = """#!/bin/bash
echo "graphtheta $*"
if [[ $* == *--until-signal* ]]; then
    trap 'echo checkpoint; exit 0' USR1
    kill -USR1 $PPID
    while true; do sleep 0.05; done
fi
[[ $* == *--start* ]] && touch "$4/config.toml"
[[ $* == *--fail* ]] && exit 2
exit 0
"""


def submit(tmp_path: Path, *options: str, job: str = "7", **variables: str) -> Finished:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "graphtheta": GRAPHTHETA}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {"SLURM_JOB_ID": job, "SLURM_CPUS_PER_TASK": "4", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    env |= variables
    run_dir = tmp_path / "run"
    run_dir.mkdir(exist_ok=True)
    return run([SCRIPT, "store", run_dir, *options], env=env, timeout_s=30)


def test_script_checks_then_trains(tmp_path: Path) -> None:
    job = submit(tmp_path, "--model", "gat")
    assert job.code == 0, job.output
    assert job.output.splitlines() == [
        "graphtheta doctor",
        f"graphtheta train store --run-dir {tmp_path / 'run'} --resume auto --model gat",
    ]


def test_script_passes_the_exit_code_on(tmp_path: Path) -> None:
    assert submit(tmp_path, "--fail").code == 2


def test_script_requeues_a_started_run_that_fails_but_not_for_ever(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        job = submit(tmp_path, "--start", "--fail")
        assert job.code == 2, job.output
        assert f"({count} of 3)" in job.output
        assert job.output.endswith("scontrol requeue 7\n")
    job = submit(tmp_path, "--start", "--fail")
    assert job.code == 2
    assert "scontrol" not in job.output
    assert "giving up after 3 requeues" in job.output
    assert "scontrol requeue 8" in submit(tmp_path, "--start", "--fail", job="8").output
    job = submit(tmp_path, "--start", "--fail", job="9", GRAPHTHETA_REQUEUES="0")
    assert "scontrol" not in job.output


def test_script_does_not_requeue_a_run_that_is_refused(tmp_path: Path) -> None:
    assert "scontrol" not in submit(tmp_path, "--fail").output


def test_script_checkpoints_and_requeues_before_the_time_limit(tmp_path: Path) -> None:
    job = submit(tmp_path, "--until-signal")
    assert job.code == 0, job.output
    assert job.output.splitlines()[-2:] == ["checkpoint", "scontrol requeue 7"]


def test_script_refuses_to_run_outside_slurm(tmp_path: Path) -> None:
    job = submit(tmp_path, job="")
    assert job.code == 2
    assert "sbatch" in job.output
