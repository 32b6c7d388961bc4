"""TensorBoard events of a run."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from graphtheta.train.run_dir import RunDirectory

__all__ = ["EventWriter"]


class EventWriter:
    """Writes scalars under the run folder; without one, writes nothing."""

    def __init__(self, run_dir: RunDirectory | None) -> None:
        self._writer: Any = None
        if run_dir is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            # Ctrl-C in the middle of a write can leave its thread asleep, which `close` waits for,
            # until the next flush: two minutes by default.
            self._writer = SummaryWriter(str(run_dir.path / "events"), flush_secs=2)

    def write(self, epoch: int, record: Mapping[str, float]) -> None:
        """Add the numbers of an epoch."""
        if self._writer is not None:
            for name, value in record.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, epoch)

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()
