"""TensorBoard events of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphtheta.train.run_dir import RunDirectory

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger:
    """Logger that writes scalars to the folder `events` of a run directory."""

    def __init__(self, run_dir: RunDirectory) -> None:
        self._run_dir = run_dir
        self._writer: Any = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            # Ctrl-C in the middle of a write can leave the writer's thread asleep until its next
            # flush, which `close` waits for; the default is every two minutes.
            with self._run_dir.writing("events"):
                self._writer = SummaryWriter(str(self._run_dir.path / "events"), flush_secs=2)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is pending, and close the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
