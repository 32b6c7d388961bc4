from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from graphtheta.comm.communicator import Communicator
from tests.jobs import run_job

pytestmark = pytest.mark.spawn


def other_stage(comm: Communicator) -> None:
    """Two branches in swapped order on one rank."""
    other, buffer = 1 - comm.rank, np.zeros(2)
    stages = ["branch a", "branch b"]
    for stage in stages if comm.rank else reversed(stages):
        comm.exchange({other: buffer}, {other: buffer.copy()}, stage=stage).wait()


def shorter(comm: Communicator) -> None:
    other = 1 - comm.rank
    comm.exchange({other: np.zeros(1 + comm.rank)}, {other: np.zeros(2)}, stage="sync").wait()


def longer(comm: Communicator) -> None:
    other = 1 - comm.rank
    comm.exchange({other: np.zeros(3 - comm.rank)}, {other: np.zeros(2)}, stage="sync").wait()


def longer_by_far(comm: Communicator) -> None:
    """A message sent by rendezvous, with a second, correct message in flight."""
    other = 1 - comm.rank
    size = 1_000_000 * (1 + comm.rank)
    send = {other: np.zeros(size), comm.rank: np.zeros(1)}
    recv = {comm.rank: np.zeros(1), other: np.zeros(1_000_000)}
    comm.exchange(send, recv, stage="sync").wait()
    comm.barrier(stage="end")


def other_collective(comm: Communicator) -> None:
    comm.check = True
    buffer = np.zeros(2)
    if comm.rank:
        comm.all_reduce(buffer, stage="loss")
    else:
        comm.broadcast(buffer, stage="weights")


def lost_in_a_split(comm: Communicator) -> None:
    """Ranks 1 and 3 of the job have a communicator of their own; 3 never sends."""
    pair = comm.split(comm.rank % 2)
    if comm.rank == 1:
        pair.exchange({}, {1: np.zeros(1)}, stage="sync").wait()


CASES: dict[Callable[[Communicator], None], list[str]] = {
    other_stage: ["CollectiveMismatch", "expects 16 bytes of 'branch ", "sent 16 bytes of"],
    shorter: ["CollectiveMismatch", "rank 1 expects 16 bytes", "rank 0", "sent 8 bytes of 'sync'"],
    longer: ["CollectiveMismatch", "rank 1 expects 16 bytes", "rank 0", "sent more than 16 bytes"],
    longer_by_far: ["CollectiveMismatch", "rank 0 expects 8000000 bytes", "sent more than"],
    other_collective: ["CollectiveMismatch", "rank 1", "all_reduce", "rank 0", "broadcast"],
    lost_in_a_split: ["ExchangeTimeout", "rank 1 waits in 'sync' for rank 3", "end of the job"],
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_mismatched_job_fails_and_says_who_is_where(case: Callable[..., None]) -> None:
    job = run_job([__file__, case.__name__], 4 if case is lost_in_a_split else 2)
    assert job.code == (75 if case is lost_in_a_split else 2), job.output
    assert all(word in job.output for word in CASES[case]), job.output
    assert "Traceback" not in job.output


def test_long_wait_is_noticed() -> None:
    program = (
        "import time; from mpi4py import MPI; from graphtheta.comm.mpi import start; "
        "comm = start(MPI.COMM_WORLD, notice_s=0.5); "
        "comm.rank or time.sleep(1.2); comm.barrier(stage='epoch 3')"
    )
    job = run_job(["-c", program], 3)
    assert job.code == 0, job.output
    # Printed once, not by every waiting rank.
    assert job.output == "rank 1 has waited 1 s in 'epoch 3'\n"


def main() -> None:
    from graphtheta.comm.launch import communicator

    cases = {case.__name__: case for case in CASES}
    cases[sys.argv[1]](communicator(1.0))


if __name__ == "__main__":
    from graphtheta.comm.launch import guarded

    sys.exit(guarded(main))
