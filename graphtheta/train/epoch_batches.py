"""Batches of an epoch, prepared in the background if requested."""

from __future__ import annotations

from collections.abc import Iterator

from graphtheta.comm.timers import Stage, StageTimers
from graphtheta.strategy import Batch
from graphtheta.strategy.batch import Steps
from graphtheta.strategy.prefetch import prefetch_batches
from graphtheta.train.micro_batches import MicroBatches, StepEnd

__all__ = ["EpochBatches"]


class EpochBatches:
    """Batches or micro-batches of the steps of each epoch.

    Args:
        steps: Function that returns the steps of an epoch.
        micro_batches: Queue of micro-batches, if steps are divided into them.
        prefetch: Number of batches prepared ahead in the background.
        stages: Timers that the waiting for batches is added to.

    Attributes:
        steps: As given.
    """

    def __init__(
        self, steps: Steps, micro_batches: MicroBatches | None, prefetch: int, stages: StageTimers
    ) -> None:
        self.steps, self._micro_batches = steps, micro_batches
        self._prefetch, self._stages = prefetch, stages

    def of_epoch(self, epoch: int) -> Iterator[Batch | StepEnd]:
        """Yield the batches of an epoch; collective."""
        steps = self.steps(epoch)
        prepared: Iterator[Batch | StepEnd] = (
            (step() for step in steps)
            if self._micro_batches is None
            else self._micro_batches.pull(steps)
        )
        batches = prefetch_batches(prepared, self._prefetch, self._stages)
        while True:
            with self._stages.rest("forward", Stage("prepare")):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def num_steps(self) -> int:
        """Return the number of steps of an epoch."""
        return sum(1 for _ in self.steps(0))
