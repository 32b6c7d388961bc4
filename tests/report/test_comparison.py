"""The comparison of runs, and the reading of folders that lack something."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from graphtheta.errors import ConfigError
from graphtheta.report.comparison import comparison_table, differing_options, ranked
from graphtheta.report.recorded_run import read_runs
from tests.integration.cli import Run, assert_one_line, command  # noqa: F401
from tests.report.run_folders import report_json, write_run


def test_best_run_is_first_and_only_differing_options_are_shown(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "low", values=(0.1, 0.3), lr=0.1, threads=1),
        write_run(tmp_path / "none", evaluated=False, finished=False, lr=0.1),
        write_run(tmp_path / "high", values=(0.9, 0.8, 0.7), lr=0.1, threads=4, hidden=8),
    ]
    (tmp_path / "other").mkdir()
    assert [run.name for run in read_runs([tmp_path])] == ["high", "low", "none"]
    runs = read_runs([*folders, folders[0]])
    assert [run.name for run in ranked(runs)] == ["high", "low", "none"]
    assert differing_options(runs) == ["hidden"]
    head, rows = comparison_table(runs)
    columns = "run|hidden|best epoch|val_accuracy|test_accuracy|trained|seconds|status"
    assert head == columns.split("|")
    assert rows[0][:5] == ["high", "8", "0", "0.9000", "0.9000"]
    assert rows[2][:4] == ["none", "-", "-", "-"]
    assert rows[2][-1] == "not finished: 3 of 3 epochs"


@pytest.mark.parametrize("finished", [True, False])
def test_lower_errors_are_better(tmp_path: Path, finished: bool) -> None:
    options = {"metric": "rmse", "higher": False, "finished": finished}
    one = write_run(tmp_path / "one", values=(3.0, 1.0, 2.0), **options)
    two = write_run(tmp_path / "two", values=(0.5, 4.0), **options)
    runs = read_runs([one, two])
    assert [(run.name, run.best_epoch) for run in ranked(runs)] == [("two", 0), ("one", 1)]


def test_command_prints_a_table_or_json(command: Run, tmp_path: Path) -> None:  # noqa: F811
    one = write_run(tmp_path / "one")
    two = write_run(tmp_path / "two", metric="f1", hidden=4)
    result = command("compare", one, two)
    assert result.code == 0
    assert re.match(r"run +hidden +best epoch +val_accuracy +val_f1 ", result.out)
    assert "note: the runs monitor different metrics: accuracy, f1" in result.out
    found = json.loads(command("compare", one, two, "--json").out)
    options = [(run["run"], run["options"]) for run in found]
    assert options == [(str(one), {}), (str(two), {"hidden": 4})]
    assert found[1]["best"]["val_f1"] == 0.6
    assert_one_line(command("compare", tmp_path / "no"), "expected the folder of a run, .* no such")


def test_damage_is_left_out_and_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", report=report_json("multiclass"))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], "{", lines[2], '{"epoch": 3, "l']))
    (folder / "config.toml").write_text("= 3")
    (folder / "report.json").write_text('{"kind": "binary", "splits": 3}')
    (folder / "summary.json").write_text('{"metric": "accuracy"}')
    (run,) = read_runs([folder])
    assert [record["epoch"] for record in run.records] == [0, 2]
    for text in ("1 damaged line of", "config.toml cannot", "report.json is damaged: splits",
                 "summary.json is damaged: best_epoch", "no description of the store"):  # fmt: skip
        assert any(text in sentence for sentence in run.missing), text


def test_folder_of_a_trainer_without_options(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "config.toml").unlink()
    (run,) = read_runs([folder])
    assert "no config.toml: a Trainer in Python has started the run" in run.missing
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"expected the folder of a run, .*got a folder without"):
        read_runs([tmp_path / "empty"])
