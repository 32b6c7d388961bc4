"""Global-batch: one step an epoch, every node active at every layer."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from graphtheta.shard import Shard
from graphtheta.strategy.batch import Batch
from graphtheta.tgar import View

__all__ = ["GlobalBatch"]


class GlobalBatch:
    """All training nodes are the targets of the one step of an epoch."""

    steps_per_epoch = 1

    def batches(
        self, shard: Shard, train_rows: Tensor, *, seed: int, epoch: int
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch, as many on every worker.

        Args:
            shard: Storage.
            train_rows: (T,) int64 local ids of this worker's training nodes, perhaps none.
            seed: Of everything that is drawn.
            epoch: Counted from 0.
        """
        yield Batch(View(shard, seed=seed, step=epoch), train_rows)
