"""Figures by epoch: loss, metrics, learning rate and time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from graphtheta.report.drawing import (
    COLOURS,
    GREY,
    Drawing,
    colour_of,
    new_figure,
    shortened,
    thinned,
)
from graphtheta.report.recorded_run import RecordedRun

__all__ = ["draw_curves", "draw_epoch_times"]

_SPLITS = {
    "train": ("training", COLOURS[0], "-"),
    "val": ("validation", COLOURS[1], "-"),
    "test": ("test", COLOURS[2], "--"),
}
_LOG_RATIO = 30.0  # of the largest loss to the smallest, from which the axis is logarithmic


def draw_curves(runs: Sequence[RecordedRun]) -> tuple[list[Drawing], list[Drawing]]:
    """Return the figures that are always of interest, and those of further metrics.

    Of one run, a figure shows all splits. Of several, it shows one split of each run.
    """
    monitored = list(dict.fromkeys(run.metric for run in runs if run.metric))
    names = {
        name.partition("_")[2]: None
        for run in runs
        for record in run.records
        for name in record
        if name.startswith(tuple(f"{split}_" for split in _SPLITS))
    }
    others = [name for name in names if name not in (*monitored, "loss")]
    first = [*_losses(runs)]
    for name in monitored:
        if name != "loss":
            first += _metric(runs, name)
    more = [drawing for name in others for drawing in _metric(runs, name)]
    first += [*_learning_rates(runs)]
    return first, more


def draw_epoch_times(runs: Sequence[RecordedRun]) -> Iterator[Drawing]:
    """Yield the figure of the training time of each epoch."""
    lines = [_Line(run, "seconds", i) for i, run in enumerate(runs)]
    note = "Without evaluation. The first epoch also compiles kernels."
    yield from _lines(
        "epoch-times", "Time of an epoch", "seconds", lines, len(runs), note, log_ratio=8.0
    )


class _Line:
    """Curve of a run, with its label and style."""

    def __init__(
        self,
        run: RecordedRun,
        name: str,
        index: int,
        label: str = "",
        colour: str = "",
        dashes: str = "-",
    ) -> None:
        self.epochs, self.values = run.curve(name)
        self.best = run.best_epoch
        is_metric = name.startswith(("val_", "test_", "train_"))
        points = zip(self.epochs, self.values, strict=True)
        self.dots = [point for point in points if is_metric and point[0] == self.best]
        self.label, self.dashes = shortened(label or run.name), dashes
        self.colour, self.index = colour or colour_of(index), index


def _losses(runs: Sequence[RecordedRun]) -> Iterator[Drawing]:
    if len(runs) == 1:
        yield from _of_splits(runs[0], "loss", {"train": "loss"})
        return
    of_training = [_Line(run, "loss", i) for i, run in enumerate(runs)]
    yield from _lines("loss", "Training loss", "loss", of_training, len(runs))
    yield from _metric(runs, "loss")


def _metric(runs: Sequence[RecordedRun], name: str) -> Iterator[Drawing]:
    """Yield the figure of a metric, of several runs on validation or else on another split."""
    if len(runs) == 1:
        yield from _of_splits(runs[0], name, {})
        return
    recorded = {key for run in runs for record in run.records for key in record}
    split = next((s for s in ("val", "test", "train") if f"{s}_{name}" in recorded), None)
    if split is None:
        return
    lines = [_Line(run, f"{split}_{name}", i) for i, run in enumerate(runs)]
    title = f"{_SPLITS[split][0].capitalize()} {_words(name)}"
    yield from _lines(f"{split}_{name}", title, _words(name), lines, len(runs))


def _of_splits(run: RecordedRun, name: str, keys: dict[str, str]) -> Iterator[Drawing]:
    lines = [
        _Line(run, keys.get(split, f"{split}_{name}"), 0, *rest) for split, rest in _SPLITS.items()
    ]
    note = "Training loss with dropout, averaged over the steps of the epoch." * (name == "loss")
    yield from _lines(name, _words(name).capitalize(), _words(name), lines, 1, note)


def _learning_rates(runs: Sequence[RecordedRun]) -> Iterator[Drawing]:
    if len(runs) > 1:
        lines = [_Line(run, "lr", i) for i, run in enumerate(runs)]
    else:
        names = dict.fromkeys(n for r in runs[0].records for n in r if n.startswith("lr"))
        labels = {"lr": "learning rate" if len(names) == 1 else "first group"}
        lines = [
            _Line(runs[0], name, i, labels.get(name, _words(name)), colour_of(i))
            for i, name in enumerate(names)
        ]
    note = "Of the last step of the epoch."
    yield from _lines("learning-rate", "Learning rate", "learning rate", lines, len(runs), note)


def _lines(
    name: str,
    title: str,
    y: str,
    lines: Sequence[_Line],
    num_runs: int,
    note: str = "",
    log_ratio: float = _LOG_RATIO,
) -> Iterator[Drawing]:
    """Yield a figure of curves, if any has a point."""
    lines = [line for line in lines if any(map(math.isfinite, line.values))]
    if not lines:
        return
    figure, axes = new_figure(title, x="epoch", y=y)
    is_single = num_runs == 1
    dots = [] if is_single else [(*dot, line.colour) for line in lines for dot in line.dots]
    for line in lines:
        epochs, values = thinned(line.epochs, line.values)
        marker = "o" if len(epochs) == 1 else None
        axes.plot(
            epochs,
            values,
            color=line.colour,
            linestyle=line.dashes,
            label=line.label,
            marker=marker,
            zorder=3 - line.index / 1000,  # the best run is in front
        )
    for epoch, value, colour in dots:
        axes.plot(epoch, value, "o", color=colour, markersize=5)
    finite = [value for line in lines for value in line.values if math.isfinite(value)]
    if name == "learning-rate":
        axes.set_ylim(0, 1.1 * max(finite) or 1)
    elif min(finite) > 0 and max(finite) / min(finite) > log_ratio:
        _set_log_scale(axes)
    _finish(axes, lines, is_single)
    about_dots = "A dot marks the best epoch of each run." if dots else ""
    yield Drawing(_file_name(name), title, figure, " ".join(filter(None, (note, about_dots))))


def _finish(axes: Any, lines: Sequence[_Line], is_single: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.02)
    best = lines[0].best
    if is_single and len(lines) > 1 and best is not None:
        axes.axvline(best, color=GREY, linewidth=1, linestyle=":", label=f"best epoch ({best})")
    if 1 < len(lines) <= len(COLOURS):
        axes.legend(loc="best")


def _set_log_scale(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _words(name: str) -> str:
    return name.replace("_", " ")


def _file_name(name: str) -> str:
    kept = "".join(letter if letter.isalnum() else "-" for letter in name)
    return f"curve-{kept}"
