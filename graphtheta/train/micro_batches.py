"""A step in micro-batches: which of them this group computes, and the sum of their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graphtheta.comm.batch_queue import BatchQueue
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.groups import Groups
from graphtheta.comm.timers import Stage, StageTimers
from graphtheta.errors import ConfigError
from graphtheta.nn.embedding import is_sharded
from graphtheta.nn.norm import BatchNorm
from graphtheta.strategy import Batch, Step
from graphtheta.train.gradients import assign_gradients, flatten_gradients, gradient_buckets

__all__ = ["MicroBatch", "MicroBatches", "StepEnd"]

Array = NDArray[Any]


@dataclass(frozen=True)
class MicroBatch(Batch):
    """A part of a step that this group computes.

    Attributes:
        number: Which part.
    """

    number: int


@dataclass(frozen=True)
class StepEnd:
    """No part of the step is left for this group."""


class MicroBatches:
    """Pulls micro-batches, and adds up their gradients in order, whoever computed them.

    Each worker adds up its share of the parameters: a part in as many as there are workers. A group
    keeps its micro-batches until all groups have done theirs, spread over its workers: of M of a
    step, on P workers, that are M / P times the parameters a worker, on average over groups, and
    not M times. What has all before it in the same group is added at once, so that a group that is
    alone keeps one sum.

    Groups of one size give the same bits, however many they are and whichever micro-batches each
    took; other sizes, other rounding.

    Args:
        number: Micro-batches of a step.
        groups: The workers.
        model: The same on every worker.
        stages: Where waiting for other groups is counted.
        preparing: What this group's workers prepare batches through, if in the background.

    Attributes:
        taken: How many this group has computed so far.

    Raises:
        ConfigError: If there are fewer than groups, or the model has batch normalisation or learned
            vectors of nodes.

    Communication:
        Bytes of all parameters for every micro-batch that is added, within the group; for every
        step about the parameters times M / P across groups, there and back, and all of them within.
    """

    def __init__(
        self,
        number: int,
        groups: Groups,
        model: nn.Module,
        stages: StageTimers,
        preparing: Communicator | None = None,
    ) -> None:
        if number < groups.number:
            raise ConfigError(
                f"trainer: expected at least as many micro-batches as groups, got {number} for "
                f"{groups.number}. Give micro_batches, some for each group; they change no result."
            )
        if any(isinstance(module, BatchNorm) for module in model.modules()):
            raise ConfigError(
                "trainer: batch normalisation is over all nodes of a step, and micro-batches are "
                "computed one by one. Leave out micro_batches and groups, or batch normalisation."
            )
        if any(is_sharded(parameter) for parameter in model.parameters()):
            raise ConfigError(
                "trainer: learned vectors of nodes have no sum over groups yet, and the model has "
                "some. Leave out micro_batches and groups, or give the nodes features."
            )
        self.number, self.taken = number, 0
        self._groups, self._stages = groups, stages
        self._buckets = list(gradient_buckets(model.parameters()))
        self._queue = BatchQueue(
            number,
            groups.world.counter(),
            preparing or groups.comm,
            stages if preparing is None else None,
        )
        self._begin()

    def pulled(self, steps: Iterable[Step]) -> Iterator[MicroBatch | StepEnd]:
        """Yield the parts of each step that this group pulls; collective in the group."""
        for step in steps:
            for number in self._queue.step():
                batch = step(number, self.number)
                yield MicroBatch(batch.view, batch.step_targets, batch.rows, number)
            yield StepEnd()

    def by_group(self) -> list[int]:
        """Return how many micro-batches each group has computed so far; collective."""
        taken = self._groups.across.all_gather_int(self.taken, stage="micro-batches by group")
        return [int(count) for count in taken]

    def _begin(self) -> None:
        self._sums = np.zeros((self.number, 2))
        self._numbers: list[int] = []  # of what is kept; of a sum, the last in it
        self._kept: list[list[Array]] = []  # by micro-batch, by bucket
        self._is_prefix = True  # what is kept is the sum of all micro-batches so far

    def add(self, number: int, loss: float, count: int) -> None:
        """Add what a micro-batch has left in the parameters' `grad`; collective in the group.

        Args:
            number: Which micro-batch; in ascending order.
            loss: Sum over its targets on this worker.
            count: Those targets.
        """
        comm, self.taken = self._groups.comm, self.taken + 1
        self._sums[number] = loss, count
        share = [_summed_share(flatten_gradients(bucket).numpy(), comm) for bucket in self._buckets]
        before = self._numbers[-1] if self._numbers else -1
        self._is_prefix &= before == number - 1
        if self._is_prefix and self._kept:
            for total, more in zip(self._kept[0], share, strict=True):
                total += more
            self._numbers[0] = number
        else:
            self._kept.append(share)
            self._numbers.append(number)

    def finish(self) -> tuple[float, int]:
        """Leave the gradient of the step's mean loss in `grad`; collective over all groups.

        Returns:
            That loss, and the number of the step's targets.
        """
        comm, across = self._groups.comm, self._groups.across
        with self._stages.timed("backward", Stage("wait for groups")):
            taken = across.all_gather(np.array(self._numbers, np.int64), stage="wait for groups")
        comm.all_reduce(self._sums, stage="loss")
        across.all_reduce(self._sums, stage="loss of all groups")  # zero but in one group: exact
        loss, count = _in_order(self._sums).tolist()
        for number, bucket in enumerate(self._buckets):
            size = sum(parameter.numel() for parameter in bucket)
            mine = [share[number] for share in self._kept]
            like = torch.empty(0, dtype=bucket[0].dtype).numpy()
            total = _summed_across(mine, taken, across, _share(size, comm), like)
            total /= count
            for part in (across, comm):
                total = np.concatenate(part.all_gather(total, stage="gather gradients"))
            assign_gradients(torch.from_numpy(total), bucket)
        self._begin()
        return loss / count, int(count)


def _share(size: int, comm: Communicator) -> int:
    """Return how many of `size` numbers are this worker's, as `np.array_split` has it."""
    return size // comm.size + (comm.rank < size % comm.size)


def _summed_share(gradient: Array, comm: Communicator) -> Array:
    """Return this worker's share of a gradient, summed over the workers of its group."""
    slices = np.array_split(gradient, comm.size)
    parts = [np.empty_like(slices[comm.rank]) for _ in slices]
    comm.exchange(dict(enumerate(slices)), dict(enumerate(parts)), stage="reduce gradients").wait()
    return _in_order(parts)


def _summed_across(
    mine: Sequence[Array], taken: Sequence[Array], across: Communicator, size: int, like: Array
) -> Array:
    """Return this worker's share of what all groups keep, summed in the order of micro-batches.

    Args:
        mine: (size,) each: what this group keeps of the share that its workers of this rank have.
        taken: The micro-batches that each group keeps.
        across: Those workers.
        size: Of their share.
        like: Of the same type.
    """
    width = _share(size, across)
    pieces = [np.array_split(share, across.size) for share in mine]
    send = {
        group: np.concatenate([like, *(piece[group] for piece in pieces)])
        for group in range(across.size)
    }
    recv = {group: np.empty(len(kept) * width, like.dtype) for group, kept in enumerate(taken)}
    across.exchange(send, recv, stage="sum gradients across groups").wait()
    order = np.argsort(np.concatenate(taken))
    return _in_order(np.concatenate(list(recv.values())).reshape(len(order), width)[order])


def _in_order(rows: Iterable[Array] | Array) -> Array:
    """Return the sum of rows, one after the other."""
    first, *others = rows
    total: Array = first.copy()
    for row in others:
        total += row
    return total
