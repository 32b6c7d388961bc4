"""`graphtheta compare`: a table of runs, the best one first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from graphtheta.cli.terminal.help import argument, flag
from graphtheta.cli.terminal.show import show_rows

__all__ = ["compare"]


def compare(
    runs: Annotated[list[Path], argument("RUN...")],
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Compare runs: the options that differ, and what each run has reached.

    The runs are sorted by the validation metric that chooses the best epoch, the best run first.
    Metrics are those of the best epoch, which is counted from 0. Seconds are those of training,
    without evaluation. Runs that have not finished are shown with the best epoch so far.

    Args:
        runs: Directories of runs (--run-dir of graphtheta train), or directories that hold some.
        as_json: Print everything as JSON, with all metrics.

    Example:
      graphtheta compare runs/gcn runs/gat
      graphtheta compare runs
    """
    from graphtheta.report.comparison import comparison_json, comparison_table
    from graphtheta.report.recorded_run import read_runs

    found = read_runs(runs)
    if as_json:
        print(json.dumps(comparison_json(found), indent=2, default=str))
        return
    head, rows = comparison_table(found)
    show_rows(rows, head=head)
    if len(metrics := {run.metric for run in found if run.metric}) > 1:
        print(f"note: the runs monitor different metrics: {', '.join(sorted(metrics))}")
