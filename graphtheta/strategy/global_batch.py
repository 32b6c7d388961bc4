"""Global-batch: one step an epoch, every node active at every layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphtheta.comm.communicator import Communicator
from graphtheta.shard import Shard
from graphtheta.strategy.batch import Batch, Batches
from graphtheta.strategy.targets import Targets
from graphtheta.tgar import View

__all__ = ["GlobalBatch"]


class GlobalBatch:
    """All targets make the one step of an epoch.

    Every edge carries messages: were the targets of link prediction to carry none, none would.
    """

    def schedule(
        self,
        shard: Shard,
        targets: Targets,
        *,
        layers: int,
        seed: int,
        comm: Communicator | None = None,
    ) -> Batches:
        """Return the batches of each epoch; see `Strategy`."""
        every = np.arange(len(targets.keys))
        talk = comm or shard.comm

        def batches(epoch: int) -> Iterator[Batch]:
            aim = targets.aim(every, seed=seed, step=epoch, comm=talk, silence=False)
            yield Batch.of(View(shard, seed=seed, step=epoch), aim)

        return batches
