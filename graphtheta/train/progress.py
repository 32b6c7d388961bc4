"""Progress bar on a terminal, or plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

__all__ = ["ProgressBar"]

_PLAIN_EVERY_S = 10.0


class ProgressBar:
    """Number of epochs done, time left, last loss and validation metric, on stderr.

    Args:
        epochs: Number of epochs of the run.
        done: Epochs that are already done.
        shown: Whether to print anything; with "lines", a line for each epoch. Otherwise it is a bar
            on a terminal, and a line every 10 seconds elsewhere.
    """

    def __init__(self, epochs: int, done: int, shown: bool | Literal["lines"]) -> None:
        console = Console(stderr=True)
        # mpiexec provides no terminal, and in a log file a bar would be one line at the end.
        self._plain = shown == "lines" or (bool(shown) and not console.is_terminal)
        self._plain_every_s = 0.0 if shown == "lines" else _PLAIN_EVERY_S
        self._console, self._epochs, self._done = console, epochs, done
        self._last_printed = time.monotonic()
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
        self._bar.start()

    def advance(self, record: Mapping[str, float]) -> None:
        """Add an epoch, given its line of metrics."""
        shown = [
            n for n in record if n in ("loss", "val_accuracy", "val_auroc", "val_f1", "val_rmse")
        ]
        numbers = "  ".join(f"{name} {record[name]:.4f}" for name in shown[:2])
        self._bar.update(self._task, advance=1, numbers=numbers)
        self._done += 1
        if self._plain and time.monotonic() - self._last_printed >= self._plain_every_s:
            self._last_printed = time.monotonic()
            line = f"{self._done} of {self._epochs} epochs  {numbers}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()
