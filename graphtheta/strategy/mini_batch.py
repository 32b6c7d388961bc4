"""Mini-batch: a number of targets per step, and their neighbourhoods, exact or sampled."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.rng.permutation import Permutation
from graphtheta.rng.philox import Purpose
from graphtheta.shard.shard import Shard
from graphtheta.strategy.batch import Batch, Step, Steps, check_count, in_micro_batch, is_count
from graphtheta.strategy.dense_ids import dense_ids
from graphtheta.strategy.targets import Targets
from graphtheta.tgar import Fanout, Neighbourhoods, View
from graphtheta.wording import call_text, counted

__all__ = ["MiniBatch"]


class MiniBatch:
    """Strategy with `batch_size` targets per step, in a new random order each epoch.

    All workers compute a batch together: each computes the nodes it owns, and no worker receives
    a copy of a neighbourhood.

    Args:
        batch_size: Targets per step, over all workers. The last step of an epoch may have fewer.
        fanouts: In-edges to sample for each destination, per layer from the input layer on; None
            for a layer takes all in-edges. If None, all layers take all in-edges.
        replace: Whether to sample with replacement.
        weight: Name of an edge column; edges are sampled in proportion to it. If None, uniformly.

    Raises:
        ConfigError: If a number is not an integer of at least 1, or replace or weight is given
            without fanouts.
    """

    def __init__(
        self,
        batch_size: int,
        fanouts: Sequence[int | None] | None = None,
        *,
        replace: bool = False,
        weight: str | None = None,
    ) -> None:
        check_count(batch_size, 1, "batch_size", "mini-batch")
        if fanouts is not None and not _are_fanouts(fanouts):
            raise ConfigError(
                f"mini-batch: expected fanouts >= 1 or None, got {fanouts}. Give a list with one "
                "fanout for each graph layer."
            )
        if fanouts is None and (replace or weight is not None):
            raise ConfigError(
                "mini-batch: expected fanouts, since replace or weight is given, got none. Give "
                "fanouts, or leave out replace and weight."
            )
        self.batch_size = batch_size
        self.fanouts = None if fanouts is None else tuple(f and int(f) for f in fanouts)
        self.replace, self.weight = replace, weight

    __repr__ = call_text

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

        Raises:
            ConfigError: If the number of fanouts differs from that of layers, or the edge column
                of weights is missing or wrong.
        """
        fanouts, neighbourhoods = self._fanouts(layers), Neighbourhoods(shard, comm)
        if self.weight is not None:
            neighbourhoods.weight(self.weight)  # raises before the first step
        workers = neighbourhoods.comm
        ids, total = dense_ids(targets.keys, targets.bound, workers)
        batch_size = min(self.batch_size, max(total, 1))
        num_steps = -(-total // batch_size)

        def batch(
            step: int,
            chosen: NDArray[np.int64],
            position: NDArray[np.int64],
            size: int,
            micro_batch: int = 0,
            num_micro_batches: int = 1,
        ) -> Batch:
            some = chosen[in_micro_batch(position, size, micro_batch, num_micro_batches)]
            step_targets = targets.of_step(np.sort(some), step=step, comm=workers, masked=chosen)
            blocks = neighbourhoods.blocks(
                step_targets.seeds,
                fanouts,
                seed=seed,
                step=step,
                masked_edges=step_targets.masked_edges,
            )
            return Batch.of(View(shard, seed=seed, step=step, blocks=blocks), step_targets)

        def epoch_steps(epoch: int) -> Iterator[Step]:
            position = Permutation(total, seed, Purpose.BATCH, step=epoch).forward(ids)
            order = np.argsort(position)
            first = batch_size * np.arange(num_steps)
            cuts = np.searchsorted(position[order], first[1:])
            for number, chosen in enumerate(np.split(order, cuts)):
                within = position[chosen] - first[number]
                size = min(batch_size, total - int(first[number]))
                yield partial(batch, epoch * num_steps + number, chosen, within, size)

        return epoch_steps

    def _fanouts(self, layers: int) -> list[Fanout | None]:
        if self.fanouts is None:
            return [None] * layers
        if len(self.fanouts) != layers:
            raise ConfigError(
                f"mini-batch: expected {counted(layers, 'fanout')}, one for each graph layer, got "
                f"{len(self.fanouts)}: {list(self.fanouts)}. Correct fanouts."
            )
        return [f if f is None else Fanout(f, self.replace, self.weight) for f in self.fanouts]


def _are_fanouts(values: object) -> bool:
    return isinstance(values, Collection) and all(
        value is None or is_count(value, 1) for value in values
    )
