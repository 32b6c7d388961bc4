"""Steps in micro-batches: assignment to worker groups, and the sum of their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphtheta.comm.batch_queue import BatchQueue
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.groups import Groups
from graphtheta.comm.timers import Stage, StageTimers
from graphtheta.errors import ConfigError
from graphtheta.nn.embedding import ShardedParameter
from graphtheta.strategy import Batch, Step
from graphtheta.train.gradients import assign_gradients, flatten_gradients, gradient_buckets
from graphtheta.wording import counted

__all__ = [
    "MicroBatch",
    "MicroBatches",
    "StepEnd",
    "as_sparse",
    "refuse_statistics",
    "sum_in_order",
    "summed_share",
]

Array = NDArray[Any]


@dataclass(frozen=True)
class MicroBatch(Batch):
    """Micro-batch that this group computes.

    Attributes:
        index: Number of the micro-batch in its step.
    """

    index: int


@dataclass(frozen=True)
class StepEnd:
    """Marker that this group has computed its last micro-batch of a step."""


class MicroBatches:
    """Queue of micro-batches, and the sum of their gradients in ascending order.

    Each worker of a group sums one slice of the gradients. A group keeps the slices of its
    micro-batches until all groups have finished the step. With M micro-batches on P workers this
    takes M / P times the memory of the parameters on each worker, on average over groups. A
    micro-batch is added to the previous one immediately if all micro-batches before it were
    computed by the same group, so that a single group keeps one sum only.

    The result is bit for bit the same for any number of groups of one size, whichever micro-batches
    each of them computed. For groups of another size it differs by rounding.

    Args:
        count: Number of micro-batches of a step.
        groups: The workers.
        model: The model, the same on every worker.
        stages: Timers that the waiting for other groups is added to.
        preparing: Communicator of the group for the preparation of batches in the background; if
            None, the group's own.

    Attributes:
        num_taken: Number of micro-batches that this group has computed so far.

    Raises:
        ConfigError: If there are fewer micro-batches than groups, or the model has batch
            normalisation.

    Communication:
        Within the group, the bytes of all parameters for each micro-batch and once per step. Across
        groups, about M / P times the bytes of all parameters per step, in both directions. The
        gradients of sharded parameters are complete in each group; their rows are sent to all
        other groups.
    """

    def __init__(
        self,
        count: int,
        groups: Groups,
        model: nn.Module,
        stages: StageTimers,
        preparing: Communicator | None = None,
    ) -> None:
        if count < groups.number:
            raise ConfigError(
                f"trainer: expected at least as many micro-batches as groups, got {count} for "
                f"{counted(groups.number, 'group')}. Raise micro_batches; it does not "
                "change the results."
            )
        refuse_statistics(model)
        self.count, self.num_taken = count, 0
        self._groups, self._stages = groups, stages
        self._buckets = list(gradient_buckets(model.parameters()))
        self._sharded = [
            parameter
            for parameter in model.parameters()
            if isinstance(parameter, ShardedParameter) and parameter.requires_grad
        ]
        self._queue = BatchQueue(
            count,
            groups.world.counter(),
            preparing or groups.comm,
            stages if preparing is None else None,
        )
        self._begin()

    def pull(self, steps: Iterable[Step]) -> Iterator[MicroBatch | StepEnd]:
        """Yield the micro-batches that this group computes of each step; collective in the group.

        Each step ends with a `StepEnd`.
        """
        for step in steps:
            for index in self._queue.step():
                batch = step(index, self.count)
                yield MicroBatch(batch.view, batch.step_targets, batch.rows, index)
            yield StepEnd()

    def by_group(self) -> list[int]:
        """Return the number of micro-batches that each group has computed so far; collective."""
        taken = self._groups.across.all_gather_int(self.num_taken, stage="micro-batches by group")
        return [int(count) for count in taken]

    def _begin(self) -> None:
        self._sums = np.zeros((self.count, 2))  # loss and number of targets of each micro-batch
        self._kept: list[list[Array]] = []  # slices of gradients, by micro-batch and bucket
        self._kept_rows: list[list[Tensor]] = []  # sparse gradients of sharded parameters
        self._indices: list[int] = []  # of the kept micro-batches; the last one of a sum
        self._is_prefix = True  # whether _kept is the sum of all micro-batches so far

    def add(self, index: int, loss: float, count: float) -> None:
        """Add the gradients of a micro-batch, found in the parameters' `grad`.

        Collective in the group.

        Args:
            index: Number of the micro-batch; in ascending order.
            loss: Sum of the loss over this worker's targets.
            count: Number, or summed weight, of this worker's targets.
        """
        comm, self.num_taken = self._groups.comm, self.num_taken + 1
        self._sums[index] = loss, count
        share = [summed_share(flatten_gradients(bucket).numpy(), comm) for bucket in self._buckets]
        rows = [as_sparse(parameter) for parameter in self._sharded]
        previous = self._indices[-1] if self._indices else -1
        self._is_prefix &= previous == index - 1
        if self._is_prefix and self._kept:
            for total, more in zip(self._kept[0], share, strict=True):
                total += more
            self._kept_rows[0] = [
                (total + more).coalesce()
                for total, more in zip(self._kept_rows[0], rows, strict=True)
            ]
            self._indices[0] = index
        else:
            self._kept.append(share)
            self._kept_rows.append(rows)
            self._indices.append(index)

    def finish(self) -> tuple[float, float]:
        """Set the parameters' `grad` to the gradient of the step's mean loss.

        Collective over all groups.

        Returns:
            That loss, and the number, or summed weight, of the step's targets.
        """
        comm, across = self._groups.comm, self._groups.across
        with self._stages.timed("backward", Stage("wait for groups")):
            taken = across.all_gather(np.array(self._indices, np.int64), stage="wait for groups")
        comm.all_reduce(self._sums, stage="loss")
        across.all_reduce(self._sums, stage="loss of all groups")  # exact: one term is not zero
        loss, count = sum_in_order(self._sums).tolist()
        weight = count or 1.0  # a step whose targets weigh nothing has no loss
        for number, bucket in enumerate(self._buckets):
            size = sum(parameter.numel() for parameter in bucket)
            mine = [share[number] for share in self._kept]
            like = torch.empty(0, dtype=bucket[0].dtype).numpy()
            total = _summed_across(mine, taken, across, _share(size, comm), like)
            total /= weight
            for workers in (across, comm):
                total = np.concatenate(workers.all_gather(total, stage="gather gradients"))
            assign_gradients(torch.from_numpy(total), bucket)
        for number, parameter in enumerate(self._sharded):
            rows = [kept[number] for kept in self._kept_rows]
            gradient = (_rows_across(rows, taken, across, parameter) / weight).coalesce()
            is_sparse = parameter.is_sparse_for(len(gradient.values()))
            parameter.grad = gradient if is_sparse else gradient.to_dense()
        self._begin()
        return loss / weight, count


def refuse_statistics(model: nn.Module) -> None:
    """Raise a ConfigError if a model needs all nodes of a step at once."""
    if any(getattr(module, "has_statistics", False) for module in model.modules()):
        raise ConfigError(
            "trainer: expected a model without batch normalisation or another layer that needs "
            "all nodes of a step at once, since micro_batches, groups or parameters is given. "
            "Leave out one of them."
        )


def _share(size: int, comm: Communicator) -> int:
    """Return how many of `size` numbers are in this worker's slice, as `np.array_split` cuts."""
    return size // comm.size + (comm.rank < size % comm.size)


