from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.comm import test_mpi
from tests.jobs import run_job

pytestmark = pytest.mark.spawn

DIFFERENT = "the ranks are in different operations"
# Messages that MPI refuses immediately never match here, so the watchdog finds them.
CASES: dict[Callable[..., None], list[str]] = {
    test_mpi.other_stage: [DIFFERENT, "rank 0 waits in 'branch b'", "rank 1 waits in 'branch a'"],
    test_mpi.shorter: [DIFFERENT, "rank 1 waits in 'sync' for rank 0"],
    test_mpi.longer_by_far: [DIFFERENT, "in 'sync' for rank 1"],
    test_mpi.other_collective: ["CollectiveMismatch", "rank 1", "all_reduce", "broadcast"],
    test_mpi.lost_in_a_split: ["rank 1 waits in 'sync' for rank 3", "end of the job"],
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case is test_mpi.other_stage else pytest.mark.slow)
        for case in CASES
    ],
    ids=lambda case: case.__name__,
)
def test_mismatched_job_fails_and_says_who_is_where(case: Callable[..., None]) -> None:
    ranks = 4 if case is test_mpi.lost_in_a_split else 2
    job = run_job([test_mpi.__file__, case.__name__], ranks, launcher="torchrun")
    assert job.code == 1, job.output
    assert all(word in job.output for word in CASES[case]), job.output


def test_long_wait_is_noticed() -> None:
    program = (
        "import time; from graphtheta.comm.torch_distributed import start; "
        "comm = start(notice_s=0.5); "
        "comm.rank or time.sleep(1.2); comm.barrier(stage='epoch 3'); comm.finish()"
    )
    job = run_job(["-c", program], 3, launcher="torchrun")
    assert job.code == 0, job.output
    assert job.output.count("has waited") == 1
    assert "rank 1 has waited 1 s in 'epoch 3' for rank 0\n" in job.output


def test_group_of_the_user_is_used_as_it_is() -> None:
    program = (
        "import torch.distributed as dist; dist.init_process_group('gloo'); "
        "import graphtheta as gt; "
        "comm = gt.communicator(); assert comm.rank == dist.get_rank(); "
        "comm.barrier(stage='both'); dist.barrier(); print('sound')"
    )
    job = run_job(["-c", program], 2, launcher="torchrun")
    assert job.code == 0, job.output
    assert job.output.count("sound") == 2
