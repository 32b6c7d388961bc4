"""The command line as a user meets it: results, errors of one line, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.main import get_command

from graphtheta.bench.kernels import KERNELS
from graphtheta.cli import app
from graphtheta.cli.terminal.names import NAMES
from graphtheta.data.encode import ENCODERS
from graphtheta.datasets import DATASETS, READERS
from graphtheta.datasets.generate import GENERATORS
from graphtheta.export import EXPORTERS
from graphtheta.nn import DECODERS, MODELS, NAMED_LOSSES
from graphtheta.optim import OPTIMIZERS, SCHEDULES
from graphtheta.partition import PARTITIONERS
from graphtheta.partition.analysis.detect_communities import COMMUNITIES
from graphtheta.run.config import RunConfig
from graphtheta.strategy import STRATEGIES
from graphtheta.task import TASKS
from graphtheta.task.metrics import METRICS
from tests.integration.cli import (  # noqa: F401
    COLUMNS,
    EDGES,
    GRAPHTHETA,
    NODES,
    Result,
    Run,
    assert_one_line,
    command,
    cora,
    elsewhere,
    files,
    job,
    write_tables,
)
from tests.jobs import run, run_job, running, under_mpiexec

# -- help and usage -------------------------------------------------------------------------------


COMMANDS = (
    "partition", "communities", "info", "export", "train", "launch", "sweep", "report",
    "compare", "predict", "propagate", "explain", "doctor"
)  # fmt: skip
OF_DATASETS = ("datasets", "datasets list", *(f"datasets make {name}" for name in GENERATORS))


@pytest.mark.parametrize("name", [*COMMANDS, *OF_DATASETS])
def test_help_has_an_example(command: Run, name: str) -> None:
    result = command(*name.split(), "--help")
    assert result.code == 0
    assert f"graphtheta {name}" in result.out.partition("Example:")[2]


def test_every_argument_and_option_has_a_help() -> None:
    commands: list[Any] = [get_command(app)]
    for one in commands:
        commands.extend(getattr(one, "commands", {}).values())
        assert all(parameter.help for parameter in one.params), one.name
    assert len(commands) > len(COMMANDS)


@pytest.mark.parametrize("name", MODELS)
def test_explain_says_that_every_model_is_fused(command: Run, name: str) -> None:
    result = command("explain", "--model", name, "--layers", "2", "--hidden", "8")
    assert result.code == 0
    assert result.out.count("bytes per edge, forward") == (0 if name == "pna" else 2)
    assert ("chunked" in result.out) == (name == "pna")  # whose aggregators have no kernel


def test_explain_of_an_unknown_model(command: Run) -> None:
    result = command("explain", "--model", "cnn")
    assert result.code == 2
    assert "simple-hgn, transformer, got 'cnn'" in result.err


def test_names_in_help_are_those_of_the_registries() -> None:
    registries = {
        "communities": COMMUNITIES,
        "datasets": DATASETS,
        "decoders": DECODERS,
        "encoders": ENCODERS,
        "exporters": EXPORTERS,
        "kernels": KERNELS,
        "losses": NAMED_LOSSES,
        "metrics": METRICS,
        "methods": PARTITIONERS,
        "models": MODELS,
        "optimizers": OPTIMIZERS,
        "readers": READERS,
        "schedules": SCHEDULES,
        "strategies": STRATEGIES,
        "tasks": TASKS,
    }
    assert {name: tuple(registry) for name, registry in registries.items()} == NAMES


def test_help_of_train_shows_every_option_with_choices_range_and_default(command: Run) -> None:
    listed = " ".join(command("train", "--help").out.split())
    assert all(f"--{name.replace('_', '-')} " in listed for name in RunConfig.model_fields
               if name != "input")  # fmt: skip
    for text in (
        "Model: gcn, sage, gat,",
        "--corrupt [both|dst|src]",
        "Learning rate. [default: 0.01; x>0]",
        "[default: 0.5; 0<=x<1]",
        "[default: (node-hash)]",
    ):
        assert text in listed, text
    for panel in ("Model:", "Task:", "Batches:", "Training:", "Input:", "Run:", "Machine:"):
        assert panel in listed


def test_version_and_help_of_all(command: Run) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", command("--version").out)
    assert command("--help").out.strip() == command().out.strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("frobnicate", "No such command 'frobnicate'"),
        ("train cora --bogus", "No such option: --bogus"),
        ("train cora --epochs many", "Invalid value for '--epochs'"),
        ("train cora", "expected --run-dir, got none"),
        ("train --run-dir r", "expected INPUT, got none"),
        ("train cora --run-dir r --lr -1", "--lr: expected greater than 0, got -1.0"),
        ("train cora --run-dir r --model gnc", "expected one of appnp, gat, gat-e"),
        ("train cora --run-dir r --strategy x", "cluster, global, mini, got 'x'"),
        ("train cora --run-dir r --optimizer x", "adam, adamw, sgd, got 'x'"),
        ("train cora --run-dir r --method x", "range, got 'x'"),
        ("train cora --run-dir r --label z", "label of nodes"),
        ("train cora --run-dir r --split z", "split of nodes"),
        ("train cora --run-dir r --model rgcn", "no 'type' column"),
        ("train nothing --run-dir r", "got 'nothing'. Check that the path exists"),
        ("train cora --run-dir r --config none.toml", "none.toml: expected a TOML file"),
        ("partition cora s", "Missing option '--parts'"),
        ("partition cora --parts 2", "expected INPUT and STORE, got cora"),
        ("partition --edges e.csv --parts 2", "expected only STORE with --edges"),
        ("partition --nodes n.csv s --parts 2", "expected --edges with --nodes"),
        ("partition nothing s --parts 2", "got 'nothing'. Check that the path exists"),
        ("partition cora s --parts 2 --method x", "range, got 'x'"),
        ("partition cora s --parts 0", "at least one part, got 0"),
        ("partition cora s --parts 2709", "2,709 parts for 2,708 nodes"),
        ("info nothing", "nothing: expected a store"),
        ("datasets make rmat g --scale 41", "rmat: scale: expected 1 to 40, got 41"),
        ("datasets make communities g --inside 2", "communities: inside: expected a fraction"),
        ("datasets make nothing g", "No such command 'nothing'"),
        ("export x nothing out", "nothing: expected a store"),
        ("predict nothing cora --out p", "expected the directory of a run"),
        ("compare nothing", "nothing: expected the folder of a run"),
        ("report nothing", "nothing: expected the folder of a run"),
        ("sweep nothing.toml", "nothing.toml: expected a TOML file"),
    ],
)
def test_wrong_arguments_are_one_line(command: Run, words: str, message: str) -> None:
    assert_one_line(command(*words.split()), re.escape(message))
    assert {path.name for path in Path().iterdir()} <= {"cache"}


def test_partition_never_imports_torch() -> None:
    program = (
        "import sys; from graphtheta.cli import main; "
        "code = main(['partition', 'cora', sys.argv[1], '--parts', '2']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    job = run([sys.executable, "-c", program, Path("store").absolute()])
    assert job.code == 0, job.output


@pytest.mark.parametrize("words", ["--help", "train --help", "partition --help", "bench --help"])
def test_help_imports_no_large_library(words: str) -> None:
    job = run([sys.executable, "-X", "importtime", "-m", "graphtheta", *words.split()])
    assert job.code == 0, job.output
    assert not re.search(r"\| +(torch|numba|pyarrow|scipy)$", job.output, re.MULTILINE)


# -- train and predict ----------------------------------------------------------------------------


def train(command: Run, *words: object) -> dict[str, Any]:
    result = command("train", *words, "--no-progress")
    assert result.code == 0, result.err
    folder = Path(str(words[words.index("--run-dir") + 1]))
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_made_graph_trains(command: Run) -> None:
    result = command("datasets", "make", "communities", "graph", "--nodes", 500, "--features", 4)
    assert result.code == 0, result.err
    assert command("partition", "graph", "store", "--parts", 2, "--method", "dbh").code == 0
    assert train(command, "store", "--run-dir", "run", "--epochs", 2)["epochs"] == 2
    (compared,) = json.loads(command("compare", "run", "--json").out)
    assert (compared["epochs"], compared["finished"], compared["missing"]) == (2, True, [])
    reported = command("report", "run")
    assert (reported.code, reported.err) == (0, "")
    assert "vertex-cut" in Path("run/report.html").read_text()
    listed = command("datasets", "list").out
    assert all(name in listed for name in ["cora", "planetoid", *GENERATORS])


def test_graph_without_training_nodes_is_refused(command: Run) -> None:
    write_tables({"part": ["val", "val", "test", "test"]})
    tables = "partition --nodes nodes.parquet --edges edges.parquet store --parts 1".split()
    assert command(*tables, *COLUMNS).code == 0
    result = command("train", "store", "--run-dir", "run")
    assert_one_line(result, "expected nodes with a label 'y' in the training split")
    assert not Path("run").exists()


def test_file_and_options_make_the_run(command: Run, cora: Path) -> None:
    Path("run.toml").write_text(f'input = "{cora}"\nmodel = "gat"\nhidden = 2\nepochs = 9\n')
    summary = train(command, "--config", "run.toml", "--epochs", 2, "--run-dir", "run")
    assert summary["epochs"] == 2
    again = train(command, "--config", "run/config.toml", "--run-dir", "again")
    assert again["loss_history"] == summary["loss_history"]
    assert 'model = "gat"' in Path("again/config.toml").read_text()

    result = command("train", "--config", "run.toml", "--run-dir", "run")
    assert_one_line(result, "run: expected a new directory, got one that holds a run already. Add")
    Path("run.toml").write_text("width = 4\n")
    assert_one_line(
        command("train", cora, "--config", "run.toml", "--run-dir", "new"), "width: unknown key"
    )


def test_resume_goes_on_to_more_epochs_and_refuses_other_options(command: Run, cora: Path) -> None:
    rates = [0.02, 0.02, 0.01, 0.01, 0.005, 0.005]
    Path("rates.json").write_text(json.dumps({"lr": rates, "by": "epoch"}))
    options = ["--hidden", 4, "--seed", 3, "--schedule", "rates.json"]
    whole = train(command, cora, "--run-dir", "whole", "--epochs", 6, *options, "--resume", "auto")
    train(command, cora, "--run-dir", "run", "--epochs", 4, *options)
    resumed = train(command, "--run-dir", "run", "--epochs", 6, "--resume")
    assert resumed["loss_history"] == whole["loss_history"]
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines] == rates
    assert resumed["stop_reason"] == "epochs"
    # What is over stays as it is.
    over = train(command, "--run-dir", "run", "--resume=auto")
    assert over["loss_history"] == whole["loss_history"]

    result = command("train", "--run-dir", "run", "--resume", "--hidden", 8)
    assert_one_line(result, "--hidden: the run in run was started with 4, got 8")
    write_tables()
    tables = "partition --nodes nodes.parquet --edges edges.parquet other --parts 1".split()
    assert command(*tables, *COLUMNS).code == 0
    result = command("train", "other", "--run-dir", "run", "--resume")
    assert_one_line(result, "weights of this model")


def test_predictions_are_keyed_by_original_id(command: Run) -> None:
    write_tables()
    tables = "partition --nodes nodes.parquet --edges edges.parquet store --parts 2".split()
    assert command(*tables, *COLUMNS, "--method", "node-hash").code == 0
    train(command, "store", "--run-dir", "run", "--epochs", 2, "--hidden", 3)
    result = command("predict", "run", "store", "--out", "out", "--embeddings")
    assert result.code == 0, result.err
    assert "wrote predictions of 4 nodes to out" in result.out
    table = pq.read_table("out")
    assert sorted(table["id"].to_pylist()) == NODES["name"]
    assert table["embedding"].type.list_size == 3
    no_label = "partition --nodes nodes.parquet --edges edges.parquet bare --parts 1"
    some = [word for word in COLUMNS if word not in ("--label", "y")]
    assert command(*no_label.split(), *some).code == 0
    assert command("predict", "run", "bare", "--out", "of-bare").code == 0
    bare = pq.read_table("of-bare").sort_by("id")
    assert bare["prediction"] == table.sort_by("id")["prediction"]
    assert_one_line(command("predict", "run", "store", "--out", "out"), "out: expected a new")
    assert_one_line(
        command("predict", "run", "cora", "--out", "new"),
        "run: expected a graph with 2 node features, as .*, got one with 1,433 node features",
    )
    Path("run/label.json").rename("label.json")
    assert_one_line(
        command("predict", "run", "store", "--out", "new"), "label of the run, got no f"
    )
    Path("label.json").rename("run/label.json")
    Path("run/weights.safetensors").unlink()
    assert_one_line(
        command("predict", "run", "store", "--out", "new"), "of a finished run, got no file"
    )
    assert not Path("new").exists()


def test_doctor_reports(command: Run, tmp_path: Path) -> None:
    result = command("doctor")
    assert result.code == 0
    assert "threads per rank" in result.out
    assert str(tmp_path / "cache") in result.out


# -- real jobs ------------------------------------------------------------------------------------


def losses(run_dir: Path) -> list[float]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Poll until a job has come so far."""
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the job did not come so far"
        time.sleep(0.005)


