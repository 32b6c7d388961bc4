"""Adapters for trackers of experiments, which are imported when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from graphtheta.errors import ConfigError

__all__ = ["MLflowLogger", "WandbLogger"]


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"logger: expected the package {name} to be installed, got: {error}. Install it: pip "
            f"install {name}"
        ) from None


class MLflowLogger:
    """Logger to MLflow.

    It logs to the active run, or else starts one and ends it at the end of `fit`.

    Args:
        experiment: Name of the experiment; if None, MLflow's default.
        tracking_uri: Address or folder of the tracking server; if None, MLflow's default.
        options: Arguments of `mlflow.start_run`, such as run_name.
    """

    def __init__(
        self, experiment: str | None = None, *, tracking_uri: str | None = None, **options: Any
    ) -> None:
        self._experiment, self._tracking_uri, self._options = experiment, tracking_uri, options
        self._mlflow: Any = None
        self._is_mine = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._mlflow is None:
            self._mlflow = _imported("mlflow")
            if self._tracking_uri is not None:
                self._mlflow.set_tracking_uri(self._tracking_uri)
            self._is_mine = self._mlflow.active_run() is None
            if self._is_mine:
                if self._experiment is not None:
                    self._mlflow.set_experiment(self._experiment)
                self._mlflow.start_run(**self._options)
        self._mlflow.log_metrics(dict(metrics), step=step)

    def close(self) -> None:
        """End the run, if this logger has started it."""
        if self._is_mine:
            self._mlflow.end_run()
        self._mlflow, self._is_mine = None, False


class WandbLogger:
    """Logger to Weights & Biases.

    It logs to the active run, or else starts one and finishes it at the end of `fit`.

    Args:
        project: Name of the project; if None, the default of W&B.
        options: Further arguments of `wandb.init`, such as name, config and mode.
    """

    def __init__(self, project: str | None = None, **options: Any) -> None:
        self._options = {"project": project, **options}
        self._run: Any = None
        self._is_mine = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._run is None:
            wandb = _imported("wandb")
            self._is_mine = wandb.run is None
            self._run = wandb.init(**self._options) if self._is_mine else wandb.run
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run, if this logger has started it."""
        if self._is_mine:
            self._run.finish()
        self._run, self._is_mine = None, False
