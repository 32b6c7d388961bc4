"""The progress bar: on rank 0 only, one line; without a terminal, a plain line now and then."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

__all__ = ["ProgressBar"]

_PLAIN_EVERY_S = 10.0


class ProgressBar:
    """Epochs done, time left, and the last loss and validation metric; on stderr."""

    def __init__(self, epochs: int, done: int, shown: bool) -> None:
        console = Console(stderr=True)
        # Under mpiexec there is no terminal, and in a log file a bar would be one line at the end.
        self._plain = shown and not console.is_terminal
        self._console, self._epochs, self._done = console, epochs, done
        self._last_said = time.monotonic()
        self._bar = RichProgress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            disable=not shown or self._plain,
        )
        self._task = self._bar.add_task("epochs", total=epochs, completed=done, numbers="")

    def advance(self, record: Mapping[str, float]) -> None:
        """Move on by one epoch."""
        shown = [
            n for n in record if n in ("loss", "val_accuracy", "val_auroc", "val_f1", "val_rmse")
        ]
        numbers = "  ".join(f"{name} {record[name]:.4f}" for name in shown[:2])
        self._bar.update(self._task, advance=1, numbers=numbers)
        self._done += 1
        if self._plain and time.monotonic() - self._last_said >= _PLAIN_EVERY_S:
            self._last_said = time.monotonic()
            line = f"epoch {self._done} of {self._epochs}  {numbers}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
