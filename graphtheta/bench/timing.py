"""Taking times: contenders in turn, so that a machine that drifts treats all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

__all__ = ["Clock", "Run", "alternate"]

Run = Callable[[], Mapping[str, float]]
"""Does the work once, and says how long each part of it took, in seconds."""


class Clock:
    """Seconds by part of one run.

    Attributes:
        seconds: What `part` has measured.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def alternate(
    contenders: Mapping[str, Run], *, runs: int, warmup: int = 1
) -> dict[str, dict[str, list[float]]]:
    """Let every contender run once, then again, and so on; return the times by contender and part.

    Args:
        contenders: By name, in the order of their turns.
        runs: Turns that count.
        warmup: Turns before them.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    for turn in range(-warmup, runs):
        for name, run in contenders.items():
            seconds = run()
            if turn >= 0:
                for part, value in seconds.items():
                    found[name].setdefault(part, []).append(value)
    return found
