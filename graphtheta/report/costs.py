"""Figures of time and traffic: phases of a step, and bytes by phase."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphtheta.report.drawing import COLOURS, Drawing, colour_of, new_figure, shortened
from graphtheta.report.recorded_run import RecordedRun
from graphtheta.train.phase_times import phase_times

__all__ = ["draw_bytes", "draw_phases"]

_MOST_RUNS = 20  # in one figure
_MOST_PHASES = 10  # with more, the layers are added up
_LAYER = re.compile(r"(forward|backward) layer \d+")


def draw_phases(runs: Sequence[RecordedRun]) -> Iterator[Drawing]:
    """Yield the figure of the time of each phase: of one run, or stacked for each of several."""
    phases = {
        run.name: _phases(run.summary.phase_seconds)
        for run in runs[:_MOST_RUNS]
        if run.summary is not None and sum(run.summary.phase_seconds.values()) > 0
    }
    if not phases:
        return
    note = "Summed over all epochs; the slowest worker of each stage."
    if len(runs) == 1:
        (seconds,) = phases.values()
        yield from _bars("phases", "Time by phase", "seconds", seconds, COLOURS[0], note)
        return
    title = "Time by phase"
    names = list(dict.fromkeys(name for seconds in phases.values() for name in seconds))
    height = 1.6 + 0.34 * len(phases) + 0.2 * ((len(names) + 1) // 2)
    figure, axes = new_figure(title, x="seconds", y="", height=height, grid="x")
    left = [0.0] * len(phases)
    for number, name in enumerate(names):
        widths = [seconds.get(name, 0.0) for seconds in phases.values()]
        colour = _shade(number, len(names))
        axes.barh(range(len(phases)), widths, 0.62, left=left, color=colour, label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(phases)), [shortened(name, 20) for name in phases])
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2)
    yield Drawing("phases", title, figure, note)


def draw_bytes(runs: Sequence[RecordedRun]) -> Iterator[Drawing]:
    """Yield the figure of the bytes that workers exchanged, if there were several workers."""
    if len(runs) == 1:
        summary = runs[0].summary
        if summary is None or not any(summary.bytes_sent_by_stage.values()):
            return
        sent = _phases(summary.bytes_sent_by_stage)
        note = f"Sent by worker 0 of {summary.workers} in training, over all epochs."
        yield from _bars("bytes", "Bytes exchanged", "bytes", sent, COLOURS[2], note)
        return
    totals = {
        run.name: (i, float(run.summary.bytes_sent))
        for i, run in enumerate(runs[:_MOST_RUNS])
        if run.summary is not None and run.summary.workers > 1
    }
    if not totals:
        return
    title = "Bytes exchanged"
    height = 1.3 + 0.34 * len(totals)
    figure, axes = new_figure(title, x="bytes", y="", height=height, grid="x")
    values = [value for _, value in totals.values()]
    axes.barh(range(len(totals)), values, 0.62, color=[colour_of(i) for i, _ in totals.values()])
    axes.set_yticks(range(len(totals)), [shortened(name, 20) for name in totals])
    axes.invert_yaxis()
    _set_units(axes, "bytes")
    yield Drawing("bytes", title, figure, "Sent by all workers together, also for evaluation.")


def _phases(by_stage: Mapping[str, float]) -> dict[str, float]:
    """Return the value of each phase of a step; layers are added up if there are many."""
    found = {name: value for name, (value, _) in phase_times(by_stage).items()}
    if len(found) <= _MOST_PHASES:
        return found
    joined: dict[str, float] = {}
    for name, value in found.items():
        layer = _LAYER.match(name)
        key = f"{layer[1]}, all layers" if layer else name
        joined[key] = joined.get(key, 0.0) + value
    return joined


def _bars(
    name: str, title: str, unit: str, values: Mapping[str, float], colour: str, note: str
) -> Iterator[Drawing]:
    figure, axes = new_figure(title, x=unit, y="", height=1.2 + 0.3 * len(values), grid="x")
    bars = axes.barh(range(len(values)), list(values.values()), 0.66, color=colour)
    whole = sum(values.values()) or 1.0
    labels = [f"{100 * value / whole:.0f} %" for value in values.values()]
    axes.bar_label(bars, labels, padding=4, fontsize=8.5, color="#374151")
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.tick_params(axis="y", length=0)
    _set_units(axes, unit)
    yield Drawing(name, title, figure, note)


def _set_units(axes: Any, unit: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5))
    if unit == "bytes":
        axes.xaxis.set_major_formatter(EngFormatter(unit="B"))


def _shade(number: int, count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](0.08 + 0.86 * number / max(1, count - 1))
