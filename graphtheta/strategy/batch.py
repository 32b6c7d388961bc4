"""A batch: what a strategy yields for each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.shard import Shard
from graphtheta.strategy.targets import Aim, Targets
from graphtheta.tgar import View

__all__ = ["Batch", "Batches", "Strategy"]


@dataclass(frozen=True)
class Batch:
    """One step's view and what it is about.

    Attributes:
        view: What the layers compute on.
        aim: The targets, and the loss.
        rows: (O,) int64 where the seeds of the aim stand in the model's output.
    """

    view: View
    aim: Aim
    rows: Tensor

    @classmethod
    def of(cls, view: View, aim: Aim) -> Batch:
        """Return the batch of a view whose outputs begin with the seeds, or are those of all."""
        shard = view.shard
        if view.blocks:
            return cls(view, aim, torch.arange(len(aim.seeds), device=shard.device))
        return cls(view, aim, shard.place(aim.seeds))


# The batches of an epoch, counted from 0: as many on every worker; collective.
Batches = Callable[[int], Iterator[Batch]]


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
    ) -> Batches:
        """Return what gives the batches of each epoch; collective.

        Args:
            shard: Storage, whose edges carry messages.
            targets: What is trained on; this worker may have none.
            layers: Graph layers of the model.
            seed: Of everything that is drawn.
            comm: What preparation talks through; the shard's own if None.

        Raises:
            ConfigError: If the options do not fit the graph or the model.
        """
