"""Steps and batches: what a strategy yields, and what a model computes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.shard.shard import Shard
from graphtheta.strategy.targets import StepTargets, Targets
from graphtheta.tgar import View

__all__ = ["Batch", "Step", "Steps", "Strategy", "check_count", "in_micro_batch", "is_count"]


@dataclass(frozen=True)
class Batch:
    """Input of the model and of the loss, for one step or one micro-batch of it.

    Attributes:
        view: Blocks that the layers compute on.
        step_targets: Targets and loss.
        rows: (O,) int64 rows of the model's output that belong to `step_targets.seeds`.
    """

    view: View
    step_targets: StepTargets
    rows: Tensor

    @classmethod
    def of(cls, view: View, step_targets: StepTargets) -> Batch:
        """Return the batch of a view whose outputs begin with the seeds, or are all masters."""
        shard = view.shard
        if view.blocks:
            return cls(
                view, step_targets, torch.arange(len(step_targets.seeds), device=shard.device)
            )
        return cls(view, step_targets, shard.to_device(step_targets.seeds))

    def mean_loss(self, outputs: Tensor) -> tuple[Tensor, float]:
        """Return this worker's share of the mean loss of the batch, and the mean loss; collective.

        The mean is over the targets of all workers. In a training loop the share is what backward
        is called on: `(share + batch.view.token).backward()`.

        Args:
            outputs: What the model returned for `view`.

        Communication:
            16 bytes, summed over all workers.
        """
        loss, count = self.step_targets.loss(self.view, outputs[self.rows])
        sums = np.array([float(loss.detach()), count], np.float64)
        self.view.shard.comm.all_reduce(sums, stage="loss")
        weight = sums[1] or 1.0  # a batch whose targets weigh nothing has no loss
        return loss / weight, float(sums[0] / weight)


class Step(Protocol):
    """One optimiser update; calling it prepares its batch, whole or one micro-batch at a time."""

    def __call__(self, micro_batch: int = 0, num_micro_batches: int = 1) -> Batch:
        """Return the batch of one micro-batch of the step; collective.

        A target belongs to the same micro-batch on any number of workers and wherever it is stored.
        Random draws depend on the step only, so that the losses of all micro-batches add up to that
        of the whole step.

        Args:
            micro_batch: Number of the micro-batch, in [0, num_micro_batches).
            num_micro_batches: Micro-batches that the step is divided into; 1 is the whole step.
        """


# The steps of an epoch, which is counted from 0: as many on every worker; collective.
Steps = Callable[[int], Iterator[Step]]


def in_micro_batch(
    position: NDArray[np.int64], size: int, micro_batch: int, num_micro_batches: int
) -> NDArray[np.int64]:
    """Return which targets of a step belong to one of its equally large micro-batches.

    Args:
        position: (T,) position of each target of this worker in the step, in [0, size).
        size: Number of positions in the step.
        micro_batch: Number of the micro-batch, in [0, num_micro_batches).
        num_micro_batches: Micro-batches of the step, at least 1.

    Shape:
        Returns (S,) int64 indices into `position`, ascending.
    """
    return np.flatnonzero(position * num_micro_batches // size == micro_batch)


class Strategy(Protocol):
    """Rule that divides the targets of an epoch into steps.

    A strategy holds options only, so that one object can serve any number of trainers.
    """

    def schedule(
        self,
        shard: Shard,
        targets: Targets,
        *,
        layers: int,
        seed: int,
        comm: Communicator | None = None,
    ) -> Steps:
        """Return a function that yields the steps of an epoch; collective.

        Args:
            shard: Graph whose edges carry messages.
            targets: What the model is trained on; this worker may have none.
            layers: Number of graph layers of the model.
            seed: Random seed for the order of targets and for sampling.
            comm: Communicator that steps are prepared with; if None, the shard's own.

        Raises:
            ConfigError: If the options do not fit the graph or the model.
        """


def is_count(value: object, least: int) -> bool:
    """Return whether an option is an integer of at least `least` that fits 64 bits."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_integer and least <= int(value) < 1 << 63  # type: ignore[call-overload]


def check_count(value: object, least: int, name: str, where: str) -> None:
    """Raise a ConfigError unless an option is an integer of at least `least`."""
    if not is_count(value, least):
        raise ConfigError(f"{where}: expected {name} >= {least}, got {value!r}. Give an integer.")
