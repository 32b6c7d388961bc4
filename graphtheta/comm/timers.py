"""Always-on stage timers and byte counters, and the name under which a stage is reported."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Direction", "Stage", "StageTimers"]

Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class Stage:
    """One stage of one layer, for instance the sync of layer 1.

    Attributes:
        name: transform, sync, gather_sum, merge, apply, norm, reduce, prepare or update.
        layer: Index of the layer, or None for what belongs to no layer.
    """

    name: str
    layer: int | None = None

    def text(self, direction: Direction) -> str:
        """Return the name a person reads, as in "forward layer 1 sync"."""
        where = f"layer {self.layer} " if self.layer is not None else ""
        return f"{direction} {where}{self.name}"


@dataclass
class StageTimers:
    """Seconds and bytes by (direction, stage) on this worker.

    Attributes:
        seconds: Time spent, in seconds; nothing is counted twice.
        bytes_sent: Payload handed to other workers, in bytes.
        ahead: Seconds of preparing batches in the background, beside what `seconds` counts.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes_sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    ahead: float = 0.0

    @contextmanager
    def timed(self, direction: Direction, stage: Stage) -> Iterator[None]:
        """Add the time spent inside to the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage.text(direction)] += time.perf_counter() - start

    @contextmanager
    def rest(self, direction: Direction, stage: Stage) -> Iterator[None]:
        """Add the time spent inside that no other stage has counted meanwhile."""
        start, counted = time.perf_counter(), sum(self.seconds.values())
        yield
        spent, others = time.perf_counter() - start, sum(self.seconds.values()) - counted
        self.seconds[stage.text(direction)] += spent - others

    def sent(self, direction: Direction, stage: Stage, num_bytes: int) -> None:
        """Count payload bytes handed to other workers."""
        self.bytes_sent[stage.text(direction)] += num_bytes
