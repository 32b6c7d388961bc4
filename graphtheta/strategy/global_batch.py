"""Global-batch: one step an epoch, every node active at every layer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.shard import Shard
from graphtheta.strategy.batch import Batch, Step, Steps, in_part
from graphtheta.strategy.ranks import dense_ranks
from graphtheta.tgar import Neighbourhoods, View

__all__ = ["GlobalBatch"]


class GlobalBatch:
    """All training nodes are the targets of the one step of an epoch.

    A part of it is some of them, and what they reach in as many in-hops as the model has layers.
    """

    def schedule(
        self,
        shard: Shard,
        train_rows: Tensor,
        *,
        layers: int,
        seed: int,
        comm: Communicator | None = None,
    ) -> Steps:
        """Return the steps of each epoch; see `Strategy`."""

        @cache
        def neighbourhoods() -> tuple[Neighbourhoods, NDArray[np.int64], NDArray[np.int64], int]:
            found, rows = Neighbourhoods(shard, comm), train_rows.cpu().numpy()
            keys = shard.node_key_L[rows]
            return found, rows, *dense_ranks(keys, shard.manifest.num_nodes, found.comm)

        def epoch_steps(epoch: int) -> Iterator[Step]:
            def batch(part: int = 0, parts: int = 1) -> Batch:
                if parts == 1:
                    return Batch(View(shard, seed=seed, step=epoch), train_rows, train_rows)
                found, rows, ranks, total = neighbourhoods()
                targets = rows[in_part(ranks, total, part, parts)]
                return Batch(
                    View(shard, seed=seed, step=epoch, blocks=found.blocks(targets, exact)),
                    targets=shard.place(targets),
                    rows=torch.arange(len(targets), device=shard.device),
                )

            yield batch

        exact = [None] * layers
        return epoch_steps
