"""TensorBoard events of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphtheta.train.run_dir import RunDirectory

__all__ = ["EventWriter"]


class EventWriter:
    """Writer of scalars to the run directory; without a run directory it writes nothing."""

    def __init__(self, run_dir: RunDirectory | None) -> None:
        self._writer: Any = None
        if run_dir is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            # Ctrl-C in the middle of a write can leave the writer's thread asleep until its next
            # flush, which `close` waits for; the default is every two minutes.
            with run_dir.writing("events"):
                self._writer = SummaryWriter(str(run_dir.path / "events"), flush_secs=2)

    def write(self, epoch: int, record: Mapping[str, float]) -> None:
        """Add the numbers of an epoch."""
        if self._writer is not None:
            for name, value in record.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        """Write what is pending, and close the files."""
        if self._writer is not None:
            self._writer.close()
