"""Metrics of labels, computed over all workers."""

from graphtheta.task.metrics.names import (
    MAIN_METRIC,
    METRICS,
    MainMetric,
    Metrics,
    Split,
    SplitMetrics,
    main_metric,
    mean_loss,
    metrics_for,
)

__all__ = [
    "MAIN_METRIC",
    "METRICS",
    "MainMetric",
    "Metrics",
    "Split",
    "SplitMetrics",
    "main_metric",
    "mean_loss",
    "metrics_for",
]
