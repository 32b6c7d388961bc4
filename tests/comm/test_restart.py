"""Jobs under torchrun that are started again, and jobs of which one host is cut off."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hosts import Hosts, hosts
from tests.jobs import run, running

pytestmark = pytest.mark.spawn

JOB = Path(__file__).parent / "restart_job.py"
TORCHRUN = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]


def run_on(both: Hosts, *options: str, program: list[str], cut: Path | None = None) -> list[str]:
    """Run torchrun on both hosts, and return what each printed.

    Args:
        both: The hosts.
        options: Options of torchrun.
        program: Script and its arguments.
        cut: File whose existence lets the second host be cut off.
    """
    words = [*TORCHRUN, "--nnodes", "2", "--rdzv-backend", "c10d"]
    words += ["--rdzv-endpoint", f"{both.address}:29600", *options, "--no-python", sys.executable]
    env = {"GLOO_SOCKET_IFNAME": "eth0"}
    with ExitStack() as stack:
        jobs = [
            stack.enter_context(running(both.on(host, [*words, *program]), env=env))
            for host in both.names
        ]
        if cut is not None:
            until = time.monotonic() + 60
            while not cut.exists() and time.monotonic() < until:
                time.sleep(0.05)
            both.cut(both.names[1])
        return [job.communicate(timeout=90)[0] for job in jobs]


def test_job_continues_after_a_restart(tmp_path: Path) -> None:
    words = [*TORCHRUN, "--standalone", "--nproc-per-node", "3", "--max-restarts", "1"]
    job = run([*words, "--no-python", sys.executable, JOB, tmp_path / "lost"], timeout_s=90)
    assert job.code == 0, job.output
    assert "error: rank 1" in job.output
    assert "finished with 11\n" in job.output  # the counter starts at 0 again


@pytest.mark.slow
def test_job_on_two_hosts_continues_after_a_restart(tmp_path: Path) -> None:
    # The second host restarts because the first did, which does not count as a restart there.
    options = ["--nproc-per-node", "2", "--max-restarts", "1"]
    with hosts(tmp_path) as both:
        outputs = run_on(both, *options, program=[str(JOB), str(tmp_path / "lost")])
    assert any("finished with 15\n" in output for output in outputs), outputs


@pytest.mark.slow
def test_both_sides_of_a_cut_obey_the_timeout(tmp_path: Path) -> None:
    file = tmp_path / "cut"
    with hosts(tmp_path) as both:
        outputs = run_on(
            both, "--nproc-per-node", "1", program=[str(JOB), str(file), "cut"], cut=file
        )
    for output in outputs:
        assert "ExchangeTimeout" in output, outputs
        assert "on gta" in output
        assert "on gtb" in output
    assert sum("torchrun on " in output for output in outputs) == 1, outputs
