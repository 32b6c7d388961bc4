"""The progress bar: on rank 0 only, one line."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

__all__ = ["Progress"]


class Progress:
    """Epochs done, time left, and the last loss and validation metric."""

    def __init__(self, epochs: int, done: int, shown: bool) -> None:
        self._bar = RichProgress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            disable=not shown,
        )
        self._task = self._bar.add_task("epochs", total=epochs, completed=done, numbers="")

    def advance(self, record: Mapping[str, float]) -> None:
        """Move on by one epoch."""
        shown = [
            n for n in record if n in ("loss", "val_accuracy", "val_auroc", "val_f1", "val_rmse")
        ]
        numbers = "  ".join(f"{name} {record[name]:.4f}" for name in shown[:2])
        self._bar.update(self._task, advance=1, numbers=numbers)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
