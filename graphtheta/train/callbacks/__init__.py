"""Callbacks of the trainer: progress, loggers and trackers of metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from graphtheta.train.callbacks.callback import Callback, Callbacks
from graphtheta.train.callbacks.csv_file import CSVLogger
from graphtheta.train.callbacks.logger import LogCallback, Logger, MetricsFile
from graphtheta.train.callbacks.progress import ProgressBar
from graphtheta.train.callbacks.tensorboard import TensorBoardLogger
from graphtheta.train.callbacks.trackers import MLflowLogger, WandbLogger
from graphtheta.train.run_dir import RunDirectory

__all__ = [
    "CSVLogger",
    "Callback",
    "Callbacks",
    "Logger",
    "MLflowLogger",
    "WandbLogger",
    "callbacks_of",
]


def callbacks_of(
    run_dir: RunDirectory | None, loggers: Iterable[Any], progress: bool | Literal["lines"]
) -> list[Callback]:
    """Return the callbacks that show and record the metrics of a run.

    Args:
        run_dir: Directory for `metrics.jsonl` and TensorBoard's events, if there is one.
        loggers: Loggers of the user.
        progress: How progress is shown, as for `ProgressBar`.
    """
    files = [] if run_dir is None else [MetricsFile(run_dir), TensorBoardLogger(run_dir)]
    bar = [ProgressBar(progress)] if progress else []
    return [*(LogCallback(logger) for logger in (*files, *loggers)), *bar]
