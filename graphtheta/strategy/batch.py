"""A batch: what a strategy yields for each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.shard import Shard
from graphtheta.tgar import View

__all__ = ["Batch", "Batches", "Strategy"]


@dataclass(frozen=True)
class Batch:
    """One step's view and targets; some workers may have none.

    Attributes:
        view: What the layers compute on.
        targets: (T,) int64 local ids of the masters that count in the loss.
        rows: (T,) int64 their rows in the model's output.
    """

    view: View
    targets: Tensor
    rows: Tensor


# The batches of an epoch, counted from 0: as many on every worker; collective.
Batches = Callable[[int], Iterator[Batch]]


class Strategy(Protocol):
    """Which nodes make a step: options alone, so that one can serve any number of trainers."""

    def schedule(
        self,
        shard: Shard,
        train_rows: Tensor,
        *,
        layers: int,
        seed: int,
        comm: Communicator | None = None,
    ) -> Batches:
        """Return what gives the batches of each epoch; collective.

        Args:
            shard: Storage.
            train_rows: (T,) int64 local ids of this worker's training nodes, perhaps none.
            layers: Graph layers of the model.
            seed: Of everything that is drawn.
            comm: What preparation talks through; the shard's own if None.

        Raises:
            ConfigError: If the options do not fit the graph or the model.
        """