def epochs_of(run_dir: Path) -> int:
    metrics = run_dir / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


@pytest.mark.slow  # the README's commands, which tests/test_documentation.py runs, are such jobs
@pytest.mark.spawn
def test_job_of_two_partitions_trains_and_predicts(tmp_path: Path) -> None:
    store, run_dir, out = tmp_path / "store", tmp_path / "run", tmp_path / "out"
    output = job(2, "partition", "cora", store, "--parts", 2)
    assert output.count("2,708 nodes and 10,556 edges") == 1
    output = job(2, "train", store, "--run-dir", run_dir, "--epochs", 100, "--no-progress")
    assert output.count("test accuracy") == 1
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.79
    assert summary["workers"] == 2
    job(2, "predict", run_dir, store, "--out", out)
    assert files(out) == ["part-00000.parquet", "part-00001.parquet"]
    assert sorted(pq.read_table(out)["id"].to_pylist()) == list(range(2708))


@pytest.mark.slow  # tests/datasets/test_store_cache.py has the cache on two workers
@pytest.mark.spawn
def test_unpartitioned_input_trains_on_two_workers_out_of_the_cache(tmp_path: Path) -> None:
    job(2, "train", "cora", "--run-dir", tmp_path / "two", "--epochs", 3)
    (entry,) = (tmp_path / "cache" / "v2").iterdir()
    assert entry.name.endswith("-2-node-hash-0")
    assert len(losses(tmp_path / "two")) == 3


