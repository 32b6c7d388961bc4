from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from graphtheta.cli.communities import communities
from graphtheta.errors import ConfigError
from graphtheta.optim import Constant, Cosine, StepDecay, WarmupStableDecay
from graphtheta.run.build import schedule_of
from graphtheta.run.config import RunConfig
from graphtheta.run.resolve import load_config, resolve
from graphtheta.strategy import ClusterBatch
from graphtheta.train.run_dir import RunDirectory

NEEDED = {"input": "cora", "run_dir": "run"}


def started(folder: Path, **values: Any) -> Path:
    """Leave the record of a run in a folder."""
    config = resolve({"input": "cora", "run_dir": folder, **values})
    RunDirectory(folder).write_config(config.record())
    return folder


def toml(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text)
    return path


def test_options_come_before_file_and_file_before_defaults(tmp_path: Path) -> None:
    file = toml(tmp_path, 'model = "gat"\nhidden = 32\n')
    config = resolve({**NEEDED, "hidden": 8}, file=file)
    assert (config.hidden, config.model, config.epochs) == (8, "gat", 200)


def test_file_may_say_everything(tmp_path: Path) -> None:
    config = resolve({}, file=toml(tmp_path, 'input = "cora"\nrun_dir = "runs/a"\nlr = 1\n'))
    assert (config.input, config.run_dir, config.lr) == ("cora", Path("runs/a"), 1.0)


def test_record_makes_the_same_run(tmp_path: Path) -> None:
    run = started(tmp_path / "run", lr=0.1, patience=3, label="y")
    config = resolve({"run_dir": "elsewhere"}, file=run / "config.toml")
    assert config == resolve({"input": "cora", "lr": 0.1, "patience": 3, "label": "y"}
                             | {"run_dir": "elsewhere"})  # fmt: skip
    assert load_config(run).lr == 0.1


