"""What a sweep optimises, and the callback that watches it in every epoch of a trial."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from graphtheta.errors import ConfigError
from graphtheta.sweep.plan import SweepPlan
from graphtheta.sweep.search import Search
from graphtheta.sweep.trial import Trial
from graphtheta.task.metrics import METRICS
from graphtheta.train.callbacks import Callback
from graphtheta.train.trainer import Trainer

__all__ = ["Watch", "higher_is_better"]


def higher_is_better(plan: SweepPlan) -> bool | None:
    """Return whether a sweep maximises; None if the metric of its runs decides.

    Raises:
        ConfigError: If the sweep has a `monitor` of which that is not known, and no direction.
    """
    monitor, direction = plan.options.monitor, plan.options.direction
    if direction is not None:
        return direction == "maximize"
    if monitor is None:
        return None
    name = re.sub("^(train|val|test)_", "", monitor)
    if name == "loss":
        return False
    known = METRICS[name].higher_is_better if name in METRICS else None
    if known is None:
        raise ConfigError(
            f"{plan.source}: expected sweep.direction with monitor = '{monitor}', got none. Add "
            "maximize or minimize."
        )
    return known


class Watch(Callback):
    """Callback that reports each evaluation to the search, and stops trials that it gives up.

    Args:
        trial: The trial, before its first epoch.
        plan: The sweep.
        search: The search, on rank 0.
    """

    def __init__(self, trial: Trial, plan: SweepPlan, search: Search | None) -> None:
        self.trial = trial
        self._monitor, self._higher = plan.options.monitor, higher_is_better(plan)
        self._search, self._epochs = search, 0

    def on_fit_begin(self, trainer: Trainer, epochs: int) -> None:
        self._epochs = epochs
        if self.trial.monitor:  # known since the replay of earlier epochs
            return
        metric = trainer.task.metric
        monitor = self._monitor or f"val_{metric.name}"
        higher = metric.higher_is_better if self._higher is None else self._higher
        update = {"monitor": monitor, "higher_is_better": higher}
        self.trial = self.trial.model_copy(update=update)

    def on_epoch_end(self, trainer: Trainer, epoch: int, metrics: dict[str, float]) -> None:
        value = metrics.get(self.trial.monitor, math.nan)
        if self._search is None or not math.isfinite(value):
            return
        reports = {**self.trial.reports, epoch: value}
        self.trial = self.trial.model_copy(update={"reports": reports})
        cost = -value if self.trial.higher_is_better else value
        if self._search.report(epoch, cost) and epoch + 1 < self._epochs:
            self.trial = self.trial.model_copy(update={"state": "pruned", "value": value})
            trainer.stop()

    def replay(self, trainer: Trainer, epochs: int, path: Path) -> bool:
        """Report the epochs before a resume, from the file `metrics.jsonl`.

        Returns:
            Whether the search had given up the trial when it was interrupted; False on other ranks.
        """
        self.on_fit_begin(trainer, epochs)
        if self._search is not None and path.exists():
            for line in path.read_text().splitlines():
                record = json.loads(line)
                self.on_epoch_end(trainer, record["epoch"], record)
        return self.trial.state == "pruned"
