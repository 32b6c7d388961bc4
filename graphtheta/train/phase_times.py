"""Time by phase of a step: preparation, each layer forward and backward, update."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

__all__ = ["phase_times"]

_LAYER = re.compile(r"(forward|backward) layer (\d+) ")
_NAMES = {
    "forward prepare": "preparation",
    "forward queue": "waiting for the queue",
    "backward wait for groups": "waiting for groups",
    "backward transform and apply": "backward transform and apply",
    "backward reduce": "parameter update",
    "backward update": "parameter update",
    "forward other": "loss and the rest",
}


def phase_times(stage_seconds: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return seconds and share of each phase, in the order of a step.

    The backward time of plain torch operators is not divided by layer. Preparation in the
    background counts only as far as a step waited for it.

    Args:
        stage_seconds: Seconds by stage, the `phase_seconds` of a summary.
    """
    found: dict[str, float] = defaultdict(float)
    for stage, seconds in stage_seconds.items():
        layer = _LAYER.match(stage)
        found[layer[0].strip() if layer else _NAMES.get(stage, stage)] += seconds
    ordered = sorted(found.items(), key=lambda item: _order(item[0]))
    whole = sum(found.values()) or 1.0
    return {name: (seconds, seconds / whole) for name, seconds in ordered}


def _order(name: str) -> tuple[int, int]:
    if layer := re.match(r"(forward|backward) layer (\d+)", name):
        number = int(layer[2])
        return (1, number) if layer[1] == "forward" else (2, -number)
    first = ("preparation", "waiting for the queue")
    last = (
        "backward transform and apply",
        "waiting for groups",
        "parameter update",
        "loss and the rest",
    )
    if name in first:
        return 0, first.index(name)
    return (3, last.index(name) if name in last else -1)