def summed_share(gradient: Array, comm: Communicator) -> Array:
    """Return this worker's slice of a gradient, summed over the workers of its group."""
    slices = np.array_split(gradient, comm.size)
    received = [np.empty_like(slices[comm.rank]) for _ in slices]
    send, recv = dict(enumerate(slices)), dict(enumerate(received))
    comm.exchange(send, recv, stage="reduce gradients").wait()
    return sum_in_order(received)


def _summed_across(
    mine: Sequence[Array], taken: Sequence[Array], across: Communicator, size: int, like: Array
) -> Array:
    """Return this worker's slice of the gradients of all groups, summed in ascending order.

    Args:
        mine: (size,) each: the slices that this group keeps.
        taken: Numbers of the micro-batches that each group keeps.
        across: The workers of all groups that sum the same slice; each of them sums a part of it.
        size: Length of the slice.
        like: Empty array of the same dtype.
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
    return sum_in_order(np.concatenate(list(recv.values())).reshape(len(order), width)[order])


def as_sparse(parameter: ShardedParameter) -> Tensor:
    """Return the gradient of a sharded parameter as distinct rows."""
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return gradient.coalesce() if gradient.is_sparse else gradient.to_sparse(1)


def _rows_across(
    mine: Sequence[Tensor], taken: Sequence[Array], across: Communicator, like: ShardedParameter
) -> Tensor:
    """Return the sparse gradient of a sharded parameter, summed over all groups in ascending order.

    Args:
        mine: Sparse gradients that this group keeps.
        taken: Numbers of the micro-batches that each group keeps.
        across: The workers of all groups that hold the same rows.
        like: The parameter.
    """
    keys = [gradient.indices()[0].cpu().numpy() for gradient in mine]
    values = [gradient.values().cpu().numpy() for gradient in mine]
    none = np.empty(0, np.int64), torch.empty(0, like.shape[1], dtype=like.dtype).numpy()
    stage = "sum rows across groups"
    sizes = across.all_gather(np.array([len(rows) for rows in keys], np.int64), stage=stage)
    all_keys = across.all_gather(np.concatenate([none[0], *keys]), stage=stage)
    all_values = across.all_gather(np.concatenate([none[1], *values]), stage=stage)
    stops = np.cumsum(np.concatenate(sizes))
    rows, position = np.unique(np.concatenate(all_keys), return_inverse=True)
    gradient, total = (
        np.concatenate(all_values),
        np.zeros((len(rows), like.shape[1]), none[1].dtype),
    )
    for number in np.argsort(np.concatenate(taken)):
        piece = slice(stops[number - 1] if number else 0, stops[number])
        total[position[piece]] += gradient[piece]  # rows of a piece are distinct
    return torch.sparse_coo_tensor(
        torch.from_numpy(rows)[None],
        torch.from_numpy(total),
        like.shape,
        device=like.device,
        check_invariants=False,  # otherwise torch warns that it does not check
        is_coalesced=True,
    )


def sum_in_order(rows: Iterable[Array] | Array) -> Array:
    """Return the sum of rows, added one after the other."""
    first, *others = rows
    total: Array = first.copy()
    for row in others:
        total += row
    return total
