"""Global-batch: one step an epoch, every node active at every layer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.shard.shard import Shard
from graphtheta.strategy.batch import Batch, Step, Steps, in_micro_batch
from graphtheta.strategy.ranks import dense_ranks
from graphtheta.strategy.targets import Targets
from graphtheta.tgar import Block, Neighbourhoods, View

__all__ = ["PRUNE_BELOW", "GlobalBatch"]

PRUNE_BELOW = 0.75
_STAGE = "prune"


class GlobalBatch:
    """All targets make the one step of an epoch.

    Every edge carries messages: were the targets of link prediction to carry none, none would.
    A part of the step is some of them, and what they reach in as many in-hops as there are layers.

    Args:
        prune: Whether to compute only what targets reach, where that is less than `PRUNE_BELOW` of
            the work; it takes about 20 bytes an edge that is reached. Not for models with
            statistics over all nodes, such as batch normalisation, which it would change.
    """

    def __init__(self, *, prune: bool = False) -> None:
        self.prune = prune

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
        pruned = _Pruned(shard, talk, layers) if self.prune else None

        @cache
        def neighbourhoods() -> tuple[Neighbourhoods, NDArray[np.int64], int]:
            return Neighbourhoods(shard, talk), *dense_ranks(targets.keys, targets.bound, talk)

        def epoch_steps(epoch: int) -> Iterator[Step]:
            def batch(part: int = 0, parts: int = 1) -> Batch:
                chosen, blocks = np.arange(len(targets.keys)), None
                if parts > 1:
                    found, ranks, total = neighbourhoods()
                    chosen = in_micro_batch(ranks, total, part, parts)
                step_targets = targets.of_step(chosen, seed=seed, step=epoch, comm=talk)
                if parts > 1:
                    blocks = found.blocks(step_targets.seeds, exact)
                elif pruned is not None:
                    blocks = pruned.blocks(step_targets.seeds)
                return Batch.of(View(shard, seed=seed, step=epoch, blocks=blocks), step_targets)

            yield batch

        return epoch_steps


class _Pruned:
    """The blocks that some seeds reach, kept while the seeds are the same."""

    def __init__(self, shard: Shard, comm: Communicator, layers: int) -> None:
        self._shard, self._comm, self._layers = shard, comm, layers
        self._seeds: NDArray[np.int64] | None = None
        self._blocks: list[Block] | None = None

    def blocks(self, seeds: NDArray[np.int64]) -> list[Block] | None:
        """Return the blocks, or None if the whole graph is hardly more; collective."""
        same = self._seeds is not None and np.array_equal(seeds, self._seeds)
        changed = np.array([not same], np.int8)
        self._comm.all_reduce(changed, "max", stage=_STAGE)
        if changed[0]:
            self._seeds, self._blocks = seeds, self._found(seeds)
        return self._blocks

    def _found(self, seeds: NDArray[np.int64]) -> list[Block] | None:
        blocks = Neighbourhoods(self._shard, self._comm).blocks(seeds, [None] * self._layers)
        work = sum(block.active.edges for block in blocks)
        whole = self._layers * self._shard.manifest.num_edges
        return blocks if work < PRUNE_BELOW * whole else None