@pytest.mark.spawn
def test_killed_job_resumes_as_if_never_stopped(command: Run, tmp_path: Path, cora: Path) -> None:
    words = ["train", str(cora), "--epochs", "24", "--no-progress"]
    assert command(*words, "--run-dir", tmp_path / "whole").code == 0
    killed = tmp_path / "killed"
    program = [*GRAPHTHETA, *words, "--run-dir", str(killed), "--checkpoint-every", "4"]
    with running(under_mpiexec(program, 2)) as process:
        wait_for(lambda: epochs_of(killed) >= 5, process)
    assert not (killed / "summary.json").exists(), "it was over before it was killed"
    shutil.copytree(killed, tmp_path / "alone")

    job(2, "train", "--run-dir", killed, "--resume")
    assert command("train", "--run-dir", tmp_path / "alone", "--resume", "--no-progress").code == 0
    for run_dir in (killed, tmp_path / "alone"):
        np.testing.assert_allclose(losses(run_dir), losses(tmp_path / "whole"), rtol=1e-4)


@pytest.mark.spawn
def test_signals_save_a_checkpoint_and_sigterm_ends_the_job(tmp_path: Path, cora: Path) -> None:
    run_dir = tmp_path / "run"
    checkpoints = run_dir / "checkpoints"
    program = [*GRAPHTHETA, "train", str(cora), "--run-dir", str(run_dir), "--epochs", "100000"]

    def saved() -> list[str]:
        return sorted(path.name for path in checkpoints.glob("epoch-*"))

    with running(under_mpiexec(program, 2)) as process:
        wait_for(lambda: epochs_of(run_dir) >= 2, process)
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: len(saved()) > 0, process)
        done = epochs_of(run_dir)
        wait_for(lambda: epochs_of(run_dir) > done + 2, process)
        assert len(saved()) <= 2, "ranks see one signal at most an epoch apart"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 143, output
    epochs = epochs_of(run_dir)
    assert saved()[-1] == f"epoch-{epochs:06d}"
    assert output.count(f"stopped after {epochs} of 100000 epochs and saved a checkpoint") == 1
    assert "error" not in output


