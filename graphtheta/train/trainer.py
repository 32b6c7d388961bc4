"""Training of a model on a shard, together with the other workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from graphtheta.comm.groups import Groups
from graphtheta.comm.timers import Stage, StageTimers
from graphtheta.errors import ConfigError
from graphtheta.inference.whole import infer_in_order
from graphtheta.optim.learning_rate import LearningRate, ScheduleLike
from graphtheta.optim.optimizers import ParameterGroups, make_optimizer
from graphtheta.optim.row_optimizer import RowOptimizer
from graphtheta.runtime.numbers import need_whole
from graphtheta.shard.shard import Shard
from graphtheta.strategy import GlobalBatch, Strategy
from graphtheta.task import NodePrediction, Task
from graphtheta.tgar import count_layers
from graphtheta.train.best_weights import BestWeights
from graphtheta.train.callbacks import Callbacks, callbacks_of
from graphtheta.train.checkpoint import InFlight, RunState
from graphtheta.train.columns_read import ColumnReport
from graphtheta.train.elastic.group import ElasticGroup, check_group
from graphtheta.train.elastic.source import ParameterSource
from graphtheta.train.epoch_batches import EpochBatches
from graphtheta.train.gradients import broadcast_model
from graphtheta.train.history import History, PartialEpoch
from graphtheta.train.micro_batches import MicroBatch, MicroBatches
from graphtheta.train.model_check import (
    Precision,
    check_model,
    check_options,
    check_precision,
    refuse_autocast,
)
from graphtheta.train.run_dir import RunDirectory
from graphtheta.train.saving import Pauses, RunSaver
from graphtheta.train.signals import Stopped, agree_on, catch_signals
from graphtheta.train.step import StepRunner
from graphtheta.train.summary import summarise
from graphtheta.wording import counted

__all__ = ["Trainer"]

_log = logging.getLogger("graphtheta")


class Trainer:
    """Trainer of a model on this worker's shard, together with the other workers.

    Every worker constructs one with the same arguments and calls the same methods in the same
    order.

    Args:
        model: Called as model(view, x). It is moved to the shard's device, and all workers take the
            weights of rank 0.
        shard: This worker's share of the graph.
        task: Objective of training; if None, `NodePrediction` of `label` and `split`.
        strategy: Rule that divides targets into steps; if None, `GlobalBatch`.
        label: Name of the node label, without a task. If None, "y" or the only label.
        split: Name of the split column, without a task. If None, "split" or the only one.
        optimizer: A key of `OPTIMIZERS`, an optimiser of the model's parameters, or a function that
            is called with the parameters, or groups of them, and returns one.
        lr: Learning rate of an optimiser by name; if None, 0.01.
        weight_decay: Weight decay of an optimiser by name; if None, 0.
        decay_biases: Whether the weight decay includes parameters of fewer than two dimensions:
            biases, and the scales of norms.
        parameter_groups: Function from the model to groups of parameters with options of their
            own, as the optimisers of torch take them. If None, all parameters are one group.
        clip: Largest global norm of the gradients of a step; larger ones are scaled down to it. If
            None, gradients are not clipped.
        schedule: Schedule of the learning rate: a key of `SCHEDULES`, an object of
            `graphtheta.optim`, a list of learning rates or a JSON file for `read_rates`, or a
            `torch.optim.lr_scheduler` object or a function from the optimiser to one, which is
            advanced after every epoch (after every step as `TorchSchedule(..., by="step")`). If
            None, the rate is constant.
        accumulate: Number of batches whose gradients one update of the optimiser sums: their mean
            over all targets. The last update of an epoch may have fewer.
        precision: "full" for the dtype of the parameters; "bf16" for products of training in
            bfloat16, on the CPU. Weights, exchanges, sums and evaluation stay float32. Losses are
            then the same on any number of workers to the rounding of bfloat16.
        seed: Random seed for dropout, sampling and the order of targets.
        prefetch: Number of batches prepared ahead in the background. It does not change results.
        groups: Groups of workers of which `shard.comm` is one; if None, all workers are one group.
            Each group computes micro-batches of its own. The number of groups does not change
            results.
        micro_batches: Number of micro-batches that a step is computed in, at least as many as
            groups. It changes results by rounding only.
        parameters: Parameter service that this job works for, as one of its groups: a
            `gt.ParameterClient`, or a `gt.ParameterHost` in the same process. It owns the
            parameters, the optimiser and the files; `optimizer` and what follows it, but for
            `precision`, `seed`, `callbacks` and `progress`, are those of the service. If None,
            the job trains by itself.
        patience: Number of epochs without a better validation metric after which training ends; if
            None, all epochs are trained.
        evaluate_every: Number of epochs between evaluations.
        run_dir: Directory for the files of the run; if None, none are written.
        checkpoint_every: Number of epochs between checkpoints; if 0, none are saved by this number.
            They are always saved at the end, and on signals that `fit` handles.
        checkpoint_seconds: Seconds since the last checkpoint, or the start, after which one of the
            next steps saves one, by the clock of rank 0; if 0, none are saved by time.
        progress: How rank 0 shows progress, as for `ProgressBar`.
        callbacks: Objects with some of the methods of `Callback`, called on all workers.
        loggers: Objects with `log(metrics, step)`, which get the metrics of each epoch on rank 0.

    Attributes:
        task: Task bound to the model and the shard.
        history: Losses, times and best metrics so far.
        resumed_from: Checkpoint that the run was continued from, if any.
        stages: Stage timers and byte counters of training.

    Raises:
        ConfigError: If a name or number is wrong.
        GraphFormatError: If the training split is empty.
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
        optimizer: str | torch.optim.Optimizer | Callable[..., torch.optim.Optimizer] = "adam",
        lr: float | None = None,
        weight_decay: float | None = None,
        decay_biases: bool = True,
        parameter_groups: ParameterGroups | None = None,
        clip: float | None = None,
        schedule: ScheduleLike | None = None,
        accumulate: int = 1,
        precision: Precision = "full",
        seed: int = 0,
        prefetch: int = 0,
        groups: Groups | None = None,
        micro_batches: int = 1,
        parameters: ParameterSource | None = None,
        patience: int | None = None,
        evaluate_every: int = 1,
        run_dir: RunDirectory | Path | str | None = None,
        checkpoint_every: int = 0,
        checkpoint_seconds: float = 600.0,
        progress: bool | Literal["lines"] = False,
        callbacks: Iterable[Any] = (),
        loggers: Iterable[Any] = (),
    ) -> None:
        if not isinstance(shard, Shard):
            raise ConfigError(
                f"trainer: expected a shard, got {type(shard).__name__}. Open the graph with "
                "gt.open_shard(graph)."
            )
        self.groups = groups or Groups(shard.comm)
        check_options(
            strategy,
            reals={
                "lr": lr,
                "weight_decay": weight_decay,
                "clip": clip,
                "checkpoint_seconds": checkpoint_seconds,
            },
            integers={
                "seed": seed,
                "prefetch": prefetch,
                "micro_batches": micro_batches,
                "patience": patience,
                "evaluate_every": evaluate_every,
                "checkpoint_every": checkpoint_every,
            },
        )
        if self.groups.comm is not shard.comm:
            raise ConfigError(
                "trainer: expected a shard of this worker's group, got one of other workers. Open "
                "it with groups.comm."
            )
        self.model = check_model(model).to(shard.device)
        check_precision(precision, self.model)
        self.optimizer = make_optimizer(
            optimizer,
            self.model,
            lr=lr,
            weight_decay=weight_decay,
            decay_biases=decay_biases,
            parameter_groups=parameter_groups,
            report=self.groups.world.rank == 0,
        )
        self.rate = LearningRate(schedule, self.optimizer, report=self.groups.world.rank == 0)
        self.accumulate = need_whole(accumulate, "trainer: accumulate", 1)
        self.shard, self.comm = shard, shard.comm
        self.world = self.groups.world
        self.strategy = strategy or GlobalBatch()
        self.seed, self.patience, self.micro_batches = seed, patience, micro_batches
        self.evaluate_every = max(1, evaluate_every)
        self.history = History()
        self.stages = StageTimers()
        self.options = task or NodePrediction(label, split)
        self.task = self.options.bind(self.model, shard, seed)
        if self.world.rank == 0:
            for warning in self.task.warnings:
                _log.warning(warning)
        self._columns = ColumnReport(self.model, shard, (task, strategy))
        self.best_weights = BestWeights(self.model)
        files = RunDirectory(Path(run_dir)) if isinstance(run_dir, str | Path) else run_dir
        self.saver = RunSaver(
            files, self.groups, every=checkpoint_every, seconds=checkpoint_seconds
        )
        last = callbacks_of(files, loggers, progress)
        self.callbacks = Callbacks(callbacks, last if self.world.rank == 0 else ())
        self._stop_requested, self.part, self._source = False, PartialEpoch(), parameters
        self.in_flight: InFlight | None = None
        self.resumed_from: Path | None = None
        if parameters is not None:
            check_group(self.model, self.groups, accumulate, files, micro_batches)
        broadcast_model(model, self.world)
        preparing = shard.comm.split(0) if prefetch else None
        self._micro_batches = None
        if self.groups.number > 1 or micro_batches != 1:
            if self.accumulate != 1:
                raise ConfigError(
                    "trainer: expected accumulate=1 with groups or micro_batches, which divide a "
                    f"step, got {accumulate}. Give the strategy a larger batch (--batch-size)."
                )
            self._micro_batches = MicroBatches(
                micro_batches, self.groups, model, self.stages, preparing
            )
        steps = self.strategy.schedule(
            self.task.message_shard,
            self.task.targets,
            layers=count_layers(model),
            seed=seed,
            comm=preparing,
        )
        self.batches = EpochBatches(steps, self._micro_batches, prefetch, self.stages)
        self.rows = RowOptimizer(self.optimizer)
        self.runner = StepRunner(
            model,
            self.rows,
            self.task,
            shard,
            self.stages,
            self._micro_batches,
            rate=self.rate,
            clip=clip,
            accumulate=self.accumulate,
            bf16=precision == "bf16",
        )

    # -- the loop ---------------------------------------------------------------------------------

    def __repr__(self) -> str:
        task = ", ".join(f"{kind} {name}" for kind, name in self.task.resolved.items())
        epochs = counted(len(self.history.loss), "epoch")
        return (
            f"Trainer({type(self.model).__name__}, {task}, {self.strategy}, "
            f"{counted(self.world.size, 'worker')}, {epochs} trained)"
        )

    def fit(self, epochs: int | None = None, *, signals: bool = False) -> dict[str, Any]:
        """Train until `epochs` epochs are done in total, or patience is over; collective.

        Afterwards the model holds the weights of the best epoch: the first one with the best
        validation metric, or the last epoch if there is no such metric. Calling it again with more
        epochs continues from the last epoch; with as many or fewer, it trains nothing, and a
        warning says so.

        Args:
            epochs: Number of epochs in total, including those of earlier calls and of a run that
                was resumed. With a parameter service, None takes the number of its run.
            signals: Whether to handle signals while it trains, in the main thread: SIGUSR1 saves a
                checkpoint after one of the next steps; SIGTERM and, with a run directory, Ctrl-C
                also end training then.

        Returns:
            The summary, which is also written to the run directory. Its `stop_reason` is "epochs",
            "patience" or "callback".

        Raises:
            ConfigError: If `epochs` is not an integer >= 1, the loss is not finite, the run
                directory cannot be written, or another run is in progress in it.
            Stopped: On SIGTERM and Ctrl-C, with `signals`.
        """
        refuse_autocast(self.shard.device.type)
        if self._source is not None:
            catching = catch_signals(self.world, saves=False) if signals else nullcontext()
            with self.callbacks.closing(), catching as requests:
                return ElasticGroup(self._source, self).run(epochs, requests)
        epochs = need_whole(epochs, "trainer: epochs", 1)
        with self.saver.locked():
            return self._fit(epochs, signals)

    def stop(self) -> None:
        """End `fit` after this epoch, if any worker calls it; for callbacks."""
        self._stop_requested = True

    def _fit(self, epochs: int, signals: bool) -> dict[str, Any]:
        history, has_files = self.history, self.saver.run_dir is not None
        done = len(history.loss)
        if self.world.rank == 0:
            history.warn_if_done(epochs, self.patience)
        self.saver.start_clock()
        self.rate.plan(epochs, lambda: -(-self.batches.num_steps() // self.accumulate))
        self.best_weights.restore_last()
        history.stop_reason, self._stop_requested = "epochs", False
        self.part.check(done, epochs)
        catching = catch_signals(self.world, saves=has_files) if signals else nullcontext()
        with self.callbacks.closing():
            with self.rows.lazy(), catching as requests:
                self._pauses = Pauses(self.saver, self.world, requests, self.batches.num_steps)
                self.callbacks.call("on_fit_begin", self, epochs)
                for epoch in range(done, epochs):
                    if history.is_patience_over(epoch, self.patience):
                        history.stop_reason = "patience"
                        break
                    self.callbacks.call("on_epoch_begin", self, epoch)
                    record = self._epoch(epoch)
                    self.callbacks.call("on_epoch_end", self, epoch, record)
                    is_time = self.saver.is_time()
                    requested, stop, reason = agree_on(
                        self.world, requests, save=is_time, stop=self._stop_requested
                    )
                    history.stop_reason = reason or history.stop_reason
                    if has_files and (requested or self.saver.is_due(epoch + 1)):
                        self.save(epoch + 1)
                    if stop:
                        raise Stopped(epoch + 1, stop)  # on all ranks
                    if history.stop_reason == "callback":
                        break
            return self.finish()

    def finish(self, counts: list[int] | None = None) -> dict[str, Any]:
        """Save a last checkpoint, load the best weights, and write the results; collective."""
        done = len(self.history.loss)
        if self.saver.run_dir is not None and self.saver.num_saved != done:
            self.save(done)  # so that the run can continue with more epochs
        self.best_weights.load()
        summary = summarise(
            history=self.history,
            metric=self.task.metric,
            stages=self.stages,
            shard=self.shard,
            groups=self.groups,
            micro_batches=counts or (self._micro_batches.by_group() if self._micro_batches else []),
            seed=self.seed,
        )
        self.saver.finish(self.state(done), summary, self.task)
        self.callbacks.call("on_fit_end", self, summary)
        return summary

    def _epoch(self, epoch: int) -> dict[str, float]:
        """Train an epoch, evaluate, and return its line of metrics."""
        start = time.perf_counter() - self.part.seconds
        loss = self._train_epoch(epoch, self.part, start)
        self.part = PartialEpoch()
        record = self.history.record_epoch(epoch, loss, time.perf_counter() - start)
        record |= self.rate.rates()
        if (epoch + 1) % self.evaluate_every == 0:
            metrics = self.evaluate()
            record |= metrics
            if self.history.record_metrics(epoch, metrics, self.task.metric):
                self.best_weights.keep()
        self.rate.end_epoch(record, f"val_{self.task.metric.name}")
        return record

    def _train_epoch(self, epoch: int, part: PartialEpoch, start: float) -> float:
        """Run the other steps of an epoch; return the mean loss of its targets."""
        self.model.train()
        self.runner.begin_epoch(epoch, part.steps)
        is_between = True
        with self.stages.rest("forward", Stage("other")):
            for batch in self.batches.of_epoch(epoch, part):
                if is_between:
                    part.seconds = time.perf_counter() - start
                    if part.steps and self.runner.is_updated:
                        self._pauses.after_step(self.state(epoch, part))
                    self.callbacks.call("on_step_begin", self, self.history.steps)
                loss, targets = self.runner.run(batch)
                if self.world.rank == 0:
                    self._columns()
                part.loss, part.targets = part.loss + loss * targets, part.targets + targets
                is_between = not isinstance(batch, MicroBatch)
                if is_between:
                    self.callbacks.call("on_step_end", self, self.history.steps, loss)
                    self.history.steps += 1
                    part.steps += 1
            self.runner.finish()
        return part.loss / part.targets if part.targets else float("nan")

    # -- evaluation and prediction ----------------------------------------------------------------

    def evaluate(self) -> dict[str, float]:
        """Return loss and metrics of all splits, with dropout off; collective.

        Names are those such as `val_accuracy` and `test_loss`. Every group computes the metrics and
        takes those of the first group, so that all groups make the same decisions.
        """
        self.rows.catch_up()
        self.shard.channel.stages = StageTimers()  # evaluation does not count as stages of a step
        result = self.task.evaluate()
        values = np.array(list(result.values()))
        self.world.broadcast(values, stage="metrics of the first group")
        return dict(zip(result, values.tolist(), strict=True))

    def predict(self) -> Tensor | None:
        """Return the model's outputs in the order of the input nodes; collective.

        Returns:
            (N, outputs) on rank 0 of every group, None elsewhere; of the label's node type.
        """
        return infer_in_order(self.model, self.task.message_shard, self.task.resolved.get("label"))

    # -- checkpoints and files --------------------------------------------------------------------

    def save(self, epochs_done: int) -> None:
        """Write a checkpoint to the run directory; collective."""
        self.saver.save(self.state(epochs_done))

    def resume(self) -> int:
        """Continue from the newest whole checkpoint of the run directory, if any; collective.

        Returns:
            Number of finished epochs.

        Raises:
            ConfigError: If another run is in progress in the directory, no checkpoint is whole, or
                they were written with another model, seed or graph.
        """
        state = self.state(0)
        found = self.saver.load(state)
        if found is not None:
            self.resumed_from, self.history, self.part = found, state.history, state.part
            self.in_flight = state.in_flight
            self.best_weights = BestWeights(self.model, state.best)
        return state.epochs

    def state(self, epochs_done: int, part: PartialEpoch | None = None) -> RunState:
        """Return the state that a checkpoint saves."""
        return RunState(
            *(self.model, self.shard, self.optimizer, self.seed, epochs_done, self.history),
            *(self.best_weights.best, self.rate, part or PartialEpoch(), self.rows),
        )