def test_moved_run_is_found_where_it_is(tmp_path: Path) -> None:
    started(tmp_path / "old").rename(tmp_path / "new")
    assert load_config(tmp_path / "new").run_dir == tmp_path / "new"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": -1.0}, r"^--lr: expected greater than 0, got -1.0\. Correct it\.$"),
        ({"lr": float("nan")}, "^--lr: expected a finite number, got nan"),
        ({"epochs": 0}, "^--epochs: expected greater than or equal to 1, got 0"),
        ({"dropout": 1.0}, "^--dropout: expected less than 1, got 1.0"),
        ({"weight_decay": "much"}, "^--weight-decay: expected a valid number.*got 'much'"),
        ({"seed": -1}, "^--seed: expected greater than or equal to 0, got -1"),
        ({"threads": 0}, "^--threads: expected greater than or equal to 1, got 0"),
        ({"batch_size": 10**20}, "^--batch-size: expected less than 2,147,483,648, got 100,000,"),
        (
            {"fanouts": "3,3"},
            "^--fanouts: expected --strategy mini with this option, got --strategy",
        ),
        ({"boundary_hops": 0, "strategy": "mini"}, "^--boundary-hops: expected --strategy cluster"),
        ({"schedule": "a.json", "warmup": 3}, "^--warmup: expected --schedule constant or "),
        (
            {"negatives": 2, "task": "edge"},
            "^--negatives: expected --task link with this option, got --task",
        ),
    ],
)
def test_resolve_raises_config_error_on_a_wrong_option(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({**NEEDED, **values})


def test_options_make_the_schedule() -> None:
    for given, expected in (
        ({}, None),
        ({"warmup": 3.0}, Constant(3.0)),
        ({"schedule": "step", "decay_factor": 0.5}, StepDecay(gamma=0.5)),
        ({"schedule": "cosine", "final_share": 0.1, "schedule_by": "epoch"},
         Cosine(final=0.1, by="epoch")),
        ({"schedule": "wsd", "decay": 30.0, "decay_shape": "sqrt", "warmup": 0.1},
         WarmupStableDecay(0.1, decay=30.0, shape="sqrt")),
    ):  # fmt: skip
        assert schedule_of(resolve({**NEEDED, **given})) == expected


@pytest.mark.parametrize("missing", ["input", "run_dir"])
def test_resolve_raises_config_error_on_a_missing_option(missing: str) -> None:
    given = {name: value for name, value in NEEDED.items() if name != missing}
    expected = {"input": "INPUT", "run_dir": "--run-dir"}[missing]
    with pytest.raises(ConfigError, match=f"^train: expected {expected}, got none"):
        resolve(given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width = 4", r"some.toml: width: unknown key\. Choose among .*hidden"),
        ("hidden = 0", r"some.toml: hidden: expected greater than or equal to 1, got 0"),
        ("hidden =", r"some.toml: expected TOML, got an error"),
    ],
)
def test_resolve_names_the_file_of_a_wrong_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(NEEDED, file=toml(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_resolve_raises_config_error_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml: expected a TOML file, got No such file"):
        resolve(NEEDED, file=tmp_path / "none.toml")


def test_resume_takes_what_the_run_was_started_with(tmp_path: Path) -> None:
    run = started(tmp_path / "run", hidden=8, epochs=10)
    config = resolve({"run_dir": run, "epochs": 30, "hidden": 8}, resume=True)
    assert (config.input, config.hidden, config.epochs) == ("cora", 8, 30)


def test_a_file_may_say_what_the_run_does_not_need(tmp_path: Path) -> None:
    run = started(tmp_path / "run", strategy="mini", fanouts="3,3")
    again = {"run_dir": "elsewhere", "strategy": "global"}
    assert resolve(again, file=run / "config.toml").fanouts == "3,3"


def test_fanouts_by_relation_are_a_table(tmp_path: Path) -> None:
    by_relation = {"a-b-c": "3,3", "c-d-a": "all"}
    text = 'strategy = "mini"\n[fanouts]\na-b-c = "3,3"\nc-d-a = "all"\n'
    assert resolve(NEEDED, file=toml(tmp_path, text)).fanouts == by_relation
    run = started(tmp_path / "run", strategy="mini", fanouts=by_relation)
    again = {"run_dir": run, "fanouts": dict(reversed(by_relation.items()))}
    assert resolve(again, resume=True).fanouts == by_relation
    with pytest.raises(ConfigError, match=r"^--fanouts: the run in .* was started with {'a-b-c'"):
        resolve({"run_dir": run, "fanouts": "3,3"}, resume=True)
    with pytest.raises(ConfigError, match=r"some.toml: fanouts: expected a valid string, got \["):
        resolve(NEEDED, file=toml(tmp_path, "fanouts = [3, 3]"))


def test_communities_have_one_default_name() -> None:
    found = inspect.signature(communities).parameters["method"].default
    batches = inspect.signature(ClusterBatch).parameters["communities"].default
    assert found == batches == RunConfig.model_fields["communities"].default


def test_resume_goes_on_in_groups(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    config = resolve({"run_dir": run, "groups": 2, "micro_batches": 4}, resume=True)
    assert (config.groups, config.micro_batches) == (2, 4)


def test_resume_without_a_run_starts_one(tmp_path: Path) -> None:
    config = resolve({"input": "cora", "run_dir": tmp_path / "new"}, resume=True)
    assert config.epochs == RunConfig.model_fields["epochs"].default


def test_resume_refuses_another_value(tmp_path: Path) -> None:
    run = started(tmp_path / "run", hidden=8)
    with pytest.raises(ConfigError, match=r"^--hidden: the run in .* was started with 8, got 16"):
        resolve({"run_dir": run, "hidden": 16}, resume=True)
    file = toml(tmp_path, "hidden = 4")
    with pytest.raises(ConfigError, match=r"some.toml: hidden: the run in .* 8, got 4"):
        resolve({"run_dir": run}, file=file, resume=True)


def test_load_run_raises_config_error_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected the directory of a run, .*got a directory"):
        load_config(tmp_path)
    (tmp_path / "config.toml").write_text('input = "cora"\nversion = 9\n')
    with pytest.raises(ConfigError, match=r"config.toml: version: unknown key"):
        load_config(tmp_path)
    RunDirectory(tmp_path, resume=True).write_config({"input": "cora", "version": 9})
    with pytest.raises(ConfigError, match=r"got also version: another version has written the run"):
        load_config(tmp_path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(ConfigError, match=r"config.toml: expected the configuration of a run"):
        load_config(tmp_path)