@pytest.mark.spawn
def test_mistake_in_a_job_is_one_line(tmp_path: Path, cora: Path) -> None:
    run_dir = tmp_path / "run"
    words = ["train", str(cora), "--run-dir", str(run_dir)]
    done = run_job([*GRAPHTHETA, *words], 3, timeout_s=120)
    assert done.code == 2, done.output
    assert done.output.count("error: ") == 1
    assert "3 workers do not divide the 2 parts" in done.output
    assert not run_dir.exists()


@pytest.mark.spawn
def test_ctrl_c_saves_a_checkpoint(tmp_path: Path, cora: Path) -> None:
    run_dir = tmp_path / "run"
    words = ["train", str(cora), "--run-dir", str(run_dir), "--epochs", "100000"]
    # A shell that starts pytest in the background has it, and what it starts, ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with running([sys.executable, *GRAPHTHETA, *words]) as process:
            wait_for(lambda: epochs_of(run_dir) >= 1, process)
            os.kill(process.pid, signal.SIGINT)
            output, _ = process.communicate(timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.returncode == 130, output
    epochs = epochs_of(run_dir)
    assert f"stopped after {epochs} of 100000 epochs and saved a checkpoint" in output
    assert (run_dir / "checkpoints" / f"epoch-{epochs:06d}").is_dir()
    assert "error" not in output
