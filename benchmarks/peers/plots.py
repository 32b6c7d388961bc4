"""Plots of `gather.py` and `epochs.py`. Requires matplotlib: pip install 'graphtheta[report]'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from graphtheta.bench.record import Record
from graphtheta.partition.analysis.plot import STYLE

__all__ = ["draw_epochs", "draw_gather"]

# Colours of Okabe and Ito, which colour-blind readers can distinguish.
_COLOURS = {"graphtheta": "#0072B2", "torch": "#999999", "pyg": "#E69F00", "dgl": "#009E73"}
_NAMES = {"graphtheta": "GraphTheta", "torch": "torch CSR (MKL)", "pyg": "PyG", "dgl": "DGL 1.1.3"}


def draw_gather(records: Sequence[Record], path: Path) -> None:
    """Plot GB/s of sums by width, with memory bandwidth as a line, and times of attention."""
    sums = [r for r in records if r["benchmark"] == "gather"]
    attention = [r for r in records if r["benchmark"] == "attention"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        weighted = [r for r in sums if r["case"]["weighted"]]
        _bars(
            left,
            [(f"F = {r['case']['width']}", r) for r in weighted],
            lambda r, at: r["gathered_bytes"] / r[at] / 1e9,
        )
        if sums:
            left.axhline(sums[0]["streaming"] / 1e9, color="black", linewidth=0.8, linestyle="--")
        left.set(title="Weighted sum over in-edges (line: bandwidth)", ylabel="GB/s gathered")
        labels = [f"{r['case']['layer']}\ndropout {r['case']['dropout']:g}" for r in attention]
        _bars(right, list(zip(labels, attention, strict=True)), lambda r, at: r[at])
        right.set(title="Attention with edge attributes, forward and backward", ylabel="seconds")
        _save(figure, path)


def draw_epochs(rows: Sequence[tuple[dict[str, Record], dict[str, Record]]], path: Path) -> None:
    """Plot time and memory of an epoch by model, with a row of panels per graph.

    Args:
        rows: Time and memory records by library, for each model on each graph.
        path: File to write.
    """
    times = [record for time, _ in rows for record in time.values()]
    sizes = [record for _, memory in rows for record in memory.values()]
    graphs = list(dict.fromkeys(record["case"]["graph"] for record in times))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.2 * len(graphs)), layout="constrained")
        for (left, right), graph in zip(
            figure.subplots(len(graphs), 2, squeeze=False), graphs, strict=True
        ):
            _bars(left, _by_model(times, graph), lambda r, at: r[at])
            left.set(title=f"{graph}: an epoch", ylabel="seconds")
            _bars(right, _by_model(sizes, graph), lambda r, at: r[at] / 1e9)
            right.set(title=f"{graph}: its memory", ylabel="GB")
        _save(figure, path)


def _by_model(records: Sequence[Record], graph: str) -> list[tuple[str, Record]]:
    return [(r["case"]["model"], r) for r in records if r["case"]["graph"] == graph]


def _bars(axes: Axes, records: Sequence[tuple[str, Record]], value: Any) -> None:
    """Plot a group of bars per label and a bar per library, with p10 to p90 as error bars."""
    labels = list(dict.fromkeys(label for label, _ in records))
    present = {record["case"]["library"] for _, record in records}
    libraries = [name for name in _COLOURS if name in present]
    width = 0.8 / max(len(libraries), 1)
    for i, library in enumerate(libraries):
        own = [(labels.index(label), r) for label, r in records if r["case"]["library"] == library]
        heights = [value(r, "median") for _, r in own]
        ends = [sorted((value(r, "p10"), value(r, "p90"))) for _, r in own]
        spread = [
            [max(h - low, 0) for h, (low, _) in zip(heights, ends, strict=True)],
            [max(high - h, 0) for h, (_, high) in zip(heights, ends, strict=True)],
        ]
        positions = [at + (i - (len(libraries) - 1) / 2) * width for at, _ in own]
        axes.bar(
            positions,
            heights,
            width,
            yerr=spread,
            color=_COLOURS[library],
            label=_NAMES[library],
            error_kw={"elinewidth": 0.8},
        )
    axes.set_xticks(range(len(labels)), labels)


def _save(figure: Figure, path: Path) -> None:
    """Write the plot, with one legend for all panels."""
    handles = {}
    for axes in figure.axes:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=max(len(handles), 1)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=150, metadata=metadata)
