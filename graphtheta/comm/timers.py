"""Timers and byte counters of the stages of training, which are always on."""

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
    """Stage of one layer, for instance the sync of layer 1.

    Attributes:
        name: transform, sync, gather_sum, merge, apply, norm, reduce, prepare or update.
        layer: Index of the layer. None if the stage belongs to no layer.
    """

    name: str
    layer: int | None = None

    def text(self, direction: Direction) -> str:
        """Return the name for reports and messages, such as "forward layer 1 sync"."""
        where = f"layer {self.layer} " if self.layer is not None else ""
        return f"{direction} {where}{self.name}"


@dataclass
class StageTimers:
    """Seconds and bytes of this worker, by the name of the stage.

    Attributes:
        seconds: Time spent in each stage, in seconds. No time is counted in two stages.
        bytes_sent: Bytes sent to other workers in each stage.
        ahead: Time in seconds that a background thread spent on preparing batches; `seconds` does
            not include it.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes_sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    ahead: float = 0.0

    def reset(self) -> None:
        """Forget what was counted so far, for instance in warm-up epochs."""
        self.seconds.clear()
        self.bytes_sent.clear()
        self.ahead = 0.0

    @contextmanager
    def timed(self, direction: Direction, stage: Stage) -> Iterator[None]:
        """Add the time spent in the context to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage.text(direction)] += time.perf_counter() - start

    @contextmanager
    def rest(self, direction: Direction, stage: Stage) -> Iterator[None]:
        """Add the time spent in the context to a stage, less the time of other stages."""
        start, counted = time.perf_counter(), sum(self.seconds.values())
        yield
        spent, others = time.perf_counter() - start, sum(self.seconds.values()) - counted
        self.seconds[stage.text(direction)] += spent - others

    def sent(self, direction: Direction, stage: Stage, num_bytes: int) -> None:
        """Add bytes sent to other workers to a stage."""
        self.bytes_sent[stage.text(direction)] += num_bytes
