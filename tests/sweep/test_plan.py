"""The TOML file of a sweep: what it may hold, and what is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from graphtheta.errors import ConfigError
from graphtheta.sweep.plan import Range, read_plan

BASE = 'input = "cora"\nrun_dir = "runs"\nhidden = 4\n'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return path


def test_space_has_ranges_and_choices(tmp_path: Path) -> None:
    text = BASE + "[space]\nlr = {low = 1, high = 3}\nhidden = {low = 8, high = 32, log = true}\n"
    plan = read_plan(written(tmp_path, text + 'norm = ["batch", "layer"]\nresidual = [true]\n'))
    assert plan.folder == Path("runs")
    assert plan.base == {"input": "cora"}  # what is searched is no option of all trials
    assert plan.space["lr"] == Range(low=1.0, high=3.0)
    assert isinstance(plan.space["lr"], Range)
    assert isinstance(plan.space["lr"].low, float)
    assert plan.first_params() == {"lr": 1.0, "hidden": 8, "norm": "batch", "residual": True}
    again = read_plan(written(tmp_path, text + 'norm = ["batch", "layer"]\nresidual = [true]\n'))
    again.check_continues(plan)
    config = plan.config({"lr": 2.0, "hidden": 16}, tmp_path / "trial-007")
    assert (config.lr, config.hidden, config.run_dir.name) == (2.0, 16, "trial-007")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the folder of the sweep, got none"),
        ('run_dir = "r"\n[space]\nlr = [1.0]', 'expected input = "STORE", got none'),
        (BASE, r"expected a table [space] of options to search, got none"),
        (BASE + "[space]", "got an empty one"),
        (BASE + "[space]\nrate = [1]", "space.rate: unknown option. Choose among model,"),
        (BASE + "[space]\nepochs = [1]", "space.epochs: expected an option of the model"),
        (BASE + "[space]\nthreads = [1]", "space.threads: expected an option of the model"),
        (BASE + "[space]\nlr = 3", "space.lr: expected a valid list, got 3"),
        (BASE + "[space]\nlr = []", "space.lr: expected List should have at least 1 item"),
        (BASE + "[space]\nlr = {low = 1}", "space.lr.high: expected Field required"),
        (BASE + "[space]\nlr = {low = 2, high = 1}", "got low 2 above high 1"),
        (BASE + "[space]\nlr = {low = 0, high = 1, log = true}", "got log = true with low 0"),
        (BASE + "[space]\nhidden = {low = 1.5, high = 3}", "of an option of whole numbers"),
        (BASE + "[space]\nmodel = {low = 1, high = 3}", "got a range of an option without numbers"),
        (BASE + "[space]\nlr = [0.1, -1.0]", "space.lr: expected greater than 0, got -1.0"),
        (BASE + "[space]\nlr = [0.1]\n[sweep]\ntrials = 0", "sweep.trials: expected greater than"),
        (BASE + "[space]\nlr = [0.1]\n[sweep]\nn = 0", "sweep.n: expected Extra inputs"),
        (BASE + 'depth = 3\n[space]\nlr = [0.1]', "depth: unknown key"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read_plan(written(tmp_path, text))
    assert "\n" not in str(caught.value)
