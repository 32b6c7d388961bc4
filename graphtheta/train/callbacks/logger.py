"""Protocol of loggers, and the callback that passes the metrics of each epoch to one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from graphtheta.errors import ConfigError
from graphtheta.train.callbacks.callback import Callback
from graphtheta.train.run_dir import RunDirectory

__all__ = ["LogCallback", "Logger", "MetricsFile"]


class Logger(Protocol):
    """Object that takes the metrics of each epoch, on rank 0.

    If it has a method `close`, that is called at the end of `fit`.
    """

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take the metrics of an epoch.

        Args:
            metrics: Numbers by name: `loss`, `seconds`, `lr`, and those such as `val_accuracy`.
            step: Number of the epoch, from 0.
        """


class LogCallback(Callback):
    """Callback that passes the metrics of each epoch to a logger.

    Args:
        logger: The logger.

    Raises:
        ConfigError: If it has no method `log`.
    """

    def __init__(self, logger: Any) -> None:
        if isinstance(logger, type) or not callable(getattr(logger, "log", None)):
            name = getattr(logger, "__name__", type(logger).__name__)
            raise ConfigError(
                f"trainer: expected loggers with log(metrics, step), got {name}. Give objects, "
                "such as CSVLogger('metrics.csv')."
            )
        self._logger = logger

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: dict[str, float]) -> None:
        numbers = {name: value for name, value in metrics.items() if name != "epoch"}
        self._logger.log(numbers, epoch)

    def close(self) -> None:
        if hasattr(self._logger, "close"):
            self._logger.close()


class MetricsFile:
    """Logger that appends a line to the file `metrics.jsonl` of a run."""

    def __init__(self, run_dir: RunDirectory) -> None:
        self._run_dir = run_dir

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run_dir.append_metrics({"epoch": step, **metrics})
