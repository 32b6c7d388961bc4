"""Timing of several functions in turns, so that a change in machine speed affects all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

__all__ = ["Clock", "Run", "alternate"]

Run = Callable[[], Mapping[str, float]]
"""Function that does the work once and returns the seconds of each of its stages."""


class Clock:
    """Clock for the stages of one run.

    Attributes:
        seconds: Seconds of each stage so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Time the body of a `with` statement as a stage."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


def alternate(
    functions: Mapping[str, Run], *, runs: int, warmup: int = 1
) -> dict[str, dict[str, list[float]]]:
    """Call every function once, then every function again, and so on.

    Args:
        functions: Functions by name, in the order of the calls.
        runs: Number of timed calls of each.
        warmup: Number of calls before them.

    Returns:
        For each name and stage, the seconds of each timed call.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in functions}
    for turn in range(-warmup, runs):
        for name, run in functions.items():
            seconds = run()
            if turn >= 0:
                for stage, value in seconds.items():
                    found[name].setdefault(stage, []).append(value)
    return found
