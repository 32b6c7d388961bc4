"""Figures of predictions: confusion matrices and calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.report.drawing import COLOURS, GREY, Drawing, colour_of, new_figure, shortened
from graphtheta.report.recorded_run import Predictions, RecordedRun
from graphtheta.wording import counted

__all__ = ["class_names", "confusion_of", "draw_calibration", "draw_confusion", "split_name"]

_MAX_NUMBERS = 10  # classes up to which the cells of a confusion matrix hold numbers
_MAX_TICKS = 24  # classes up to which each has its name at the axes
_LONGEST = 16  # letters of the name of a class


def split_name(split: str) -> str:
    """Return the name of a split in a sentence."""
    return {"val": "validation"}.get(split, split)


def class_names(predictions: Predictions, count: int) -> list[str]:
    """Return the names of the classes in the order of the confusion matrix."""
    names = predictions.classes
    if predictions.kind == "binary" and count == 2:
        if names is None or len(names) != 2:
            return ["no", "yes"]
        return names[::-1] if predictions.positive == 0 else names
    return names if names and len(names) == count else [str(i) for i in range(count)]


def confusion_of(predictions: Predictions) -> tuple[NDArray[np.int64], float | None] | None:
    """Return the confusion matrix of a split, and the threshold of yes that it is from.

    None if there is no such matrix, or one for each label of several.
    """
    if not predictions.split or predictions.kind == "multilabel":
        return None
    split, threshold = predictions.splits[predictions.split], predictions.threshold
    chosen = split.confusion_at_threshold if threshold is not None else None
    table = _square(chosen or split.confusion)
    return None if table is None else (table, threshold if chosen else None)


def _square(rows: Any) -> NDArray[np.int64] | None:
    try:
        table = np.array(rows, np.int64)
    except (ValueError, TypeError, OverflowError):
        return None
    return table if table.ndim == 2 and table.shape[0] == table.shape[1] > 0 else None


def draw_confusion(run: RecordedRun, index: int, *, several: bool) -> Iterator[Drawing]:
    """Yield the confusion matrix of a run, if it has one."""
    if run.predictions is None or (found := confusion_of(run.predictions)) is None:
        return
    (table, threshold), split = found, split_name(run.predictions.split)
    names = class_names(run.predictions, len(table))
    title = f"Confusion: {shortened(run.name, 28)}" if several else f"Confusion, {split} split"
    figure, axes = new_figure(title, x="predicted class", y="true class", height=4.2, grid="none")
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros(table.shape), where=totals > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if len(table) <= _MAX_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.55 else "#1f2937"
            text = f"{table[row, column]:,}"
            size = 9 if len(table) <= 5 else 7.5
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    if len(table) <= _MAX_TICKS:
        shown = [shortened(name, _LONGEST) for name in names]
        is_long = max(map(len, shown)) > 3
        axes.set_xticks(range(len(table)), shown, rotation=90 if is_long else 0)
        axes.set_yticks(range(len(table)), shown)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9 if len(table) <= _MAX_NUMBERS else 7)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.03, ticks=[0, 0.5, 1])
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    right = int(np.trace(table))
    note = f"{split.capitalize()} split, best epoch: {right:,} of {table.sum():,} right."
    if threshold is not None:
        note += f" Yes is predicted from probability {threshold:.3g}."
    yield Drawing(f"confusion-{index + 1}" if several else "confusion", title, figure, note)


def draw_calibration(runs: Sequence[RecordedRun]) -> Iterator[Drawing]:
    """Yield the calibration of runs: positive share by predicted probability."""
    curves: list[tuple[RecordedRun, int, NDArray[np.float64]]] = []
    for index, run in enumerate(runs):
        if run.predictions is None or not run.predictions.split:
            continue
        bins = run.predictions.splits[run.predictions.split].calibration
        found = [
            (b.mean_probability, b.positive_share, b.count)
            for b in bins
            if b.mean_probability is not None and b.positive_share is not None and b.count
        ]
        if found:
            curves.append((run, index, np.array(found)))
    if not curves:
        return
    predictions = curves[0][0].predictions
    assert predictions is not None
    is_confidence = predictions.kind == "multiclass"
    x = "predicted probability" + " of the chosen class" * is_confidence
    y = "share of right predictions" if is_confidence else "share of positives"
    title = "Calibration"
    figure, axes = new_figure(title, x=x, y=y, height=4.2, grid="both")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="calibrated")
    for run, index, points in reversed(curves):  # the best run is in front
        areas = 12 + 140 * points[:, 2] / points[:, 2].sum()
        colour = colour_of(index)
        axes.plot(
            points[:, 0], points[:, 1], color=colour, label=shortened(run.name), clip_on=False
        )
        dots = axes.scatter(points[:, 0], points[:, 1], areas, color=colour, alpha=0.75)
        dots.set(linewidths=0, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    if 1 < len(curves) <= len(COLOURS):
        axes.legend(loc="upper left")
    targets = sum(int(points[:, 2].sum()) for _, _, points in curves[:1])
    split = split_name(predictions.split)
    note = (
        f"{split.capitalize()} split, best epoch"
        + (f", {counted(targets, 'target')}" if len(runs) == 1 else "")
        + ". The area of a dot is its number of targets; below the diagonal, predictions are too "
        "confident."
    )
    yield Drawing("calibration", title, figure, note)
