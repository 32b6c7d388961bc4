"""Comparison of runs: the options that differ, and what each run has reached."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from graphtheta.report.recorded_run import RecordedRun

__all__ = [
    "HIDDEN_OPTIONS",
    "comparison_json",
    "comparison_table",
    "differing_options",
    "option_text",
    "ranked",
]

# Options that do not change what is learned, and often differ by the machine.
HIDDEN_OPTIONS = ("checkpoint_every", "checkpoint_seconds", "threads", "timeout")
_MOST_METRICS = 3  # of the test split in a table


def differing_options(runs: Sequence[RecordedRun]) -> list[str]:
    """Return the names of the options that not all runs have with the same value."""
    known = [run.config for run in runs if run.config]
    names = dict.fromkeys(name for config in known for name in config)
    return [
        name
        for name in names
        if name not in HIDDEN_OPTIONS and any(c.get(name) != known[0].get(name) for c in known)
    ]


def ranked(runs: Sequence[RecordedRun]) -> list[RecordedRun]:
    """Return the runs from the best to the worst value of the metric that they monitor.

    Runs that monitor other metrics follow those of the first run's metric, and runs without a
    value are the last ones.
    """
    metrics = list(dict.fromkeys(run.metric for run in runs))

    def key(run: RecordedRun) -> tuple[bool, int, float]:
        value = run.best.get(f"val_{run.metric}", math.nan)
        if math.isnan(value):
            return True, 0, 0.0
        return False, metrics.index(run.metric), -value if run.higher_is_better else value

    return sorted(runs, key=key)


def comparison_table(
    runs: Sequence[RecordedRun], states: Mapping[str, str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table of runs, the best one first.

    Args:
        runs: The runs.
        states: What is shown instead of why a run has stopped, by the name of the run.
    """
    ordered, options = ranked(runs), differing_options(runs)
    metrics = list(dict.fromkeys(run.metric for run in runs if run.metric))
    tests = [f"test_{name}" for name in metrics]
    others = [name for run in runs for name in run.best if name.startswith("test_")]
    tests += [name for name in dict.fromkeys(others) if name not in (*tests, "test_loss")]
    columns = [f"val_{name}" for name in metrics] + tests[: max(_MOST_METRICS, len(metrics))]
    columns = [name for name in columns if any(name in run.best for run in runs)]
    head = ["run", *options, "best epoch", *columns, "trained", "seconds", "status"]
    rows = [
        [
            run.name,
            *(option_text(run.config.get(name)) for name in options),
            "-" if run.best_epoch is None else f"{run.best_epoch}",
            *(f"{run.best[name]:.4f}" if name in run.best else "-" for name in columns),
            f"{run.epochs:,}",
            f"{run.seconds:,.1f}",
            (states or {}).get(run.name, run.stop),
        ]
        for run in ordered
    ]
    return head, rows


def comparison_json(runs: Sequence[RecordedRun]) -> list[dict[str, Any]]:
    """Return the runs, the best one first, as JSON-serialisable values."""
    options = differing_options(runs)
    return [
        {
            "run": str(run.path),
            "options": {name: run.config[name] for name in options if name in run.config},
            "metric": run.metric or None,
            "higher_is_better": run.higher_is_better if run.metric else None,
            "best_epoch": run.best_epoch,
            "best": run.best,
            "epochs": run.epochs,
            "seconds": run.seconds,
            "finished": run.summary is not None,
            "stop_reason": run.summary.stop_reason if run.summary else None,
            "missing": run.missing,
        }
        for run in ranked(runs)
    ]


def option_text(value: object) -> str:
    """Return the value of an option as text, "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
