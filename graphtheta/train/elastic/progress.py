"""Epochs of a run that groups train: losses, metrics, the best weights, and the files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from graphtheta.train.elastic.source import Contribution
from graphtheta.train.elastic.updates import Updates, Version
from graphtheta.train.history import PartialEpoch

__all__ = ["RunProgress"]


class RunProgress:
    """Epochs of a run whose steps and evaluations groups compute.

    Metrics are recorded in the order of the epochs, also if an evaluation is done while later
    epochs are trained.

    Args:
        trainer: The `Trainer` of the run.
        updates: Its model and optimiser.
        epochs: Number of epochs in total.

    Attributes:
        step: Number of steps done.
        steps_per_epoch: Number of steps of an epoch.
        micro_batches: Number of micro-batches of a step.
        loss: Mean loss of the last step, if this process has made one.
    """

    def __init__(self, trainer: Any, updates: Updates, epochs: int) -> None:
        self._trainer, self._updates, self._epochs = trainer, updates, epochs
        self.steps_per_epoch = trainer.batches.num_steps()
        self.micro_batches = int(trainer.micro_batches)
        self.step = len(trainer.history.loss) * self.steps_per_epoch + trainer.part.steps
        self.is_due = False  # whether an epoch has ended after which a checkpoint is saved
        self._started_at = time.perf_counter()
        self._started = -1  # last epoch of which work was leased
        self.loss: float | None = None
        self._waiting: dict[int, dict[str, float]] = {}  # lines of epochs, by epoch
        self._metrics: dict[int, tuple[Mapping[str, float], Version]] = {}

    @contextmanager
    def started(self) -> Iterator[None]:
        """Context in which the run is trained: its directory is locked, its files are open."""
        trainer = self._trainer
        with trainer.saver.locked(), trainer.callbacks.closing(), trainer.rows.lazy():
            trainer.rate.plan(self._epochs, lambda: self.steps_per_epoch)
            trainer.best_weights.restore_last()
            trainer.part.check(len(trainer.history.loss), self._epochs)
            if trainer.part.steps:
                self._begin_epoch(len(trainer.history.loss))
            trainer.callbacks.call("on_fit_begin", trainer, self._epochs)
            yield

    def lease(self, step: int) -> None:
        """Note that a group starts to compute a step: the time of its epoch counts from then on."""
        epoch = step // self.steps_per_epoch
        if epoch > self._started:
            done = self._trainer.part.seconds if epoch == self.step // self.steps_per_epoch else 0.0
            self._started, self._started_at = epoch, time.perf_counter() - done

    def limit(self) -> int:
        """Return how many steps may be done, by what is known of the metrics so far."""
        history, patience, last = self._trainer.history, self._trainer.patience, self._epochs
        if patience is not None and (history.best_epoch >= 0 or not history.best):
            # Before the first metrics, no epoch can be better than the first that is evaluated.
            best = max(history.best_epoch, self._trainer.evaluate_every - 1)
            last = min(last, best + patience + 1)
        return int(max(self.step, last * self.steps_per_epoch))

    def is_evaluated(self, version: int) -> bool:
        """Return whether a version is the end of an epoch that is evaluated."""
        epoch, rest = divmod(version, self.steps_per_epoch)
        return not rest and not epoch % self._trainer.evaluate_every

    def apply(self, results: Sequence[Contribution]) -> None:
        """Make the update of the next step.

        Raises:
            ConfigError: If the loss of an epoch is not finite.
        """
        trainer, part = self._trainer, self._trainer.part
        epoch, number = divmod(self.step, self.steps_per_epoch)
        if not number:
            self._begin_epoch(epoch)
        trainer.callbacks.call("on_step_begin", trainer, self.step)
        loss, count = self._updates.apply(results)
        part.loss, part.targets = part.loss + loss * count, part.targets + count
        part.steps, part.of = part.steps + 1, self.steps_per_epoch
        part.seconds = time.perf_counter() - self._started_at
        trainer.callbacks.call("on_step_end", trainer, self.step, loss)
        self.loss = loss
        self.step += 1
        trainer.history.steps = self.step
        if number == self.steps_per_epoch - 1:
            self._end_epoch(epoch)

    def _begin_epoch(self, epoch: int) -> None:
        trainer = self._trainer
        trainer.callbacks.call("on_epoch_begin", trainer, epoch)
        trainer.runner.begin_epoch(epoch, trainer.part.steps)

    def _end_epoch(self, epoch: int) -> None:
        trainer, part = self._trainer, self._trainer.part
        trainer.part = PartialEpoch()
        loss = part.loss / part.targets if part.targets else float("nan")
        record = trainer.history.record_epoch(epoch, loss, part.seconds) | trainer.rate.rates()
        self.is_due |= trainer.saver.is_due(epoch + 1)
        trainer.rate.end_epoch(record, f"val_{trainer.task.metric.name}")
        self._waiting[epoch] = record
        self._record()

    def add_metrics(self, version: int, metrics: Mapping[str, float], weights: Version) -> None:
        """Add the metrics of the end of an epoch."""
        self._metrics[version // self.steps_per_epoch - 1] = metrics, weights
        self._record()

    def _record(self) -> None:
        """Record the epochs whose metrics are there, up to the first one without."""
        trainer = self._trainer
        for epoch in sorted(self._waiting):
            if self.is_evaluated((epoch + 1) * self.steps_per_epoch):
                if epoch not in self._metrics:
                    return
                metrics, weights = self._metrics.pop(epoch)
                self._waiting[epoch] |= metrics
                if trainer.history.record_metrics(epoch, metrics, trainer.task.metric):
                    with self._updates.loaded(weights):
                        trainer.best_weights.keep()
            trainer.callbacks.call("on_epoch_end", trainer, epoch, self._waiting.pop(epoch))

    def last_step(self) -> dict[str, Any]:
        """Return the line of the last step for a log."""
        step = self.step - 1
        rates = self._trainer.rate.rates()
        return {"step": step, "epoch": step // self.steps_per_epoch, "loss": self.loss, **rates}

    def state(self) -> dict[str, Any]:
        """Return the numbers to show of the epochs."""
        history = self._trainer.history
        epoch, number = divmod(self.step, self.steps_per_epoch)
        return {
            "epoch": epoch,
            "epochs": self._epochs,
            "step": number,
            "steps_per_epoch": self.steps_per_epoch,
            "micro_batches": self.micro_batches,
            "loss": self.loss,
            "epoch_loss": history.loss[-1] if history.loss else None,
            "best_epoch": history.best_epoch,
            "best": dict(history.best),
        }

    def unrecorded(self) -> dict[str, Any]:
        """Return the lines and metrics of epochs that wait for earlier ones, as JSON can hold them.

        The weights of metrics are those of the version at the end of their epoch.
        """
        metrics = [[epoch, dict(found)] for epoch, (found, _) in self._metrics.items()]
        return {"lines": list(map(list, self._waiting.items())), "metrics": metrics}

    def restore(self, saved: Mapping[str, Any], versions: Mapping[int, Version]) -> None:
        """Take up what `unrecorded` has returned.

        Args:
            saved: The lines and metrics.
            versions: The versions that are kept.
        """
        self._waiting = {epoch: dict(line) for epoch, line in saved["lines"]}
        for epoch, metrics in saved["metrics"]:
            self._metrics[epoch] = metrics, versions[(epoch + 1) * self.steps_per_epoch]
        run_dir = self._trainer.saver.run_dir
        if self._waiting and run_dir is not None:
            run_dir.truncate_metrics(min(self._waiting))

    def versions_to_record(self) -> set[int]:
        """Return the versions whose metrics wait to be recorded, which may be the best."""
        return {(epoch + 1) * self.steps_per_epoch for epoch in self._metrics}

    def finish(self, computed: list[int]) -> dict[str, Any]:
        """Write the results of the run, load the best weights, and return the summary.

        Args:
            computed: Number of pieces of work that each group has computed.
        """
        trainer = self._trainer
        done = len(trainer.history.loss)
        trainer.history.stop_reason = "epochs" if done >= self._epochs else "patience"
        trainer.rows.catch_up()
        summary: dict[str, Any] = trainer.finish(computed)
        return summary
