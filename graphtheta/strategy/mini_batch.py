"""Mini-batch: a number of targets per step, and their neighbourhoods, exact or sampled."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.data.types import Relation
from graphtheta.errors import ConfigError
from graphtheta.rng.permutation import Permutation
from graphtheta.rng.philox import Purpose
from graphtheta.shard.shard import Shard
from graphtheta.strategy.batch import Batch, Step, Steps, check_count, in_micro_batch, is_count
from graphtheta.strategy.dense_ids import dense_ids
from graphtheta.strategy.targets import Targets
from graphtheta.tgar import Fanout, Neighbourhoods, View
from graphtheta.wording import call_text, counted

__all__ = ["MiniBatch", "RelationName"]

Fanouts = Sequence[int | None]  # of each layer
RelationName = Relation | tuple[str, str, str] | str


class MiniBatch:
    """Strategy with `batch_size` targets per step, in a new random order each epoch.

    All workers compute a batch together: each computes the nodes it owns, and no worker receives
    a copy of a neighbourhood.

    Args:
        batch_size: Targets per step, over all workers. The last step of an epoch may have fewer.
        fanouts: In-edges to sample for each destination, per layer from the input layer on; None
            for a layer takes all in-edges. If None, all layers take all in-edges. In a typed graph,
            a mapping of every relation to such a list gives each relation a fan-out of its own,
            as in `{"author-writes-paper": [15, 10], ...}`; there 0 samples none, so that
            `[0, 0]` leaves the relation out.
        replace: Whether to sample with replacement.
        weight: Name of an edge column; edges are sampled in proportion to it. If None, uniformly.

    Raises:
        ConfigError: If a number is not an integer of at least 1 (0 for fanouts of a relation), or
            replace or weight is given without fanouts.
    """

    def __init__(
        self,
        batch_size: int,
        fanouts: Fanouts | Mapping[RelationName, Fanouts] | None = None,
        *,
        replace: bool = False,
        weight: str | None = None,
    ) -> None:
        check_count(batch_size, 1, "batch_size", "mini-batch")
        self.batch_size = batch_size
        self.fanouts: tuple[int | None, ...] | dict[Relation, tuple[int | None, ...]] | None = None
        if isinstance(fanouts, Mapping):
            self.fanouts = {
                Relation.of(relation): _checked(some, 0) for relation, some in fanouts.items()
            }
            if len(self.fanouts) < len(fanouts):
                raise ConfigError(
                    "mini-batch: expected fanouts of each relation once, got one relation by two "
                    f"names: {list(fanouts)}. Leave one out."
                )
            if weight is not None:
                raise ConfigError(
                    "mini-batch: expected no weight, since fanouts are given by relation, got "
                    f"{weight!r}. Give one fanout for each layer, or leave out weight."
                )
        elif fanouts is not None:
            self.fanouts = _checked(fanouts, 1)
        if fanouts is None and (replace or weight is not None):
            raise ConfigError(
                "mini-batch: expected fanouts, since replace or weight is given, got none. Give "
                "fanouts, or leave out replace and weight."
            )
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
        fanouts, neighbourhoods = self._fanouts(shard, layers), Neighbourhoods(shard, comm)
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

    def _fanouts(self, shard: Shard, layers: int) -> list[Fanout | None]:
        if self.fanouts is None:
            return [None] * layers
        if not isinstance(self.fanouts, dict):
            _check_number(self.fanouts, layers)
            return [f if f is None else Fanout(f, self.replace, self.weight) for f in self.fanouts]
        if set(self.fanouts) != set(shard.relations):
            odd = sorted(one.text for one in set(self.fanouts) ^ set(shard.relations))
            raise ConfigError(
                "mini-batch: expected fanouts of all relations of the graph "
                f"({', '.join(one.text for one in shard.relations)}), got a difference: "
                f"{', '.join(odd)}. Name each relation once."
            )
        for some in self.fanouts.values():
            _check_number(some, layers)
        if len(shard.relations) > 1:
            _ = shard.in_degree_by_type  # collective, and batches may be prepared in the background
        by_layer = zip(*(self.fanouts[one] for one in shard.relations), strict=True)
        return [Fanout(sizes, self.replace) for sizes in by_layer]


def _checked(values: Fanouts, least: int) -> tuple[int | None, ...]:
    if not isinstance(values, Collection) or not all(
        value is None or is_count(value, least) for value in values
    ):
        raise ConfigError(
            f"mini-batch: expected fanouts >= {least} or None, got {values}. Give a list with one "
            "fanout for each graph layer."
        )
    return tuple(f and int(f) for f in values)


def _check_number(fanouts: Fanouts, layers: int) -> None:
    if len(fanouts) != layers:
        raise ConfigError(
            f"mini-batch: expected {counted(layers, 'fanout')}, one for each graph layer, got "
            f"{len(fanouts)}: {list(fanouts)}. Correct fanouts."
        )
