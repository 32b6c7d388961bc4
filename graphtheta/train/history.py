"""Losses, times and best metrics of a training run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from graphtheta.errors import ConfigError, LossNotFinite
from graphtheta.task.metrics import MainMetric

__all__ = ["History", "PartialEpoch"]

_log = logging.getLogger("graphtheta")


@dataclass
class History:
    """Record of a training run, which is saved in checkpoints.

    Attributes:
        loss: Mean training loss of each epoch.
        epoch_seconds: Training time of each epoch, without evaluation, in seconds.
        best_epoch: Epoch with the best validation metric, counted from 0; -1 before the first.
        best: Metrics of that epoch, such as `val_accuracy`; those of the last evaluation if there
            is no validation metric.
        steps: Number of steps trained. Checkpoints of earlier versions have 0.
        stop_reason: Why training ended: "epochs", "patience", "callback" or "signal"; that of the
            last `fit`, or empty before.
    """

    loss: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    best_epoch: int = -1
    best: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    stop_reason: str = ""

    def record_epoch(self, epoch: int, loss: float, seconds: float) -> dict[str, float]:
        """Record the loss and the time of an epoch, and return its line of metrics.

        Raises:
            ConfigError: If the loss is not finite.
        """
        if not math.isfinite(loss):
            raise LossNotFinite(
                f"trainer: expected a finite loss, but the loss became {loss} in epoch {epoch}. "
                "Lower the learning rate (--lr), or look for extreme features."
            )
        self.loss.append(loss)
        self.epoch_seconds.append(seconds)
        return {"epoch": epoch, "loss": loss, "seconds": seconds}

    def record_metrics(self, epoch: int, metrics: Mapping[str, float], main: MainMetric) -> bool:
        """Record the metrics of an evaluation; return whether the epoch is the best so far.

        Of equally good epochs the first one is the best.
        """
        key, sign = f"val_{main.name}", 1 if main.higher_is_better else -1
        before = self.best.get(key)
        is_best = key in metrics and (before is None or sign * metrics[key] > sign * before)
        if is_best or key not in metrics:
            self.best = dict(metrics)
        if is_best:
            self.best_epoch = epoch
        return is_best

    def is_patience_over(self, epoch: int, patience: int | None) -> bool:
        """Return whether more than `patience` epochs before `epoch` brought no improvement."""
        return patience is not None and self.best_epoch >= 0 and epoch - self.best_epoch > patience

    def warn_if_done(self, epochs: int, patience: int | None) -> None:
        """Warn if a run of `epochs` epochs has none left to train."""
        done = len(self.loss)
        if done and done >= epochs:
            _log.warning(
                "trainer: already trained for %d epochs; fit(epochs=%d) counts them and trains "
                "nothing. Use more epochs, such as %d.",
                *(done, epochs, done + max(1, epochs)),
            )
        elif done and self.is_patience_over(done, patience):
            _log.warning(
                "trainer: already trained for %d epochs, the last %d of them without a better "
                "validation metric; patience is over, and fit trains nothing. Use a larger "
                "patience.",
                *(done, done - 1 - self.best_epoch),
            )


@dataclass
class PartialEpoch:
    """Part of an epoch that is trained, which a checkpoint within the epoch saves.

    Attributes:
        steps: Number of its steps that are trained.
        of: Number of steps of the whole epoch, in a checkpoint.
        loss: Sum of the losses of their targets.
        targets: Number, or summed weight, of their targets.
        seconds: Time that they took.
    """

    steps: int = 0
    of: int = 0
    loss: float = 0.0
    targets: float = 0.0
    seconds: float = 0.0

    def check(self, done: int, epochs: int) -> None:
        """Raise a ConfigError if this part is of none of the epochs from `done` to `epochs`."""
        if self.steps and epochs <= done:
            raise ConfigError(
                f"trainer: expected epochs (--epochs) >= {done + 1}, since the run continues "
                f"within epoch {done + 1}, got {epochs}. Use more epochs."
            )
