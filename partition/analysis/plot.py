"""Plot of a store as PNG and SVG: degrees, part sizes and traffic. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from graphtheta.errors import ConfigError
from graphtheta.partition.analysis.report import Report, degree_bounds

__all__ = ["STYLE", "draw", "require_matplotlib"]

_SUFFIXES = (".png", ".svg")
_MAX_BARS = 32  # with more parts, sizes are drawn as lines
_MAX_CELLS = 256  # rows of the traffic matrix; with more parts, a cell covers several
_MAX_NUMBERS = 6  # with more rows, no numbers are written into the cells
# Colours of Okabe and Ito, which colour-blind readers can distinguish.
_EDGES, _MASTERS, _MIRRORS = "#0072B2", "#E69F00", "#009E73"
_OWN_PART = "0.85"  # grey of the diagonal, where nothing is sent
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "graphtheta",  # the same plot gives the same bytes
}


def require_matplotlib(where: str = "picture") -> None:
    """Check that matplotlib is installed, before any work is done.

    Args:
        where: Start of the error message.

    Raises:
        ConfigError: If it is not.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"{where}: expected the library matplotlib, got none. "
            "Install it: pip install 'graphtheta[report]'."
        ) from None


def draw(found: Report, path: Path | str, *, title: str = "") -> tuple[Path, Path]:
    """Draw a report as PNG and SVG.

    The figure has three panels:

    - Degrees: fraction of nodes for each degree, both axes logarithmic. A bin's fraction is divided
      by its width, so that a power law is a straight line.
    - Part sizes: edges, masters and mirrors of each part, divided by their means, so that the
      largest value is the balance. With more than 32 parts, each line is sorted.
    - Traffic: rows that a layer sends in the forward pass (sync and merge) for each pair of parts.
      With up to 6 parts, the cells show the numbers; with more than 256, a cell sums over several
      consecutive parts.

    Args:
        found: Report to draw.
        path: Path of the files; a suffix must be `.png` or `.svg`. Both files are written.
        title: Title of the figure.

    Returns:
        Paths of the PNG file and the SVG file.

    Raises:
        ConfigError: If matplotlib is missing, or the suffix is another.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix not in ("", *_SUFFIXES):
        raise ConfigError(
            f"picture: expected a name that ends in {' or '.join(_SUFFIXES)}, got {path}. "
            "Rename it."
        )
    png, svg = (path.with_suffix(suffix) for suffix in _SUFFIXES)
    with rc_context(cast(Any, STYLE)):
        # Fixed margins: layout engines round differently from run to run.
        figure = Figure(figsize=(13.5, 4.4), dpi=150)
        degrees, sizes, traffic = figure.subplots(1, 3, width_ratios=(1, 1.2, 1.05))
        figure.subplots_adjust(left=0.05, right=0.98, bottom=0.25, top=0.88, wspace=0.2)
        _draw_degrees(degrees, found)
        _draw_sizes(sizes, found)
        _draw_traffic(figure, traffic, found)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        figure.savefig(png)
        figure.savefig(svg, metadata={"Date": None})
    return png, svg


def _draw_degrees(axes: Any, found: Report) -> None:
    axes.set_title("Degrees")
    if not found.edges.any():
        _write_note(axes, "no edges")
        return
    bounds = degree_bounds(len(found.in_degrees))
    num_nodes = int(found.masters.sum())
    lines = [
        ("in-degree", found.in_degrees, found.largest_degrees[0], _EDGES, "-"),
        ("out-degree", found.out_degrees, found.largest_degrees[1], _MASTERS, "--"),
    ]
    if (found.in_degrees == found.out_degrees).all():
        lines = [("in-degree and out-degree", *lines[0][1:])]
    for name, counts, largest, colour, style in lines:
        bins = np.flatnonzero(counts[1:]) + 1
        middle = np.sqrt(bounds[bins] * (bounds[bins + 1] - 1.0))
        fraction = counts[bins] / (bounds[bins + 1] - bounds[bins]) / num_nodes
        isolated = f", 0 at {100 * counts[0] / num_nodes:.2g} % of nodes" if counts[0] else ""
        label = f"{name}: largest {largest:,}{isolated}"
        axes.plot(middle, fraction, marker="o", markersize=4, ls=style, color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel="degree", ylabel="fraction of nodes per degree")
    axes.grid(alpha=0.25, linewidth=0.6)
    _add_legend(axes)


def _draw_sizes(axes: Any, found: Report) -> None:
    parts = np.arange(found.num_parts)
    sizes = (
        ("edges", found.edges, _EDGES),
        ("masters", found.masters, _MASTERS),
        ("mirrors", found.mirrors, _MIRRORS),
    )
    largest = 1.0
    for index, (name, counts, colour) in enumerate(sizes):
        mean = float(counts.mean())
        relative = counts / mean if mean else np.zeros(found.num_parts)
        largest = max(largest, float(relative.max()))
        label = f"{name}: mean {mean:,.0f}, largest {counts.max():,}"
        if found.num_parts <= _MAX_BARS:
            axes.bar(parts + 0.27 * (index - 1), relative, width=0.25, color=colour, label=label)
        else:
            axes.plot(parts, np.sort(relative)[::-1], color=colour, label=label)
    axes.axhline(1, color="0.3", linewidth=0.8, linestyle=":")
    sorted_parts = "parts, each line sorted from largest to smallest"
    axes.set_xlabel("part" if found.num_parts <= _MAX_BARS else sorted_parts)
    axes.set(ylabel="size divided by the mean over parts", title="Part sizes")
    axes.set_xlim(-0.6, found.num_parts - 0.4)
    axes.set_ylim(0, 1.08 * largest)
    _set_integer_ticks(axes.xaxis)
    _add_legend(axes)


def _draw_traffic(figure: Any, axes: Any, found: Report) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import EngFormatter, MaxNLocator

    traffic = found.traffic
    width = traffic.parts_per_cell(_MAX_CELLS)
    cells = traffic.matrix(traffic.sync + traffic.merge, _MAX_CELLS)
    axes.set(xlabel="part of the mirror", ylabel="part of the master")
    axes.set_title("Traffic" if width == 1 else f"Traffic (each cell: {width} x {width} parts)")
    end = len(cells) * width - 0.5
    axes.set(xlim=(-0.5, end), ylim=(end, -0.5), aspect="equal")  # row 0 is at the top
    axes.spines[["top", "right"]].set_visible(True)
    for axis in (axes.xaxis, axes.yaxis):
        _set_integer_ticks(axis)
    if not cells.any():
        _write_note(axes, "no mirrors")
        return
    image = axes.imshow(
        np.ma.masked_array(cells, np.eye(len(cells), dtype=np.bool_) & (width == 1)),
        cmap=colormaps["Blues"].with_extremes(bad=_OWN_PART),
        vmin=0,
        extent=(-0.5, end, end, -0.5),
        interpolation="nearest",
    )
    if width == 1 and len(cells) <= _MAX_NUMBERS:
        for row, column in zip(*np.nonzero(~np.eye(len(cells), dtype=np.bool_)), strict=True):
            rows = int(cells[row, column])
            shown = f"{rows:,}" if rows < 10_000 else EngFormatter(places=1, sep="")(rows)
            colour = "white" if rows > 0.6 * cells.max() else "black"
            axes.text(column, row, shown, ha="center", va="center", color=colour, fontsize=8)
    bar = figure.colorbar(image, ax=axes, pad=0.03)
    bar.set_label("rows per layer, forward (sync + merge)")
    bar.outline.set_visible(False)
    bar.locator, bar.formatter = MaxNLocator(6, integer=True), EngFormatter(sep="")
    bar.update_ticks()
    if width == 1:
        axes.plot([], [], "s", color=_OWN_PART, label="same part: nothing is sent")
        _add_legend(axes)


def _set_integer_ticks(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def _write_note(axes: Any, text: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


def _add_legend(axes: Any) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8)
