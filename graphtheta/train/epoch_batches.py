"""Batches of an epoch, prepared in the background if requested."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from graphtheta.comm.timers import Stage, StageTimers
from graphtheta.errors import ConfigError
from graphtheta.strategy import Batch
from graphtheta.strategy.batch import Steps
from graphtheta.strategy.prefetch import prefetch_batches
from graphtheta.train.history import PartialEpoch
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

    def of_epoch(self, epoch: int, done: PartialEpoch) -> Iterator[Batch | StepEnd]:
        """Yield the batches of an epoch after the steps that are done; collective.

        Raises:
            ConfigError: If these are steps of an epoch of another number of steps.
        """
        if done.of and done.of != (number := self.num_steps(epoch)):
            raise ConfigError(
                f"trainer: expected an epoch of {done.of:,} steps, since it continues after step "
                f"{done.steps:,}, got {number:,}. Use the strategy of that run."
            )
        steps = islice(self.steps(epoch), done.steps, None)
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

    def num_steps(self, epoch: int = 0) -> int:
        """Return the number of steps of an epoch."""
        return sum(1 for _ in self.steps(epoch))
