"""Report of one or several runs: a page of HTML that needs no other file, and PNG files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import graphtheta
from graphtheta.errors import ConfigError
from graphtheta.partition.analysis.plot import require_matplotlib
from graphtheta.report.comparison import comparison_table, ranked
from graphtheta.report.costs import draw_bytes, draw_phases
from graphtheta.report.curves import draw_curves, draw_epoch_times
from graphtheta.report.drawing import COLOURS, Drawing, colour_of, style
from graphtheta.report.facts import (
    label_rows,
    merged_rows,
    option_rows,
    results_of,
    store_rows,
    version_rows,
)
from graphtheta.report.markup import (
    details,
    document,
    facts,
    figures,
    notes,
    remark,
    section,
    table,
)
from graphtheta.report.outcome import draw_calibration, draw_confusion, split_name
from graphtheta.report.recorded_run import RecordedRun, read_runs
from graphtheta.runtime.atomic import atomic_file, disk_errors
from graphtheta.wording import counted

__all__ = ["default_output", "write_report"]

_MOST_NAMES = 4  # of runs in the title
_MOST_MATRICES = 6  # confusion matrices that are shown without a click


@dataclass(frozen=True)
class _Drawings:
    """Figures of a report by section."""

    curves: list[Drawing]
    more_curves: list[Drawing]
    outcome: list[Drawing]
    costs: list[Drawing]


def default_output(folders: Sequence[Path]) -> Path:
    """Return the file of a report: in the folder of a run, or that which holds all runs."""
    if len(folders) == 1:
        return folders[0] / "report.html"
    common = os.path.commonpath([folder.resolve().parent for folder in folders])
    return Path(os.path.relpath(common)) / "report.html"


def write_report(folders: Sequence[Path], output: Path, png: Path | None = None) -> list[str]:
    """Write the report of runs, the best one first.

    Args:
        folders: Folders of the runs.
        output: HTML file to write.
        png: Folder for the figures as PNG files, if they are to be written.

    Returns:
        Sentences about what the runs lack, each with the name of its run.

    Raises:
        ConfigError: If a folder holds no run, matplotlib is missing, or a file cannot be written.
    """
    require_matplotlib("report")
    runs = ranked(read_runs(folders))
    with style():
        drawn = _draw(runs)
        page = _page(runs, drawn)
        with disk_errors(output, "the report", ConfigError):
            output.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(output) as file:
                file.write_text(page, encoding="utf-8")
        if png is not None:
            with disk_errors(png, "figures", ConfigError):
                png.mkdir(parents=True, exist_ok=True)
                for drawing in _all(drawn):
                    drawing.write_png(png)
    return [f"{run.name}: {sentence}" for run in runs for sentence in run.missing]


def _all(drawn: _Drawings) -> list[Drawing]:
    return [*drawn.curves, *drawn.more_curves, *drawn.outcome, *drawn.costs]


def _draw(runs: Sequence[RecordedRun]) -> _Drawings:
    curves, more = draw_curves(runs)
    several = len(runs) > 1
    outcome = [d for i, run in enumerate(runs) for d in draw_confusion(run, i, several=several)]
    outcome = (
        [*draw_calibration(runs), *outcome] if several else [*outcome, *draw_calibration(runs)]
    )
    costs = [*draw_phases(runs), *draw_epoch_times(runs), *draw_bytes(runs)]
    return _Drawings(curves, more, outcome, costs)


def _page(runs: Sequence[RecordedRun], drawn: _Drawings) -> str:
    single = runs[0] if len(runs) == 1 else None
    names = " · ".join(run.name for run in runs)
    title = names if len(runs) <= _MOST_NAMES else counted(len(runs), "run")
    missing = [
        sentence if single else f"{run.name}: {sentence}"
        for run in runs
        for sentence in run.missing
    ]
    parts = [
        facts(results_of(single)) if single else _comparison(runs),
        notes(missing),
        section(
            "Curves",
            figures(drawn.curves),
            details(f"Further metrics ({len(drawn.more_curves)})", figures(drawn.more_curves)),
        ),
        _predictions(runs, drawn.outcome),
        section("Time and traffic", figures(drawn.costs), _traffic_note(runs)),
        _stores(runs),
        _configuration(runs),
        _versions(runs),
    ]
    return document(title, _subtitle(runs), parts)


def _subtitle(runs: Sequence[RecordedRun]) -> str:
    titles = dict.fromkeys(
        " · ".join(str(run.config[n]) for n in ("model", "task", "input") if n in run.config)
        for run in runs
    )
    known = [what for what in titles if what]
    what = f"{known[0]} · " if len(known) == 1 else ""
    return f"{what}GraphTheta {graphtheta.__version__}"


def _comparison(runs: Sequence[RecordedRun]) -> str:
    head, rows = comparison_table(runs)
    several = len(runs) > len(COLOURS)
    note = f"The best {len(COLOURS)} runs have colours in the figures." if several else ""
    colours = [colour_of(index) for index in range(len(runs))]
    return table(head, rows, colours=colours) + (remark(note) if note else "")


def _predictions(runs: Sequence[RecordedRun], drawings: Sequence[Drawing]) -> str:
    limit = _MOST_MATRICES + 1
    parts = [
        figures(drawings[:limit]),
        details(f"Further runs ({len(drawings) - limit})", figures(drawings[limit:])),
    ]
    for run in runs:
        rows, note = label_rows(run)
        if rows:
            assert run.predictions is not None
            split = split_name(run.predictions.split)
            head = ("label", "positives", "precision", "recall", "F1")
            title = f"Labels of the {split} split" + f", {run.name}" * (len(runs) > 1)
            parts += [table(head, rows, title=title), remark(note) if note else ""]
    return section("Predictions of the best epoch", *parts)


def _traffic_note(runs: Sequence[RecordedRun]) -> str:
    finished = [run.summary for run in runs if run.summary is not None]
    if finished and all(summary.workers == 1 for summary in finished):
        return remark("A single worker has trained, so that no bytes were exchanged.")
    return ""


def _stores(runs: Sequence[RecordedRun]) -> str:
    stores = {run.name: store_rows(run.store) for run in runs if run.store is not None}
    if len({tuple(rows) for rows in stores.values()}) == 1:  # one column is enough
        stores = dict([next(iter(stores.items()))])
    rows, marked = merged_rows(list(stores.values()))
    head = ["", *stores] if len(stores) > 1 else []
    return section("Graph and partitioning", table(head, rows, marked=marked))


def _configuration(runs: Sequence[RecordedRun]) -> str:
    first, others = option_rows(runs)
    head = ["option", *(run.name for run in runs)] if len(runs) > 1 else []
    marked = range(len(first)) if len(runs) > 1 else ()
    rest = "Options with default values" if len(runs) == 1 else "Options that do not differ"
    return section(
        "Configuration",
        table(head, first, marked=marked),
        details(f"{rest} ({len(others)})", table(head, others)),
    )


def _versions(runs: Sequence[RecordedRun]) -> str:
    rows, marked = merged_rows([version_rows(run) for run in runs])
    head = ["", *(run.name for run in runs)] if len(runs) > 1 else []
    return section("Versions", table(head, rows, marked=marked))
