"""Shared queue of the micro-batches of a step, from which groups of workers pull."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np

from graphtheta.comm.communicator import Communicator, Counter
from graphtheta.comm.timers import Stage, StageTimers

__all__ = ["BatchQueue"]

_STAGE = "pull a micro-batch"


class BatchQueue:
    """Queue from which worker groups pull the micro-batches of each step.

    Each micro-batch goes to the group that asks first, so a group that is faster takes more. All
    groups go through the same steps, but the queue does not synchronise them. A group notices the
    end of a step by pulling its first micro-batch of a later step. Hence groups that wait for each
    other between steps get at least one micro-batch of each step, if there are enough.

    Args:
        size: Number of micro-batches in a step.
        counter: Counter that all groups share. Number n is micro-batch n mod `size` of step
            n // `size`.
        comm: The workers of this group. Its rank 0 asks the counter and broadcasts the number.
        stages: Timers to which the waiting time is added. If None, it is not measured.

    Communication:
        A request to the counter and a broadcast of 8 bytes for each micro-batch.
    """

    def __init__(
        self, size: int, counter: Counter, comm: Communicator, stages: StageTimers | None = None
    ) -> None:
        self.size = size
        self._counter, self._comm, self._stages = counter, comm, stages
        self._steps = 0
        self._pulled = -1  # a number of a later step, pulled already; -1 if there is none

    def step(self) -> Iterator[int]:
        """Yield the micro-batches of the next step that this group computes, until none is left."""
        first = self._steps * self.size
        self._steps += 1
        while True:
            while self._pulled < first:  # skips the rest of a step that was interrupted
                self._pulled = self._pull()
            if self._pulled >= first + self.size:
                return
            number, self._pulled = self._pulled - first, -1
            yield number

    def _pull(self) -> int:
        timer = self._stages.timed("forward", Stage("queue")) if self._stages else nullcontext()
        with timer:
            number = np.zeros(1, np.int64)
            if self._comm.rank == 0:
                number[0] = self._counter.next(stage=_STAGE)
            self._comm.broadcast(number, stage=_STAGE)
        return int(number[0])
