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
    """View of one step, or of one part of it, and what it is about.

    Attributes:
        view: What the layers compute on.
        aim: The targets, and the loss.
        rows: (O,) int64 where the seeds of the aim stand in the model's output.
    """

    view: View
    step_targets: StepTargets
    rows: Tensor

    @classmethod
    def of(cls, view: View, step_targets: StepTargets) -> Batch:
        """Return the batch of a view whose outputs begin with the seeds, or are those of all."""
        shard = view.shard
        if view.blocks:
            return cls(
                view, step_targets, torch.arange(len(step_targets.seeds), device=shard.device)
            )
        return cls(view, step_targets, shard.to_device(step_targets.seeds))


class Step(Protocol):
    """One step, whose batch is yet to be made: of all its targets, or of a part of them."""

    def __call__(self, part: int = 0, parts: int = 1) -> Batch:
        """Return the batch of one of so many equal parts; collective.

        A target is in one part, whatever the number of workers and wherever it lives. What is drawn
        is the step's, so that the losses of all parts add up to that of the whole.
        """


# The steps of an epoch, counted from 0: as many on every worker; collective.
Steps = Callable[[int], Iterator[Step]]


def in_micro_batch(place: NDArray[np.int64], size: int, part: int, parts: int) -> NDArray[np.int64]:
    """Return which targets are in one of so many equal parts of a step.

    Args:
        place: (T,) of each target of this worker in the step, in [0, size).
        size: Places in the step.
        part: In [0, parts).
        parts: At least 1.

    Shape:
        Returns (S,) int64 indices of `place`, ascending.
    """
    return np.flatnonzero(place * parts // size == part)


class Strategy(Protocol):
    """Which targets make a step: options alone, so that one can serve any number of trainers."""

    def schedule(
        self,
        shard: Shard,
        targets: Targets,
        *,
        layers: int,
        seed: int,
        comm: Communicator | None = None,
    ) -> Steps:
        """Return what gives the steps of each epoch; collective.

        Args:
            shard: Storage, whose edges carry messages.
            targets: What is trained on; this worker may have none.
            layers: Graph layers of the model.
            seed: Of everything that is drawn.
            comm: What preparation talks through; the shard's own if None.

        Raises:
            ConfigError: If the options do not fit the graph or the model.
        """


def is_count(value: object, least: int) -> bool:
    """Return whether an option is an integer of at least `least`, of 64 bits."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_integer and least <= int(value) < 1 << 63  # type: ignore[call-overload]


def check_count(value: object, least: int, name: str, where: str) -> None:
    """Raise a ConfigError if an option is no integer of at least `least`."""
    if not is_count(value, least):
        raise ConfigError(f"{where}: expected {name} >= {least}, got {value!r}. Give an integer.")
