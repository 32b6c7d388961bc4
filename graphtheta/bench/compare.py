"""Comparison of two files of records: which measurements changed by more than their noise."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from graphtheta.bench.record import Record
from graphtheta.errors import ConfigError

__all__ = ["Comparison", "compare", "differences"]

Verdict = Literal["faster", "slower", "smaller", "larger", "within noise"]

_BETTER: dict[str, tuple[Verdict, Verdict]] = {
    "seconds": ("faster", "slower"),
    "bytes": ("smaller", "larger"),
}
_MACHINE = ("cpu", "cores")


@dataclass(frozen=True)
class Comparison:
    """Measurement that is in both files.

    Attributes:
        before: Record of the first file.
        after: Record of the second file.
    """

    before: Record
    after: Record

    @property
    def ratio(self) -> float:
        """Ratio of the medians, after over before; below 1 is better."""
        before, after = float(self.before["median"]), float(self.after["median"])
        return after / before if before else math.nan if not after else math.inf

    @property
    def noise(self) -> float:
        """Relative noise of the ratio: half of (p90 - p10) / median, combined over both records."""
        return math.hypot(*(_noise(record) for record in (self.before, self.after)))

    @property
    def verdict(self) -> Verdict:
        """Whether it got better or worse, by more than the noise."""
        better, worse = _BETTER[self.before["unit"]]
        if self.ratio > 1 + self.noise:
            return worse
        return better if self.ratio < 1 / (1 + self.noise) else "within noise"

    @property
    def is_worse(self) -> bool:
        """Whether it got slower or larger by more than the noise."""
        return self.verdict == _BETTER[self.before["unit"]][1]

    @property
    def name(self) -> str:
        """Benchmark and case, in one line."""
        shown = [str(v) if isinstance(v, str) else f"{k} {v}" for k, v in self.case.items()]
        return f"{self.before['benchmark']}: {', '.join(shown)}"

    @property
    def case(self) -> dict[str, Any]:
        """Case that was measured."""
        found: dict[str, Any] = self.before["case"]
        return found


def compare(before: Sequence[Record], after: Sequence[Record]) -> list[Comparison]:
    """Pair the records of equal benchmark, case and unit. If a file has several, the last counts.

    Raises:
        ConfigError: If the files have no measurement in common.
    """
    first, second = _by_case(before), _by_case(after)
    pairs = [Comparison(first[key], second[key]) for key in first if key in second]
    if not pairs:
        raise ConfigError(
            f"bench compare: expected a measurement that is in both files, got none among "
            f"{len(first)} and {len(second)}. Measure the same graph, sizes and threads."
        )
    return pairs


def differences(pairs: Sequence[Comparison]) -> list[str]:
    """Return the properties of the machine that differ between the files, in a line each."""
    found = []
    for name in _MACHINE:
        before, after = ({str(getattr(p, s).get(name)) for p in pairs} for s in ("before", "after"))
        if before != after:
            found.append(f"{name}: {', '.join(sorted(before))} and {', '.join(sorted(after))}")
    return found


def _by_case(records: Sequence[Record]) -> dict[str, Record]:
    return {
        json.dumps([r["benchmark"], r["unit"], r["case"]], sort_keys=True): r
        for r in records
        if r["unit"] in _BETTER
    }


def _noise(record: Record) -> float:
    middle = float(record["median"])
    return (float(record["p90"]) - float(record["p10"])) / (2 * middle) if middle else 0.0
