"""Progress bar on a terminal, or plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from graphtheta.train.callbacks.callback import Callback

__all__ = ["ProgressBar"]

_PLAIN_EVERY_S = 10.0


class ProgressBar(Callback):
    """Number of epochs done, time left, last loss and validation metric, on stderr.

    Args:
        shown: Whether to print anything; with "lines", a line for each epoch. Otherwise it is a bar
            on a terminal, and a line every 10 seconds elsewhere.
    """

    def __init__(self, shown: bool | Literal["lines"]) -> None:
        console = Console(stderr=True)
        # mpiexec provides no terminal, and in a log file a bar would be one line at the end.
        self._plain = shown == "lines" or (bool(shown) and not console.is_terminal)
        self._plain_every_s = 0.0 if shown == "lines" else _PLAIN_EVERY_S
        self._console, self._epochs, self._done = console, 0, 0
        self._last_printed = time.monotonic()
        self._task: TaskID | None = None
        self._bar = RichProgress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            disable=not shown or self._plain,
        )

    def on_fit_begin(self, trainer: Any, epochs: int) -> None:
        self.start(epochs, len(trainer.history.loss))

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: dict[str, float]) -> None:
        self.advance(metrics, f"val_{trainer.task.metric.name}")

    def start(self, epochs: int, done: int) -> None:
        """Show the bar of a run, of which `done` of `epochs` epochs are done already."""
        self._epochs, self._done, self._last_printed = epochs, done, time.monotonic()
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task("epochs", total=epochs, completed=done, numbers="")
        self._bar.start()

    def advance(self, record: Mapping[str, float], main: str = "") -> None:
        """Add an epoch, given its line of metrics and the main one of them."""
        assert self._task is not None
        shown = [name for name in ("loss", main) if name in record]
        numbers = "  ".join(f"{name} {record[name]:.4f}" for name in shown)
        self._bar.update(self._task, advance=1, numbers=numbers)
        self._done += 1
        if self._plain and time.monotonic() - self._last_printed >= self._plain_every_s:
            self._last_printed = time.monotonic()
            line = f"{self._done} of {self._epochs} epochs  {numbers}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()
