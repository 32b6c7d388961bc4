"""`graphtheta report`: a page of curves, predictions, times and configuration of runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from graphtheta.cli.terminal.help import argument, option

__all__ = ["report"]


def report(
    runs: Annotated[list[Path], argument("RUN...")],
    output: Annotated[
        Path | None, option("FILE", default="report.html in the run, or beside several runs")
    ] = None,
    png: Annotated[Path | None, option("FOLDER", default="no PNG files")] = None,
) -> None:
    """Write a report of one or several runs as a single HTML page.

    It shows the curves of losses and metrics, learning rate, confusion matrix, calibration, times,
    traffic, partitioning, configuration and versions. The page needs no other file and no network.
    A run that has not finished is shown up to its last epoch. Needs matplotlib:
    pip install 'graphtheta[report]'.

    Args:
        runs: Directories of runs (--run-dir of graphtheta train), or directories that hold some.
        output: HTML file to write.
        png: Directory to write the figures to as PNG files, too.

    Example:
      graphtheta report runs/gcn
      graphtheta report runs/gcn runs/gat --output gcn-or-gat.html --png figures
    """
    from graphtheta.comm.launch import communicator
    from graphtheta.report.page import default_output, write_report

    if communicator().rank > 0:  # only rank 0 writes files
        return
    file = output or default_output(runs)
    for sentence in write_report(runs, file, png):
        print(f"note: {sentence}", file=sys.stderr)
    print(f"wrote {file}{f' and the figures in {png}' if png else ''}")
