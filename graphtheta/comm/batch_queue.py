"""The queue that groups of workers pull micro-batches from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np

from graphtheta.comm.communicator import Communicator, Counter
from graphtheta.comm.timers import Stage, StageTimers

__all__ = ["BatchQueue"]

_STAGE = "pull a micro-batch"


class BatchQueue:
    """Hands out the micro-batches of one step after another, each to the group that asks next.

    A group that is fast, or has cheap ones, takes more of them. All groups go through the same
    steps; nothing makes them do so at the same time. To find that a step is over, a group pulls its
    first micro-batch of a later one: groups that wait for each other between steps have at least
    one of each, if there are as many.

    Args:
        size: Micro-batches of a step.
        counter: What the groups share. Number n is micro-batch n mod `size` of step n / `size`.
        comm: This group; its first worker asks, and tells the others.
        stages: Where the waiting is counted; None: nowhere.

    Communication:
        A number from the counter and a broadcast of 8 bytes, for every micro-batch.
    """

    def __init__(
        self, size: int, counter: Counter, comm: Communicator, stages: StageTimers | None = None
    ) -> None:
        self.size = size
        self._counter, self._comm, self._stages = counter, comm, stages
        self._steps = 0
        self._held = -1  # a number of a step that this group has not come to; -1: none

    def step(self) -> Iterator[int]:
        """Yield which micro-batches of its next step this group gets, until none is left."""
        first = self._steps * self.size
        self._steps += 1
        while True:
            while self._held < first:  # also what an epoch that was broken off has left
                self._held = self._pull()
            if self._held >= first + self.size:
                return
            number, self._held = self._held - first, -1
            yield number

    def _pull(self) -> int:
        counting = self._stages.timed("forward", Stage("queue")) if self._stages else nullcontext()
        with counting:
            number = np.zeros(1, np.int64)
            if self._comm.rank == 0:
                number[0] = self._counter.next(stage=_STAGE)
            self._comm.broadcast(number, stage=_STAGE)
        return int(number[0])
