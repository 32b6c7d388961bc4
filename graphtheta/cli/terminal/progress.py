"""Progress of the phases of a long job on standard error: bars on a terminal, otherwise lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

__all__ = ["PhaseProgress"]

_INTERVAL_S = 10.0  # between lines
_SHORT_S = 1.0  # a phase that is shorter prints no line


class PhaseProgress:
    """Display of the phases of a job, one after the other.

    Args:
        shown: Whether this process shows anything.
    """

    def __init__(self, *, shown: bool) -> None:
        self._console = Console(stderr=True)
        self._shown = shown

    @contextmanager
    def phase(self, title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Show a phase of `total` units of work.

        Returns:
            A context manager; call what it returns with the number of units just completed, from
            any thread.
        """
        if not self._shown:
            yield lambda count: None
        elif self._console.is_terminal:
            with self._bar() as bar:
                task = bar.add_task(title, total=total, unit=unit)
                yield lambda count: bar.advance(task, count)
        else:
            lines = _Lines(self._console, title, total, unit)
            yield lines.advance
            lines.end()

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(),
            TaskProgressColumn(),
            _Rate(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )


class _Lines:
    """Progress as a line every ten seconds, and one at the end of a phase of a second or more."""

    def __init__(self, console: Console, title: str, total: int, unit: str) -> None:
        self._console, self._title, self._total, self._unit = console, title, total, unit
        self._done, self._start = 0, time.monotonic()
        self._printed, self._lock = self._start, threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._printed < _INTERVAL_S:
                return
            self._printed = now
            passed = now - self._start
            left = passed * (self._total - self._done) / max(self._done, 1)
            self._print(f"{self._done:,} of {self._total:,} {self._unit}, {left:,.0f} s left")

    def end(self) -> None:
        passed = time.monotonic() - self._start
        rate = self._total / max(passed, 1e-9)
        if passed >= _SHORT_S:
            self._print(f"{self._total:,} {self._unit} in {passed:.1f} s ({_short(rate)}/s)")

    def _print(self, text: str) -> None:
        line = f"{self._title}: {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        unit = task.fields["unit"]
        return Text(f"{_short(rate)} {unit}/s" if rate else "", style="progress.data.speed")


def _short(number: float) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"
