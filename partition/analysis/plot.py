"""A picture of a store: degrees, sizes of parts, and traffic between them. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import ConfigError
from graphtheta.partition.analysis.report import Report, degree_bounds

__all__ = ["STYLE", "SUFFIXES", "draw", "refuse_without_matplotlib"]

SUFFIXES = (".png", ".svg")
_BARS = 32  # with more parts, lines
_MAX_CELLS = 256
_LEAST_SPAN = 10  # largest over smallest colour of the map
# Okabe and Ito's colours, which colour-blind readers tell apart.
_EDGES, _MASTERS, _MIRRORS = "#0072B2", "#E69F00", "#009E73"
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "graphtheta",  # the same picture, the same bytes
}


def refuse_without_matplotlib() -> None:
    """Raise a ConfigError if matplotlib is missing, before any work is done.

    Raises:
        ConfigError: If it is.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError(
            "picture: expected the library matplotlib, got none. "
            "Install it: pip install 'graphtheta[report]'."
        ) from None


def draw(found: Report, path: Path | str, *, title: str = "") -> tuple[Path, Path]:
    """Draw a report as PNG and SVG.

    Three panels. Left, how many of the nodes have which degree, both axes logarithmic: the share of
    nodes in a bin over its width, so that a power law is a straight line. Middle, each part's
    edges, masters and mirrors over their means, so that the highest is the balance; with more than
    32 parts each line is sorted. Right, rows that the part in a row of the map exchanges with that
    in a column in each layer, sync and merge; with more than 256 parts a cell is the sum of a block
    of parts. Its colours span at least a decade, so that small differences look small.

    Args:
        found: What to draw.
        path: Where; its suffix, if any, is `.png` or `.svg`, and both are written.
        title: Stands above.

    Returns:
        The two files.

    Raises:
        ConfigError: If matplotlib is missing, or the suffix is another.
    """
    refuse_without_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix not in ("", *SUFFIXES):
        raise ConfigError(
            f"picture: expected a name that ends in {' or '.join(SUFFIXES)}, got {path}. Rename it."
        )
    png, svg = (path.with_suffix(suffix) for suffix in SUFFIXES)
    with rc_context(cast(Any, STYLE)):
        figure = Figure(figsize=(13.5, 4.2), dpi=150, layout="constrained")
        degrees, sizes, traffic = figure.subplots(1, 3, width_ratios=(1, 1.25, 1.05))
        _draw_degrees(degrees, found)
        _draw_sizes(sizes, found)
        _draw_traffic(figure, traffic, found)
        if title:
            figure.suptitle(title, x=0.005, ha="left", fontsize=11)
        figure.savefig(png)
        figure.savefig(svg, metadata={"Date": None})
    return png, svg


def _draw_degrees(axes: Any, found: Report) -> None:
    axes.set_title("Degrees")
    if not found.edges.any():
        _nothing(axes, "no edges")
        return
    bounds = degree_bounds(len(found.in_degrees))
    num_nodes = int(found.masters.sum())
    ways = (("in", found.in_degrees, _EDGES, "-"), ("out", found.out_degrees, _MASTERS, "--"))
    for (name, counts, colour, line), largest in zip(ways, found.largest_degrees, strict=True):
        some = np.flatnonzero(counts[1:]) + 1
        middle = np.sqrt(bounds[some] * (bounds[some + 1] - 1.0))
        share = counts[some] / (bounds[some + 1] - bounds[some]) / num_nodes
        none = f"{100 * counts[0] / num_nodes:.2g} % have 0"
        axes.plot(
            middle,
            share,
            marker="o",
            markersize=5 if line == "-" else 2.5,
            linewidth=2 if line == "-" else 1,
            linestyle=line,
            color=colour,
            label=f"{name}-degree (largest {largest:,}; {none})",
        )
    axes.set(xscale="log", yscale="log", xlabel="degree (edges a node)")
    axes.set_ylabel("share of nodes for each degree")
    axes.grid(alpha=0.25, linewidth=0.6)
    _legend(axes)


def _draw_sizes(axes: Any, found: Report) -> None:
    parts = np.arange(found.num_parts)
    sizes = (
        ("edges", found.edges, _EDGES),
        ("masters", found.masters, _MASTERS),
        ("mirrors", found.mirrors, _MIRRORS),
    )
    largest = 1.0
    for place, (name, counts, colour) in enumerate(sizes):
        mean = float(counts.mean())
        over_mean = counts / mean if mean else np.zeros(found.num_parts)
        largest = max(largest, float(over_mean.max()))
        label = f"{name}: mean {mean:,.0f}, largest {counts.max():,}"
        if found.num_parts <= _BARS:
            at = parts + 0.27 * (place - 1)
            axes.bar(at, over_mean, width=0.25, color=colour, label=label)
        else:
            axes.plot(parts, np.sort(over_mean)[::-1], color=colour, label=label)
    axes.axhline(1, color="0.3", linewidth=0.8, linestyle=":")
    each = "part" if found.num_parts <= _BARS else "parts, each line from its largest to its least"
    axes.set(xlabel=each, ylabel="count over the mean of all parts", title="Sizes of parts")
    axes.set_xlim(-0.6, found.num_parts - 0.4)
    axes.set_ylim(0, 1.08 * largest)
    _whole_ticks(axes.xaxis)
    _legend(axes)


def _draw_traffic(figure: Any, axes: Any, found: Report) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    traffic = found.traffic
    block = traffic.block_size(_MAX_CELLS)
    cells = traffic.matrix(traffic.sync + traffic.merge, _MAX_CELLS)
    extent = _extent(cells, block)
    axes.set(xlabel="part that holds the mirror", ylabel="part that owns the node")
    axes.set_title("Traffic" if block == 1 else f"Traffic (blocks of {block} parts)")
    axes.spines[["top", "right"]].set_visible(True)
    for axis in (axes.xaxis, axes.yaxis):
        _whole_ticks(axis)
    axes.set(xlim=extent[:2], ylim=extent[2:], aspect="equal", facecolor="0.96")
    if not cells.any():
        _nothing(axes, "no mirrors")
        return
    low, high = float(cells[cells > 0].min()), float(cells.max())
    image = axes.imshow(
        np.ma.masked_equal(cells, 0),
        norm=LogNorm(min(low, high / _LEAST_SPAN), high),
        cmap="viridis_r",
        extent=extent,
        interpolation="nearest",
        aspect="equal",
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02)
    bar.set_label("rows sent a layer, forward (sync + merge)")
    bar.outline.set_visible(False)
    bar.locator, bar.formatter = LogLocator(subs=(1, 2, 5)), FuncFormatter(lambda v, _: f"{v:,.6g}")
    bar.minorlocator = NullLocator()
    bar.update_ticks()


def _extent(cells: NDArray[np.int64], block: int) -> tuple[float, float, float, float]:
    end = len(cells) * block - 0.5
    return (-0.5, end, end, -0.5)  # left, right, bottom, top: row 0 is at the top


def _whole_ticks(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def _nothing(axes: Any, text: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


def _legend(axes: Any) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8)
