"""Rows of the tables of a report: results, configuration, store and versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphtheta.partition.store.quality import quality_rows
from graphtheta.report.comparison import differing_options, option_text
from graphtheta.report.outcome import class_names
from graphtheta.report.recorded_run import RecordedRun, StoreFacts
from graphtheta.run.config import RunConfig
from graphtheta.wording import format_bytes

__all__ = [
    "changed_options",
    "label_rows",
    "merged_rows",
    "option_rows",
    "results_of",
    "store_rows",
    "version_rows",
]

_MOST_LABELS = 100


def results_of(run: RecordedRun) -> Iterator[tuple[str, str]]:
    """Yield the main results of a run."""
    metric = run.metric
    for split, name in (("val", "validation"), ("test", "test")):
        if (value := run.best.get(f"{split}_{metric}")) is not None:
            yield f"{name} {metric.replace('_', ' ')}", f"{value:.4f}"
    if run.best_epoch is not None:
        yield "best epoch (from 0)", f"{run.best_epoch:,}"
    yield "epochs", f"{run.epochs:,}"
    yield "status", run.stop
    yield "training", f"{run.seconds:,.1f} s"
    if (summary := run.summary) is not None:
        yield "workers", f"{summary.workers:,}"
        if summary.peak_rss_bytes is not None:
            yield "peak memory", format_bytes(summary.peak_rss_bytes)
        if summary.workers > 1:
            yield "bytes exchanged", format_bytes(summary.bytes_sent)


def changed_options(run: RecordedRun) -> list[str]:
    """Return the names of the options of a run that differ from their defaults."""
    defaults = {n: f.default for n, f in RunConfig.model_fields.items() if not f.is_required()}
    return [n for n, value in run.config.items() if n not in defaults or defaults[n] != value]


def option_rows(
    runs: Sequence[RecordedRun],
) -> tuple[list[list[str]], list[list[str]]]:
    """Return the options to show first, and the others.

    The first ones are those that differ between several runs, or from the defaults in one run.
    """
    shown = changed_options(runs[0]) if len(runs) == 1 else differing_options(runs)
    names = dict.fromkeys(name for run in runs for name in run.config)
    rows = {name: [name, *(option_text(run.config.get(name)) for run in runs)] for name in names}
    first = [row for name, row in rows.items() if name in shown]
    return first, [row for name, row in rows.items() if name not in shown]


def store_rows(store: StoreFacts) -> list[tuple[str, str]]:
    """Return the size of a store and the quality of its partitioning."""
    return [
        ("nodes", f"{store.num_nodes:,}"),
        ("edges", f"{store.num_edges:,}"),
        ("parts", f"{store.num_parts:,}"),
        ("method", f"{store.method} ({store.cut}-cut)"),
        *quality_rows(store.quality),
    ]


def version_rows(run: RecordedRun) -> list[tuple[str, str]]:
    """Return the versions of the libraries that a run was trained with."""
    return [] if run.summary is None else list(run.summary.versions.items())


def merged_rows(
    columns: Sequence[Sequence[tuple[str, str]]],
) -> tuple[list[list[str]], list[int]]:
    """Return a row of values for each name, and the indices of the rows whose values differ."""
    tables = [dict(column) for column in columns]
    names = dict.fromkeys(name for found in tables for name in found)
    rows = [[name, *(found.get(name, "-") for found in tables)] for name in names]
    present = [[found[name] for found in tables if name in found] for name in names]
    return rows, [i for i, values in enumerate(present) if len(set(values)) > 1]


def label_rows(run: RecordedRun) -> tuple[list[list[str]], str]:
    """Return a row for each label of several, and a note if there are more of them."""
    predictions = run.predictions
    if predictions is None or predictions.kind != "multilabel" or not predictions.split:
        return [], ""
    tables: Any = predictions.splits[predictions.split].confusion or []
    counts = np.array([np.ravel(of_label) for of_label in tables if np.size(of_label) == 4])
    if len(counts) == 0 or len(counts) != len(tables):
        return [], ""
    names = class_names(predictions, len(counts))
    order = np.argsort(-counts[:, 2:].sum(axis=1), kind="stable")[:_MOST_LABELS]
    rows = []
    for index in order:
        _, false_positives, missed, hits = counts[index].tolist()
        precision = _share(hits, hits + false_positives)
        recall = _share(hits, hits + missed)
        f1 = _share(2 * hits, 2 * hits + false_positives + missed)
        rows.append([names[index], f"{hits + missed:,}", precision, recall, f1])
    more = len(counts) - len(order)
    return rows, f"The {_MOST_LABELS} most frequent of {len(counts):,} labels." if more else ""


def _share(over: int, under: int) -> str:
    return f"{over / under:.3f}" if under else "-"
