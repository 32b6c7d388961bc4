"""The report of runs: self-contained, escaped, and complete as far as the runs are."""

from __future__ import annotations

import base64
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from graphtheta.errors import ConfigError
from graphtheta.report.page import default_output, write_report
from tests.integration.cli import Run, command  # noqa: F401  # a fixture
from tests.report.run_folders import EVIL, report_json, write_run

EMPTY = {"meta", "img"}  # elements without an end


class Balance(HTMLParser):
    """Check that every element is closed, and collect what the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: Path) -> tuple[str, str]:
    """Return the text of a page and of its figures, after checks that hold of every page."""
    text = page.read_text()
    parser = Balance()
    parser.feed(text)
    assert not parser.open
    assert not {"script", "link", "iframe"} & parser.seen
    kind = "data:image/svg+xml;base64,"
    assert all(link.startswith(kind) for link in parser.links)
    assert not re.search(r"@import|url\(", text)
    drawn = [base64.b64decode(link.removeprefix(kind)).decode() for link in parser.links]
    return text, "\n".join(drawn)


@pytest.fixture(autouse=True)
def needs_matplotlib() -> None:
    pytest.importorskip("matplotlib")


def test_report_of_one_run(command: Run, tmp_path: Path) -> None:  # noqa: F811
    run = write_run(
        tmp_path / "fraud", metric="auroc", report=report_json("binary"), label=EVIL, hidden=99
    )
    result = command("report", run, "--png", tmp_path / "png")
    assert (result.code, result.err) == (0, "")
    text, drawn = checked(run / "report.html")
    for shown in ("0.6000", "best epoch (from 0)", "no better epoch (patience)", "replication",
                  "vertex-cut", "99", "3.11", "Yes is predicted from probability 0.25",
                  "&lt;script&gt;", "worker 0 of 2"):  # fmt: skip
        assert shown in text, shown
    for shown in ("Loss", "Auroc", "learning rate", "Confusion", "Calibration", "forward layer 0",
                  "validation", "best epoch (1)", "seconds", "&lt;script&gt;alert"):  # fmt: skip
        assert shown in drawn, shown
    assert {"curve-loss.png", "confusion.png", "phases.png", "bytes.png"} <= {
        path.name for path in (tmp_path / "png").iterdir()
    }


def test_report_of_runs_of_every_kind(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "multi", metric="f1", report=report_json("multilabel"), lr=0.1),
        write_run(tmp_path / "classes", report=report_json("multiclass")),
        write_run(tmp_path / "numbers", metric="rmse", higher=False),
        write_run(tmp_path / "link", metric="mrr", task="link"),
        write_run(tmp_path / "blind", evaluated=False),
        write_run(tmp_path / "going", values=(0.3,), finished=False),
        write_run(tmp_path / "new", values=(), finished=False),
    ]
    assert default_output(runs).resolve() == tmp_path / "report.html"
    missing = write_report(runs, tmp_path / "all.html")
    for sentence in ("going: no summary.json: the run has not finished",
                     "numbers: no report.json: its task has no classes to count",
                     "blind: no evaluation of a validation split",
                     "new: no summary.json"):  # fmt: skip
        assert any(text.startswith(sentence) for text in missing), sentence
    text, drawn = checked(tmp_path / "all.html")
    for shown in ("Labels of the test split, multi", "not finished: 1 of 3 epochs", "lr",
                  "Options that do not differ", "A dot marks the best epoch"):  # fmt: skip
        assert shown in text, shown
    for shown in ("Validation rmse", "Validation mrr", "Confusion: classes", "Training loss"):
        assert shown in drawn, shown


def test_matplotlib_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"report: expected the library matplotlib.*\[report\]"):
        write_report([tmp_path], tmp_path / "report.html")


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", values=(), finished=False)
    with pytest.raises(ConfigError, match="expected to write the report, got"):
        write_report([run], run)
