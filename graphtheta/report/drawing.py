"""Figures of a report: their style, and their files. Needs matplotlib."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from graphtheta.partition.analysis.plot import STYLE

__all__ = [
    "COLOURS",
    "GREY",
    "Drawing",
    "Grid",
    "colour_of",
    "new_figure",
    "shortened",
    "style",
    "thinned",
]

Grid: TypeAlias = Literal["x", "y", "both", "none"]

# Colours of Okabe and Ito, which colour-blind readers can distinguish; the darker ones first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
GREY = "#6b7280"
_PALE = "#c5c9d0"
_WIDTH = 4.8  # inches: text of 9 points is readable on a phone and in two columns on a screen
_MAX_POINTS = 1500  # of a line, which is as many as a screen can show
_FONT = "'DejaVu Sans'"  # in which matplotlib measures text
_PAGE_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Drawing:
    """Figure with a title.

    Attributes:
        name: Name of its file, without a suffix.
        title: What it shows.
        figure: Figure of matplotlib.
        note: Sentence below the figure.
    """

    name: str
    title: str
    figure: Any
    note: str = ""

    def svg(self) -> str:
        """Return the figure as the address of an image, which holds all of it."""
        file = io.StringIO()
        self.figure.savefig(file, format="svg", metadata={"Date": None})
        # The text stays text, and is shown in the font of the page.
        text = file.getvalue().replace(_FONT, _PAGE_FONT)
        return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()

    def write_png(self, folder: Path) -> None:
        """Write the figure to a PNG file in a folder."""
        self.figure.savefig(folder / f"{self.name}.png", dpi=200)


@contextmanager
def style() -> Iterator[None]:
    """Context in which figures are drawn and written."""
    from matplotlib import rc_context

    own = {
        "font.family": "DejaVu Sans",
        "figure.titlesize": 11,
        "figure.titleweight": "bold",
        "axes.edgecolor": "#9ca3af",
        "axes.labelcolor": "#374151",
        "axes.linewidth": 0.8,
        "axes.axisbelow": True,
        "grid.color": "#e5e7eb",
        "grid.linewidth": 0.8,
        "xtick.color": "#9ca3af",
        "ytick.color": "#9ca3af",
        "xtick.labelcolor": "#374151",
        "ytick.labelcolor": "#374151",
        "lines.linewidth": 1.6,
        "legend.fontsize": 8.5,
        "legend.handlelength": 1.6,
        "figure.facecolor": "white",
        "svg.fonttype": "none",
        "text.parse_math": False,  # names may hold dollar signs
    }
    with rc_context(cast(Any, {**STYLE, **own})), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page's font has it
        yield


def new_figure(
    title: str, *, x: str, y: str, height: float = 3.2, grid: Grid = "y"
) -> tuple[Any, Any]:
    """Return a figure with a title and its axes.

    Args:
        title: Title of the figure.
        x: Label of the horizontal axis, with its unit.
        y: Label of the vertical axis, with its unit.
        height: Height in inches.
        grid: Axes with grid lines.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    figure.suptitle(title, x=0.012, ha="left")
    if grid != "none":
        axes.grid(axis=grid)
    return figure, axes


def colour_of(index: int) -> str:
    """Return the colour of a run by its rank from the best one; those after the first are grey."""
    return COLOURS[index] if index < len(COLOURS) else _PALE


def shortened(text: str, length: int = 24) -> str:
    """Return a text of at most so many characters, cut off at its end."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def thinned(epochs: Sequence[int], values: Sequence[float]) -> tuple[list[int], list[float]]:
    """Return the points of a line, evenly thinned if there are more than a screen can show."""
    step = -(-len(epochs) // _MAX_POINTS) or 1
    kept = [*range(0, len(epochs), step)]
    if kept and kept[-1] != len(epochs) - 1:
        kept.append(len(epochs) - 1)
    return [epochs[i] for i in kept], [values[i] for i in kept]
