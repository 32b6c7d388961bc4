"""Mini-batch: some targets a step, and what they reach, exactly or by drawn edges."""

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
from graphtheta.strategy.ranks import dense_ranks
from graphtheta.strategy.targets import Targets
from graphtheta.tgar import Fanout, Neighbourhoods, View

__all__ = ["MiniBatch"]


class MiniBatch:
    """Targets in an order that is drawn anew each epoch, `batch_size` of all workers a step.

    What a step reaches is computed by all workers together: a batch's targets live where they live,
    and no neighbourhood is copied to one worker.

    Args:
        batch_size: Targets of a step, over all workers; the last step of an epoch has what is left.
        fanouts: In-edges to draw of each destination, of each layer from the input; None, or None
            for a layer: all of them.
        replace: Whether an edge can be drawn more than once.
        weight: Name of an edge column that edges are drawn in proportion to.

    Raises:
        ConfigError: If a number is none or below 1, or nothing is drawn and yet said how.
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
                f"mini-batch: expected fanouts >= 1 or None, got {fanouts}. Give a list of them, "
                "one a graph layer."
            )
        if fanouts is None and (replace or weight is not None):
            raise ConfigError(
                "mini-batch: replace and weight say how edges are drawn, and without fanouts all "
                "are taken. Give fanouts."
            )
        self.batch_size = batch_size
        self.fanouts = None if fanouts is None else tuple(f and int(f) for f in fanouts)
        self.replace, self.weight = replace, weight

    def schedule(
        self,
        shard: Shard,
        targets: Targets,
        *,
        layers: int,
        seed: int,
        comm: Communicator | None = None,
    ) -> Steps:
        """Return the steps of each epoch; see `Strategy`.

        Raises:
            ConfigError: If there are not as many fanouts as layers, or no such weights.
        """
        fanouts, neighbourhoods = self._fanouts(layers), Neighbourhoods(shard, comm)
        if self.weight is not None:
            neighbourhoods.weight(self.weight)  # before the first step
        talk = neighbourhoods.comm
        ranks, total = dense_ranks(targets.keys, targets.bound, talk)
        batch_size = min(self.batch_size, max(total, 1))
        steps = -(-total // batch_size)

        def batch(
            step: int,
            chosen: NDArray[np.int64],
            place: NDArray[np.int64],
            size: int,
            part: int = 0,
            parts: int = 1,
        ) -> Batch:
            some = np.sort(chosen[in_micro_batch(place, size, part, parts)])
            step_targets = targets.of_step(
                some, seed=seed, step=step, comm=talk, masked_edges=chosen
            )
            blocks = neighbourhoods.blocks(
                step_targets.seeds,
                fanouts,
                seed=seed,
                step=step,
                masked_edges=step_targets.masked_edges,
            )
            return Batch.of(View(shard, seed=seed, step=step, blocks=blocks), step_targets)

        def epoch_steps(epoch: int) -> Iterator[Step]:
            place = Permutation(total, seed, Purpose.BATCH, step=epoch).forward(ranks)
            order = np.argsort(place)
            first = batch_size * np.arange(steps)
            cuts = np.searchsorted(place[order], first[1:])
            for number, chosen in enumerate(np.split(order, cuts)):
                within = place[chosen] - first[number]
                size = min(batch_size, total - int(first[number]))
                yield partial(batch, epoch * steps + number, chosen, within, size)

        return epoch_steps

    def _fanouts(self, layers: int) -> list[Fanout | None]:
        if self.fanouts is None:
            return [None] * layers
        if len(self.fanouts) != layers:
            raise ConfigError(
                f"mini-batch: expected {layers} fanouts, one a graph layer, got "
                f"{len(self.fanouts)}: {list(self.fanouts)}."
            )
        return [f if f is None else Fanout(f, self.replace, self.weight) for f in self.fanouts]


def _are_fanouts(values: object) -> bool:
    return isinstance(values, Collection) and all(
        value is None or is_count(value, 1) for value in values
    )
