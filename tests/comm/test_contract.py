from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from graphtheta.comm.single import SingleCommunicator
from graphtheta.comm.threads import run_local
from tests.comm.contract import CHECKS, Check
from tests.jobs import run_job

RUNNERS: dict[str, Callable[[Check], None]] = {
    "single": lambda check: check(SingleCommunicator()),
    "one_worker": partial(run_local, workers=1),
    "two_threads": partial(run_local, workers=2),
    "three_threads": partial(run_local, workers=3),
    "five_threads": partial(run_local, workers=5),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("runner", RUNNERS)
def test_communicator_keeps_contract(runner: str, check: str) -> None:
    RUNNERS[runner](CHECKS[check])


@pytest.mark.spawn
@pytest.mark.parametrize(
    ("launcher", "ranks", "options"),
    [
        ("mpiexec", 2, ()),
        pytest.param("mpiexec", 4, (), marks=pytest.mark.slow),
        ("mpiexec", 3, ("--check",)),
        pytest.param("torchrun", 2, (), marks=pytest.mark.slow),
        ("torchrun", 3, ("--check",)),
    ],
)
def test_processes_keep_contract(launcher: str, ranks: int, options: tuple[str, ...]) -> None:
    job = run_job(["tests/comm/contract.py", *options], ranks, launcher=launcher)
    assert job.code == 0, job.output
    assert f"{len(CHECKS)} checks passed on {ranks} ranks" in job.output
