"""Trainer: the loop one can read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphtheta.comm.groups import Groups
from graphtheta.comm.timers import Stage, StageTimers
from graphtheta.errors import ConfigError
from graphtheta.inference.whole import gather_rows, infer
from graphtheta.shard.shard import Shard
from graphtheta.strategy import Batch, GlobalBatch, Strategy
from graphtheta.strategy.prefetch import prefetch_batches
from graphtheta.task import NodePrediction, Task
from graphtheta.tgar import count_layers
from graphtheta.train.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from graphtheta.train.events import EventWriter
from graphtheta.train.gradients import broadcast_model, reduce_gradients
from graphtheta.train.history import History
from graphtheta.train.micro_batches import MicroBatch, MicroBatches, StepEnd
from graphtheta.train.progress import ProgressBar
from graphtheta.train.run_dir import RunDirectory
from graphtheta.train.signals import SignalRequests, Stopped, catch_signals
from graphtheta.train.summary import summarise

__all__ = ["OPTIMIZERS", "Trainer"]

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


class Trainer:
    """Train a model on a shard, together with the other workers.

    Every worker builds one with the same arguments and calls the same methods in the same order.

    Args:
        model: Called as model(view, x); it is moved to the shard's device, and rank 0's weights are
            taken by all.
        shard: This worker's share of the graph.
        task: What is learned; if None, a label of nodes.
        strategy: Which targets make a step; global-batch if None.
        label: Without a task, which label; the only one, or "y", if None.
        split: Without a task, which split column; the only one, or "split", if None.
        optimizer: A key of `OPTIMIZERS`.
        lr: Learning rate.
        weight_decay: Of all parameters.
        seed: Of dropout and of everything else that is drawn while training.
        prefetch: Batches prepared ahead, in the background; the results are the same for any
            number.
        groups: Of which `shard.comm` is one; None: all workers are of one. Each group computes on
            micro-batches of its own; the results are the same for any number of groups.
        micro_batches: Parts that a step is computed in, one after the other, or by groups at the
            same time: at least as many as groups. More of them change rounding alone.
        patience: End after so many epochs without a better validation; None trains them all.
        evaluate_every: Epochs between evaluations.
        run_dir: Where files of the run go; None writes none.
        checkpoint_every: Epochs between checkpoints; 0 saves on SIGTERM and SIGUSR1 only.
        progress: Whether rank 0 draws a progress bar.

    Raises:
        ConfigError: If a name or number is wrong.
        GraphFormatError: If nothing is in the training split.
    """

    def __init__(
        self,
        model: nn.Module,
        shard: Shard,
        *,
        task: Task | None = None,
        strategy: Strategy | None = None,
        label: str | None = None,
        split: str | None = None,
        optimizer: str = "adam",
        lr: float = 0.01,
        weight_decay: float = 0.0,
        seed: int = 0,
        prefetch: int = 0,
        groups: Groups | None = None,
        micro_batches: int = 1,
        patience: int | None = None,
        evaluate_every: int = 1,
        run_dir: RunDirectory | Path | str | None = None,
        checkpoint_every: int = 0,
        progress: bool = False,
    ) -> None:
        if optimizer not in OPTIMIZERS:
            raise ConfigError(
                f"optimizer: unknown '{optimizer}'; choose one of {sorted(OPTIMIZERS)}."
            )
        if isinstance(strategy, str):
            raise ConfigError(
                f"trainer: expected a strategy such as gt.MiniBatch(1024), got the name "
                f"'{strategy}'. Make one."
            )
        if prefetch < 0:
            raise ConfigError(f"trainer: expected prefetch >= 0, got {prefetch}.")
        if lr <= 0 or weight_decay < 0:
            raise ConfigError(
                f"trainer: expected lr > 0 and weight_decay >= 0, got {lr} and {weight_decay}."
            )
        self.groups = groups or Groups(shard.comm)
        if self.groups.comm is not shard.comm:
            raise ConfigError(
                "trainer: expected a shard of this worker's group, got one of other workers. Open "
                "it with groups.comm."
            )
        self.model, self.shard, self.comm = model.to(shard.device), shard, shard.comm
        self.world = self.groups.world
        self.strategy = strategy or GlobalBatch()
        self.seed, self.prefetch, self.patience = seed, prefetch, patience
        self.evaluate_every, self.checkpoint_every = max(1, evaluate_every), checkpoint_every
        self.history = History()
        self.stages = StageTimers()
        self._dtype = next(model.parameters()).dtype
        self.task = (task or NodePrediction(label, split)).bind(self.model, shard, seed)
        self._best_weights: dict[str, Tensor] | None = None
        self._last_weights: dict[str, Tensor] | None = None
        self._run_dir = RunDirectory(Path(run_dir)) if isinstance(run_dir, str | Path) else run_dir
        self._progress = progress and self.world.rank == 0
        broadcast_model(model, self.world)
        preparing = shard.comm.split(0) if prefetch else None
        self._micro = None
        if self.groups.number > 1 or micro_batches != 1:
            self._micro = MicroBatches(micro_batches, self.groups, model, self.stages, preparing)
        self._steps = self.strategy.schedule(
            self.task.message_shard,
            self.task.targets,
            layers=count_layers(model),
            seed=seed,
            comm=preparing,
        )
        self.optimizer = OPTIMIZERS[optimizer](model.parameters(), lr=lr, weight_decay=weight_decay)

    # -- the loop ---------------------------------------------------------------------------------

    def fit(self, epochs: int) -> dict[str, Any]:
        """Train until `epochs` epochs are done in all, or validation stops getting better.

        Afterwards the model holds the weights of the best epoch: the one with the best validation
        metric, the first on ties, or the last one where there is none. To go on with more epochs is
        to go on from the last.

        Returns:
            The summary, which is also written to the run folder.
        """
        last = len(self.history.loss) - 1
        self._leave_best_weights()
        with (
            catch_signals() as requests,
            ProgressBar(epochs, len(self.history.loss), self._progress) as progress,
            EventWriter(self._run_dir if self.world.rank == 0 else None) as events,
        ):
            for epoch in range(len(self.history.loss), epochs):
                if self._patience_is_over(epoch):
                    break
                record = self._epoch(epoch)
                last = epoch
                events.write(epoch, record)
                progress.advance(record)
                asked, stop = self._agreed(requests)
                regular = self.checkpoint_every > 0 and (epoch + 1) % self.checkpoint_every == 0
                ends = epoch == epochs - 1 or self._patience_is_over(epoch + 1)
                if self._run_dir is not None and (asked or regular or ends):
                    self.save(epoch + 1)
                if stop:
                    raise Stopped(epoch + 1)  # on all ranks alike
        if self._run_dir is not None:
            self.save(len(self.history.loss))  # so that a run can go on with more epochs
        if self._best_weights is not None:
            self._last_weights = self._copied_weights()
            self.model.load_state_dict(self._best_weights)
        return self._finish(last)

    def _leave_best_weights(self) -> None:
        """Go on where training was, unless the caller has given the model other weights since."""
        best, last = self._best_weights, self._last_weights
        self._last_weights = None
        if best is None or last is None:
            return
        if all(torch.equal(best[name], t) for name, t in self.model.state_dict().items()):
            self.model.load_state_dict(last)

    def _copied_weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch, evaluate, and return what is worth a line of metrics."""
        start = time.perf_counter()
        loss = self._train_epoch(epoch)
        seconds = time.perf_counter() - start
        if not np.isfinite(loss):
            raise ConfigError(
                f"trainer: the loss became {loss} in epoch {epoch}. Lower the learning rate "
                "(--lr), or look for extreme features."
            )
        self.history.loss.append(loss)
        self.history.epoch_seconds.append(seconds)
        record = {"epoch": epoch, "loss": loss, "seconds": seconds}
        if (epoch + 1) % self.evaluate_every == 0:
            metrics = self.evaluate()
            record |= metrics
            self._remember_best(epoch, metrics)
        if self._run_dir is not None and self.world.rank == 0:
            self._run_dir.append_metrics(record)
        return record

    def _train_epoch(self, epoch: int) -> float:
        self.model.train()
        total, count = 0.0, 0
        steps = self._steps(epoch)
        made = (step() for step in steps) if self._micro is None else self._micro.pulled(steps)
        batches = prefetch_batches(made, self.prefetch, self.stages)
        with self.stages.rest("forward", Stage("other")):
            while (batch := self._prepared(batches)) is not None:
                loss, targets = self._step(batch)
                total, count = total + loss * targets, count + targets
        return total / count

    def _prepared(self, batches: Iterator[Batch | StepEnd]) -> Batch | StepEnd | None:
        with self.stages.rest("forward", Stage("prepare")):
            return next(batches, None)

    def _step(self, batch: Batch | StepEnd) -> tuple[float, int]:
        """Run one optimiser update; return the mean loss of its targets and their number.

        A micro-batch is none by itself, and counts nothing: the end of its step does.
        """
        if isinstance(batch, MicroBatch):
            self._micro_batch(batch)
            return 0.0, 0
        if isinstance(batch, StepEnd):
            assert self._micro is not None
            with self.stages.rest("backward", Stage("reduce")):
                mean, targets = self._micro.finish()
        else:
            loss, count = self._forward(batch)
            sums = np.array([float(loss.detach()), count], np.float64)
            self.comm.all_reduce(sums, stage="loss")
            self._backward(loss / sums[1], batch)
            with self.stages.timed("backward", Stage("reduce")):
                reduce_gradients(self.model.parameters(), self.comm)
            mean, targets = float(sums[0] / sums[1]), int(sums[1])
        with self.stages.timed("backward", Stage("update")):
            self.optimizer.step()
        return mean, targets

    def _micro_batch(self, batch: MicroBatch) -> None:
        """Add the gradient of a part of a step to those of the others."""
        assert self._micro is not None
        loss, count = self._forward(batch)
        self._backward(loss, batch)
        with self.stages.timed("backward", Stage("reduce")):
            self._micro.add(batch.number, float(loss.detach()), count)

    def _forward(self, batch: Batch) -> tuple[Tensor, int]:
        """Return the summed loss of this worker's targets, and their number."""
        self.shard.channel.stages = self.stages
        self.optimizer.zero_grad()
        outputs = self.model(batch.view, batch.view.inputs(self._dtype))
        self.task.check(outputs)
        return batch.step_targets.loss(batch.view, outputs[batch.rows])

    def _backward(self, loss: Tensor, batch: Batch) -> None:
        with (
            self.stages.rest("backward", Stage("transform and apply")),
            torch.autograd.set_multithreading_enabled(False),  # see `View.token`
        ):
            torch.autograd.backward(loss + batch.view.token)

    # -- evaluation and prediction ----------------------------------------------------------------

    def evaluate(self) -> dict[str, float]:
        """Return loss and metrics of the splits, dropout off; collective.

        Every group computes them, and takes those of the first, so that all go on alike.

        Names are `val_accuracy`, `test_loss` and the like.
        """
        self.shard.channel.stages = StageTimers()  # evaluation is not part of a step's stages
        result = self.task.evaluate()
        values = np.array(list(result.values()))
        self.world.broadcast(values, stage="metrics of the first group")
        return dict(zip(result, values.tolist(), strict=True))

    def predict(self) -> Tensor | None:
        """Return the model's outputs in the order of the input nodes; collective.

        Returns:
            (N, outputs) on rank 0 (of every group), None elsewhere.
        """
        return gather_rows(infer(self.model, self.task.message_shard), self.shard)

    def _remember_best(self, epoch: int, metrics: dict[str, float]) -> None:
        main = self.task.metric
        key = f"val_{main.name}"
        sign = 1 if main.higher_is_better else -1
        before = self.history.best.get(key)
        if key not in metrics:  # nothing to compare: the last one counts
            self.history.best = metrics
        elif before is None or sign * metrics[key] > sign * before:
            self.history.best_epoch, self.history.best = epoch, metrics
            self._best_weights = self._copied_weights()

    def _patience_is_over(self, epoch: int) -> bool:
        best = self.history.best_epoch
        return self.patience is not None and best >= 0 and epoch - best > self.patience

    # -- checkpoints and files --------------------------------------------------------------------

    def _agreed(self, requests: SignalRequests) -> tuple[bool, bool]:
        """Whether any rank was asked to save, and to stop; a signal need not reach them all."""
        flags = np.array(requests.take(), np.int8)
        self.world.all_reduce(flags, "max", stage="signals")
        return bool(flags[0]), bool(flags[1])

    def save(self, epochs_done: int) -> None:
        """Write a checkpoint to the run folder; collective."""
        if self._run_dir is None:
            raise ConfigError("trainer: a checkpoint needs a run_dir.")
        if self.groups.index == 0:
            save_checkpoint(
                self._run_dir.checkpoints,
                epochs_done,
                self.model,
                self.shard,
                self._best_weights,
                self.optimizer,
                {"history": vars(self.history), "seed": self.seed, "graph": self._graph_size()},
            )
        self.world.barrier(stage="checkpoint")

    def _graph_size(self) -> str:
        manifest = self.shard.manifest
        return f"{manifest.num_nodes:,} nodes and {manifest.num_edges:,} edges"

    def resume(self) -> int:
        """Continue from the newest checkpoint of the run folder, if there is one; collective.

        Returns:
            Epochs already done.
        """
        if self._run_dir is None:
            raise ConfigError("trainer: resuming needs a run_dir.")
        path = latest_checkpoint(self._run_dir.checkpoints)
        if path is None:
            if self.world.rank == 0:
                self._run_dir.truncate_metrics(0)
            return 0
        progress, best = load_checkpoint(path, self.model, self.shard, self.optimizer)
        if progress["seed"] != self.seed:
            raise ConfigError(
                f"{path}: it was trained with seed {progress['seed']}, not {self.seed}."
            )
        if progress["graph"] != self._graph_size():
            raise ConfigError(
                f"{path}: it was trained on a graph of {progress['graph']}, this one has "
                f"{self._graph_size()}. Name the input of that run."
            )
        self.history = History(**progress["history"])
        self._best_weights, self._last_weights = best, None
        epochs = int(progress["epoch"])
        if self.world.rank == 0:
            self._run_dir.truncate_metrics(epochs)
        return epochs

    def _finish(self, last_epoch: int) -> dict[str, Any]:
        summary = summarise(
            history=self.history,
            last_epoch=last_epoch,
            metric=self.task.metric,
            stages=self.stages,
            shard=self.shard,
            groups=self.groups,
            micro_batches=self._micro.by_group() if self._micro is not None else [],
            seed=self.seed,
        )
        if self._run_dir is not None and self.groups.index == 0:
            save_weights(self.model, self.shard, self._run_dir.weights)
            if self.comm.rank == 0:
                self._run_dir.write_summary(summary)
        self.world.barrier(stage="summary")
        return summary
