"""Global-batch: one step an epoch, every node active at every layer."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.shard import Shard
from graphtheta.strategy.batch import Batch, Batches
from graphtheta.tgar import View

__all__ = ["GlobalBatch"]


class GlobalBatch:
    """All training nodes are the targets of the one step of an epoch."""

    def schedule(
        self,
        shard: Shard,
        train_rows: Tensor,
        *,
        layers: int,
        seed: int,
        comm: Communicator | None = None,
    ) -> Batches:
        """Return the batches of each epoch; see `Strategy`."""

        def batches(epoch: int) -> Iterator[Batch]:
            yield Batch(View(shard, seed=seed, step=epoch), train_rows, train_rows)

        return batches
