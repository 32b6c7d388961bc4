"""Global-batch: one step an epoch, every node active at every layer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.shard import Shard
from graphtheta.strategy.batch import Batch, Step, Steps, in_part
from graphtheta.strategy.ranks import dense_ranks
from graphtheta.strategy.targets import Targets
from graphtheta.tgar import Neighbourhoods, View

__all__ = ["GlobalBatch"]


class GlobalBatch:
    """All targets make the one step of an epoch.

    Every edge carries messages: were the targets of link prediction to carry none, none would.
    A part of the step is some of them, and what they reach in as many in-hops as there are layers.
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
        """Return the steps of each epoch; see `Strategy`."""
        talk, exact = comm or shard.comm, [None] * layers

        @cache
        def neighbourhoods() -> tuple[Neighbourhoods, NDArray[np.int64], int]:
            return Neighbourhoods(shard, talk), *dense_ranks(targets.keys, targets.bound, talk)

        def epoch_steps(epoch: int) -> Iterator[Step]:
            def batch(part: int = 0, parts: int = 1) -> Batch:
                chosen, blocks = np.arange(len(targets.keys)), None
                if parts > 1:
                    found, ranks, total = neighbourhoods()
                    chosen = in_part(ranks, total, part, parts)
                aim = targets.aim(chosen, seed=seed, step=epoch, comm=talk, silence=False)
                if parts > 1:
                    blocks = found.blocks(aim.seeds, exact)
                return Batch.of(View(shard, seed=seed, step=epoch, blocks=blocks), aim)

            yield batch

        return epoch_steps
