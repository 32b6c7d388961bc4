"""Prometheus metrics of a training run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["TrainingMetrics"]

_GAUGES = {
    "version": "Number of optimiser updates made.",
    "epoch": "Number of finished epochs.",
    "loss": "Mean loss of the last step.",
    "open_steps": "Steps that may be computed now.",
    "steps_per_second": "Optimiser updates per second, over the last minute.",
}
_COUNTERS = {
    "lost_leases": "Leases that ran out or were given up.",
    "repeated_results": "Results that were dropped because their work was done.",
}


class TrainingMetrics(Collector):
    """Metrics of a run, computed when they are read.

    Args:
        status: Function that returns the state of the run, as `ParameterHost.status`.
    """

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        status = self._status()
        for name, text in _GAUGES.items():
            if status[name] is not None:
                yield GaugeMetricFamily(f"graphtheta_training_{name}", text, status[name])
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"graphtheta_training_{name}", text, status[name])
        groups = status["groups"]
        yield GaugeMetricFamily("graphtheta_training_groups", "Groups that joined.", len(groups))
        leases = sum(len(group["leases"]) for group in groups)
        yield GaugeMetricFamily("graphtheta_training_leases", "Leases of groups.", leases)
        staleness = CounterMetricFamily(
            "graphtheta_training_micro_batches",
            "Micro-batches by the updates between the version they were computed on and theirs.",
            labels=["staleness"],
        )
        for updates, count in status["staleness"].items():
            staleness.add_metric([str(updates)], count)
        yield staleness
        best = GaugeMetricFamily(
            "graphtheta_training_best", "Metrics of the best epoch.", labels=["metric"]
        )
        for name, value in status["best"].items():
            best.add_metric([name], value)
        yield best
