"""Global-batch: one step per epoch, with all targets and all nodes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.shard.shard import Shard
from graphtheta.strategy.batch import Batch, Step, Steps, in_micro_batch
from graphtheta.strategy.dense_ids import dense_ids
from graphtheta.strategy.targets import Targets
from graphtheta.tgar import Block, Neighbourhoods, View
from graphtheta.wording import call_text

__all__ = ["PRUNE_BELOW", "GlobalBatch"]

PRUNE_BELOW = 0.75
_STAGE = "prune"


class GlobalBatch:
    """Strategy with one step per epoch, which computes all targets.

    All edges carry messages, also if they are targets: a link prediction model would otherwise see
    no edges. A micro-batch computes the exact k-hop in-neighbourhood of its share of the targets.

    Args:
        prune: Whether to compute only what targets reach, if that is less than `PRUNE_BELOW` of
            the work. Takes about 20 bytes for each edge that is reached. Do not use it with models
            that compute statistics over all nodes, such as batch normalisation: it changes them.
    """

    def __init__(self, *, prune: bool = False) -> None:
        self.prune = prune

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
        workers, exact = comm or shard.comm, [None] * layers
        pruned = _PrunedBlocks(shard, workers, layers) if self.prune else None

        @cache
        def dense_targets() -> tuple[Neighbourhoods, NDArray[np.int64], int]:
            return Neighbourhoods(shard, workers), *dense_ids(targets.keys, targets.bound, workers)

        def epoch_steps(epoch: int) -> Iterator[Step]:
            def batch(micro_batch: int = 0, num_micro_batches: int = 1) -> Batch:
                chosen, blocks = np.arange(len(targets.keys)), None
                if num_micro_batches > 1:
                    neighbourhoods, position, total = dense_targets()
                    chosen = in_micro_batch(position, total, micro_batch, num_micro_batches)
                step_targets = targets.of_step(chosen, step=epoch, comm=workers)
                if num_micro_batches > 1:
                    blocks = neighbourhoods.blocks(step_targets.seeds, exact)
                elif pruned is not None:
                    blocks = pruned.of(step_targets.seeds)
                return Batch.of(View(shard, seed=seed, step=epoch, blocks=blocks), step_targets)

            yield batch

        return epoch_steps


class _PrunedBlocks:
    """Cache of the blocks that some seeds reach, for as long as the seeds stay the same."""

    def __init__(self, shard: Shard, comm: Communicator, layers: int) -> None:
        self._shard, self._comm, self._layers = shard, comm, layers
        self._seeds: NDArray[np.int64] | None = None
        self._blocks: list[Block] | None = None

    def of(self, seeds: NDArray[np.int64]) -> list[Block] | None:
        """Return the blocks, or None if they are hardly smaller than the graph; collective."""
        same = self._seeds is not None and np.array_equal(seeds, self._seeds)
        changed = np.array([not same], np.int8)
        self._comm.all_reduce(changed, "max", stage=_STAGE)
        if changed[0]:
            self._seeds, self._blocks = seeds, self._find(seeds)
        return self._blocks

    def _find(self, seeds: NDArray[np.int64]) -> list[Block] | None:
        blocks = Neighbourhoods(self._shard, self._comm).blocks(seeds, [None] * self._layers)
        work = sum(block.active.edges for block in blocks)
        whole = self._layers * self._shard.manifest.num_edges
        return blocks if work < PRUNE_BELOW * whole else None
