from __future__ import annotations

import numpy as np
import pytest

from graphtheta.comm.batch_queue import BatchQueue
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.groups import Groups
from graphtheta.comm.single import SingleCommunicator
from graphtheta.comm.threads import run_local
from graphtheta.errors import ConfigError


@pytest.mark.parametrize(("workers", "groups"), [(1, 1), (2, 2), (6, 3), (6, 2)])
def test_each_micro_batch_of_each_step_goes_to_one_group(workers: int, groups: int) -> None:
    def work(comm: Communicator) -> list[list[list[int]]]:
        grouped = Groups(comm, groups)
        queue = BatchQueue(5, comm.counter(), grouped.comm)
        taken = [list(queue.step()) for _ in range(4)]
        for step in taken:
            assert step == sorted(step)
        everyone = []
        for step in taken:
            flags = [int(number in step) for number in range(5)]
            rows = [comm.all_gather_int(flag, stage="taken").tolist() for flag in flags]
            everyone.append(rows)
        return everyone

    size = workers // groups
    for step in run_local(work, workers=workers):
        for flags in step:
            assert sum(flags) == size  # one group, and all of its workers
            assert any(all(flags[g * size : (g + 1) * size]) for g in range(groups))


def test_a_step_that_is_broken_off_leaves_nothing_behind() -> None:
    comm = SingleCommunicator()
    queue = BatchQueue(4, comm.counter(), comm)
    step = queue.step()
    assert [next(step), next(step)] == [0, 1]
    step.close()
    assert list(queue.step()) == [0, 1, 2, 3]
    assert list(queue.step()) == [0, 1, 2, 3]


def test_groups_are_neighbours() -> None:
    def work(comm: Communicator) -> list[list[int]]:
        groups = Groups(comm, 2)
        mine = [
            [groups.index],
            groups.comm.all_gather_int(comm.rank, stage="group"),
            groups.across.all_gather_int(comm.rank, stage="across"),
        ]
        rows = comm.all_gather(np.concatenate(mine).reshape(1, -1), stage="rows")
        return [list(row) for row in np.concatenate(rows)]

    assert run_local(work, workers=4) == [
        [0, 0, 1, 0, 2],
        [0, 0, 1, 1, 3],
        [1, 2, 3, 0, 2],
        [1, 2, 3, 1, 3],
    ]


@pytest.mark.parametrize("number", [0, 3])
def test_groups_of_unequal_size_are_refused(number: int) -> None:
    with pytest.raises(ConfigError, match=f"divides 4 workers, got {number}"):
        run_local(lambda comm: Groups(comm, number), workers=4)
