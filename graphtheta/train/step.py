"""One optimiser update: forward, backward, sum of gradients over the workers, update."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from graphtheta.comm.timers import Stage, StageTimers
from graphtheta.errors import ConfigError
from graphtheta.inference.run_model import run_model
from graphtheta.optim.clipping import clip_gradients
from graphtheta.optim.learning_rate import LearningRate
from graphtheta.optim.row_optimizer import RowOptimizer
from graphtheta.shard.shard import Shard
from graphtheta.strategy import Batch
from graphtheta.task import BoundTask
from graphtheta.tgar import WorkerIndependent
from graphtheta.train.gradients import reduce_gradients
from graphtheta.train.micro_batches import MicroBatch, MicroBatches, StepEnd
from graphtheta.wording import counted

__all__ = ["StepRunner"]


class StepRunner:
    """Optimiser updates of a model on prepared batches.

    Args:
        model: Model in training.
        optimizer: Optimiser of its parameters.
        task: Task of the model.
        shard: This worker's share of the graph.
        stages: Timers that the stages of a step are added to.
        micro_batches: Sum of the gradients of micro-batches, if steps are divided into them.
        rate: Learning rate of the optimiser.
        clip: Largest norm of the gradients of a step. If None, they are not clipped.
        accumulate: Number of batches whose gradients one update sums.
        bf16: Whether the model's products are in bfloat16.

    Attributes:
        bf16: As given.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: RowOptimizer,
        task: BoundTask,
        shard: Shard,
        stages: StageTimers,
        micro_batches: MicroBatches | None,
        *,
        rate: LearningRate,
        clip: float | None = None,
        accumulate: int = 1,
        bf16: bool = False,
    ) -> None:
        self._model, self._optimizer, self._task = model, optimizer, task
        self._shard, self._stages, self._micro_batches = shard, stages, micro_batches
        self._rate, self._clip, self._accumulate = rate, clip, accumulate
        self._device, self.bf16 = shard.device.type, bf16
        self._num_pending, self._pending_targets = 0, 0.0  # batches since the last update
        self._is_checked = False

    def begin_epoch(self, epoch: int, steps: int = 0) -> None:
        """Start an epoch after some of its steps, and forget the batches of an interrupted one."""
        self._num_pending = self._pending_targets = 0
        self._rate.begin_epoch(epoch, steps // self._accumulate)

    @property
    def is_updated(self) -> bool:
        """Whether the parameters are updated by all batches so far."""
        return not self._num_pending

    def run(self, batch: Batch | StepEnd) -> tuple[float, float]:
        """Compute a batch, and update the parameters at the end of its step; collective.

        Returns:
            Mean loss of the step's targets and their number or summed weight; zeros for a
            micro-batch, since the `StepEnd` after the last one counts the whole step.
        """
        if isinstance(batch, MicroBatch):
            self._add_micro_batch(batch)
            return 0.0, 0.0
        if isinstance(batch, StepEnd):
            assert self._micro_batches is not None
            with self._stages.rest("backward", Stage("reduce")):
                mean, targets = self._micro_batches.finish()
            self.update()
            return mean, targets
        loss, count = self.forward(batch)
        sums = np.array([float(loss.detach()), count], np.float64)
        self._shard.comm.all_reduce(sums, stage="loss")
        weight = float(sums[1]) or 1.0  # a batch whose targets weigh nothing has no loss
        self._num_pending += 1
        self._pending_targets += float(sums[1])
        if self._accumulate == 1:
            self.backward(loss / weight, batch)
            self._pending_targets = 1.0  # the gradient is that of the mean already
        else:
            self.backward(loss, batch)
        if self._num_pending == self._accumulate:
            self.finish()
        return float(sums[0]) / weight, float(sums[1])

    def finish(self) -> None:
        """Make the update of the batches since the last one, if there are any; collective."""
        if not self._num_pending:
            return
        with self._stages.timed("backward", Stage("reduce")):
            reduce_gradients(self._model.parameters(), self._shard.comm)
            if self._pending_targets not in (0, 1):
                for parameter in self._model.parameters():
                    if parameter.grad is not None:
                        parameter.grad /= self._pending_targets
        self._num_pending, self._pending_targets = 0, 0.0
        self.update()

    def update(self) -> None:
        """Update the parameters by their gradients; collective."""
        with self._stages.timed("backward", Stage("update")):
            if self._clip is not None:
                clip_gradients(self._model.parameters(), self._clip, self._shard.comm)
            self._rate.begin_update()
            self._optimizer.step()
            self._rate.end_update()

    def _add_micro_batch(self, batch: MicroBatch) -> None:
        assert self._micro_batches is not None
        loss, count = self.forward(batch)
        self.backward(loss, batch)
        with self._stages.timed("backward", Stage("reduce")):
            self._micro_batches.add(batch.index, float(loss.detach()), count)

    def forward(self, batch: Batch) -> tuple[Tensor, float]:
        """Return the summed loss of this worker's targets, and their number or summed weight.

        Collective. It resets the gradients, unless those of earlier batches wait for an update.
        """
        self._shard.channel.stages = self._stages
        if not self._num_pending:
            self._optimizer.zero_grad()
        # The check costs microseconds per torch call, so that only the first step has it.
        with (
            nullcontext() if self._is_checked else WorkerIndependent(),
            torch.autocast(self._device, torch.bfloat16) if self.bf16 else nullcontext(),
        ):
            outputs = run_model(self._model, batch.view)
        if not self._is_checked and len(batch.rows) and int(batch.rows.max()) >= len(outputs):
            raise ConfigError(
                "trainer: expected a row of outputs for each node, got "
                f"{counted(len(outputs), 'row')}. Return the rows of the last layer."
            )
        self._is_checked = True
        self._task.check(outputs)
        return batch.step_targets.loss(batch.view, outputs[batch.rows])

    def backward(self, loss: Tensor, batch: Batch) -> None:
        """Add the gradients of a loss of a batch to those of the parameters; collective."""
        with (
            self._stages.rest("backward", Stage("transform and apply")),
            torch.autograd.set_multithreading_enabled(False),  # see `View.token`
        ):
            torch.autograd.backward(loss + batch.view.token)
