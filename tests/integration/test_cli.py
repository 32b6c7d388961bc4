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
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphtheta.cli import main
from graphtheta.datasets.generate import GENERATORS
from graphtheta.nn import MODELS
from graphtheta.partition import PARTITIONERS, open_store
from tests.jobs import run, run_job, running, under_mpiexec

Run = Callable[..., "Said"]
NODES: dict[str, Any] = {
    "name": ["a", "b", "c", "d"],
    "f_0": [0.0, 1.0, 2.0, 3.0],
    "f_1": [1.0, 0.0, 1.0, 0.0],
    "y": [0, 1, 0, 1],
    "part": ["train", "train", "val", "test"],
}
EDGES: dict[str, Any] = {"from": ["a", "b", "c", "d"], "to": ["b", "c", "d", "a"]}
COLUMNS = "--id name --src from --dst to --features f_* --label y --split split=part".split()


class Said(tuple[int, str, str]):
    """What a command came to: exit code, stdout and stderr."""

    code = property(lambda self: self[0])
    out = property(lambda self: self[1])
    err = property(lambda self: self[2])


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHTHETA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def run_it(*words: object) -> Said:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return Said((code, *capfd.readouterr()))

    return run_it


@pytest.fixture(scope="module")
def cora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of Cora in two parts; not to be changed."""
    store = tmp_path_factory.mktemp("cora") / "store"
    assert main(["partition", "cora", str(store), "--parts", "2"]) == 0
    return store


def write_tables(nodes: dict[str, Any] | None = None, edges: dict[str, Any] | None = None) -> None:
    pq.write_table(pa.table({**NODES, **(nodes or {})}), "nodes.parquet")
    pq.write_table(pa.table(edges or EDGES), "edges.parquet")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_one_line(said: Said, pattern: str) -> None:
    assert said.code == 2, said
    assert re.fullmatch(rf"error: [^\n]*{pattern}[^\n]*\n", said.err), said.err


# -- help and usage -------------------------------------------------------------------------------


COMMANDS = (
    "partition",
    "info",
    "train",
    "predict",
    "doctor",
    "export",
    "datasets",
    "datasets list",
)


@pytest.mark.parametrize("name", [*COMMANDS, *(f"datasets make {name}" for name in GENERATORS)])
def test_help_has_an_example(command: Run, name: str) -> None:
    said = command(*name.split(), "--help")
    assert said.code == 0
    assert f"graphtheta {name}" in said.out.partition("Example:")[2]


def test_help_lists_the_registries(command: Run) -> None:
    listed = command("train", "--help").out
    assert all(re.search(rf"\b{re.escape(name)}\b", listed) for name in [*MODELS, *PARTITIONERS])


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
        ("train cora --run-dir r --model gnc", "--model: unknown name 'gnc'. Choose among gat"),
        ("train cora --run-dir r --strategy x", "--strategy: unknown name 'x'"),
        ("train cora --run-dir r --optimizer x", "--optimizer: unknown name 'x'"),
        ("train cora --run-dir r --method x", "unknown method 'x'"),
        ("train cora --run-dir r --label z", "unknown label 'z'"),
        ("train cora --run-dir r --split z", "unknown split 'z'"),
        ("train cora --run-dir r --model rgcn", "no 'type' column"),
        ("train nothing --run-dir r", "got 'nothing'. Check that the path exists"),
        ("train cora --run-dir r --config none.toml", "none.toml: expected a TOML file"),
        ("partition cora s", "Missing option '--parts'"),
        ("partition cora --parts 2", "expected INPUT and STORE, got cora"),
        ("partition --edges e.csv --parts 2", "expected STORE alone beside --edges"),
        ("partition --nodes n.csv s --parts 2", "expected --edges beside --nodes"),
        ("partition nothing s --parts 2", "got 'nothing'. Check that the path exists"),
        ("partition cora s --parts 2 --method x", "unknown method 'x'"),
        ("partition cora s --parts 0", "at least one part, got 0"),
        ("partition cora s --parts 2709", "2,709 parts for 2,708 nodes"),
        ("info nothing", "nothing: expected a store"),
        ("datasets make rmat g --scale 41", "rmat: scale: expected 1 to 40, got 41"),
        ("datasets make communities g --inside 2", "communities: inside: expected a fraction"),
        ("datasets make nothing g", "No such command 'nothing'"),
        ("export x nothing out", "nothing: expected a store"),
        ("predict nothing cora --out p", "expected the folder of a run"),
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
    job = run([sys.executable, "-X", "importtime", "-m", "graphtheta", "--help"])
    assert job.code == 0, job.output
    assert not re.search(r"\| +(torch|numba|pyarrow)$", job.output, re.MULTILINE)


# -- partition and info ---------------------------------------------------------------------------


def test_tables_are_partitioned_and_described(command: Run) -> None:
    write_tables()
    tables = ["partition", "--nodes", "nodes.parquet", "--edges", "edges.parquet", "--parts", 2]
    dry = command(*tables, *COLUMNS, "--dry-run")
    assert dry.code == 0, dry.err
    assert "replication factor" in dry.out
    assert not Path("store").exists()

    said = command(*tables, *COLUMNS, "store", "--undirected", "--method", "node-hash")
    assert said.code == 0, said.err
    assert "4 nodes and 8 edges are in store" in said.out
    info = command("info", "store", "--verify")
    for words in ("features float64[2]", "y (multiclass, 2)", "ids of type string", "verified"):
        assert words in info.out
    described = json.loads(command("info", "store", "--json", "--verify").out)
    assert described["verified"] is True
    assert (described["num_nodes"], len(described["parts"])) == (4, 2)


def test_columns_may_get_other_names_and_three_masks_make_a_split(command: Run) -> None:
    masks = {f"is_{k}": [i == k for i in range(4)] for k in range(3)}
    write_tables(masks)
    said = command(
        *"partition --nodes nodes.parquet --edges edges.parquet store --parts 1".split(),
        *"--id name --src from --dst to --features f_1 --features f_0".split(),
        *"--label fraud=y --label again=y --split three=is_0,is_1,is_2".split(),
    )
    assert said.code == 0, said.err
    store = open_store("store")
    assert set(store.manifest.labels) == {"again", "fraud"}
    part = store.part(0)
    split = dict(
        zip(
            part.masters["original_id"].to_pylist(),
            part.masters["split:three"].to_pylist(),
            strict=True,
        )
    )
    assert split == {"a": 1, "b": 2, "c": 3, "d": 0}


BAD_TABLES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown_id": ({}, {**EDGES, "to": ["b", "c", "d", "e"]}, "unknown 'e'"),
    "duplicate_id": ({"name": ["a", "b", "c", "a"]}, EDGES, "'a' more than once"),
    "nan_feature": ({"f_0": [0.0, float("nan"), 2.0, 3.0]}, EDGES, "NaN"),
    "wrong_lengths": ({"f_0": [[1.0], [1.0, 2.0], [3.0], [4.0]]}, EDGES, "length"),
    "label_out_of_range": ({"y": [0, 1, -4, 1]}, EDGES, "-4"),
    "unknown_split": ({"part": ["train", "val", "test", "tset"]}, EDGES, "tset"),
    "empty_graph": ({n: pa.array([], pa.int64()) for n in NODES},
                    {n: pa.array([], pa.int64()) for n in EDGES}, "at least one node"),
    "unknown_column": ({}, {"from": ["a"], "two": ["b"]}, "'to'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_are_one_line_and_leave_nothing(command: Run, case: str) -> None:
    nodes, edges, message = BAD_TABLES[case]
    write_tables(nodes, edges)
    before = files(Path())
    columns = [c if case != "wrong_lengths" else c.replace("f_*", "f_0") for c in COLUMNS]
    said = command(
        *"partition --nodes nodes.parquet --edges edges.parquet store --parts 1".split(), *columns
    )
    assert_one_line(said, re.escape(message))
    assert files(Path()) == before


def test_store_that_exists_is_kept(command: Run, cora: Path) -> None:
    before = files(cora)
    said = command("partition", "cora", cora, "--parts", 3)
    assert_one_line(said, "expected no file and no directory but an empty one")
    assert files(cora) == before


def truncate(store: Path) -> None:
    file = store / "part-00001" / "in_edges.arrow"
    file.write_bytes(file.read_bytes()[:-8])


def alter(store: Path) -> None:
    file = store / "part-00000" / "masters.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def renew(store: Path) -> None:
    manifest = store / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 9'))


@pytest.mark.parametrize(
    ("damage", "words", "message"),
    [
        (truncate, "info", "in_edges.arrow: expected .* bytes, got"),
        (truncate, "train", "in_edges.arrow: expected .* bytes, got"),
        (alter, "info --verify", "masters.arrow: expected content of hash"),
        (renew, "info", "expected format version 1 or older, got 9. Upgrade"),
        (renew, "train", "expected format version 1 or older, got 9. Upgrade"),
    ],
)
def test_damaged_store_is_refused(
    command: Run, cora: Path, damage: Callable[[Path], None], words: str, message: str
) -> None:
    shutil.copytree(cora, "store")
    damage(Path("store"))
    name, *options = words.split()
    said = command(name, "store", *options, *(["--run-dir", "run"] if name == "train" else []))
    assert_one_line(said, message)
    assert not Path("run").exists()


def test_made_graph_trains(command: Run) -> None:
    said = command("datasets", "make", "communities", "graph", "--nodes", 500, "--features", 4)
    assert said.code == 0, said.err
    assert command("partition", "graph", "store", "--parts", 2, "--method", "dbh").code == 0
    assert train(command, "store", "--run-dir", "run", "--epochs", 2)["epochs"] == 2
    listed = command("datasets", "list").out
    assert all(name in listed for name in ["cora", "planetoid", *GENERATORS])


# -- train and predict ----------------------------------------------------------------------------


def train(command: Run, *words: object) -> dict[str, Any]:
    said = command("train", *words, "--no-progress")
    assert said.code == 0, said.err
    folder = Path(str(words[words.index("--run-dir") + 1]))
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_graph_without_training_nodes_is_refused(command: Run) -> None:
    write_tables({"part": ["val", "val", "test", "test"]})
    tables = "partition --nodes nodes.parquet --edges edges.parquet store --parts 1".split()
    assert command(*tables, *COLUMNS).code == 0
    said = command("train", "store", "--run-dir", "run")
    assert_one_line(said, "no node with a 'y' label is in the training split")
    assert not Path("run").exists()


def test_file_and_options_make_the_run(command: Run, cora: Path) -> None:
    Path("run.toml").write_text(f'input = "{cora}"\nmodel = "gat"\nhidden = 2\nepochs = 9\n')
    summary = train(command, "--config", "run.toml", "--epochs", 2, "--run-dir", "run")
    assert summary["epochs"] == 2
    again = train(command, "--config", "run/config.toml", "--run-dir", "again")
    assert again["loss_history"] == summary["loss_history"]
    assert 'model = "gat"' in Path("again/config.toml").read_text()

    said = command("train", "--config", "run.toml", "--run-dir", "run")
    assert_one_line(said, "run: it holds a run already. Add --resume")
    Path("run.toml").write_text("width = 4\n")
    assert_one_line(
        command("train", cora, "--config", "run.toml", "--run-dir", "new"), "width: unknown key"
    )


def test_resume_goes_on_to_more_epochs_and_refuses_other_options(command: Run, cora: Path) -> None:
    options = ["--hidden", 4, "--seed", 3]
    whole = train(command, cora, "--run-dir", "whole", "--epochs", 6, *options, "--resume")
    train(command, cora, "--run-dir", "run", "--epochs", 4, *options)
    resumed = train(command, "--run-dir", "run", "--epochs", 6, "--resume")
    assert resumed["loss_history"] == whole["loss_history"]
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 6
    # What is over stays as it is.
    over = train(command, "--run-dir", "run", "--resume")
    assert over["loss_history"] == whole["loss_history"]

    said = command("train", "--run-dir", "run", "--resume", "--hidden", 8)
    assert_one_line(said, "--hidden: the run in run was started with 4, got 8")
    write_tables()
    tables = "partition --nodes nodes.parquet --edges edges.parquet other --parts 1".split()
    assert command(*tables, *COLUMNS).code == 0
    said = command("train", "other", "--run-dir", "run", "--resume")
    assert_one_line(said, "weights of another model")


def test_predictions_are_keyed_by_original_id(command: Run) -> None:
    write_tables()
    tables = "partition --nodes nodes.parquet --edges edges.parquet store --parts 2".split()
    assert command(*tables, *COLUMNS, "--method", "node-hash").code == 0
    train(command, "store", "--run-dir", "run", "--epochs", 2, "--hidden", 3)
    said = command("predict", "run", "store", "--out", "out", "--embeddings")
    assert said.code == 0, said.err
    assert "predictions for 4 nodes are in out" in said.out
    table = pq.read_table("out")
    assert sorted(table["id"].to_pylist()) == NODES["name"]
    assert table["embedding"].type.list_size == 3
    assert_one_line(command("predict", "run", "store", "--out", "out"), "out: expected a new")
    assert_one_line(command("predict", "run", "cora", "--out", "new"), "weights of another model")
    Path("run/weights.safetensors").unlink()
    assert_one_line(command("predict", "run", "store", "--out", "new"), "not come to its end")
    assert not Path("new").exists()


def test_doctor_reports(command: Run, tmp_path: Path) -> None:
    said = command("doctor")
    assert said.code == 0
    assert "threads per rank" in said.out
    assert str(tmp_path / "cache") in said.out


# -- real jobs ------------------------------------------------------------------------------------

GRAPHTHETA = ["-m", "graphtheta"]


def job(ranks: int, *words: object) -> str:
    done = run_job([*GRAPHTHETA, *map(str, words)], ranks, timeout_s=120)
    assert done.code == 0, done.output
    return done.output


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


@pytest.mark.spawn
def test_job_of_two_partitions_trains_and_predicts(tmp_path: Path) -> None:
    store, run_dir, out = tmp_path / "store", tmp_path / "run", tmp_path / "out"
    output = job(2, "partition", "cora", store, "--parts", 2)
    assert output.count("2,708 nodes and 10,556 edges") == 1
    output = job(2, "train", store, "--run-dir", run_dir, "--no-progress")
    assert output.count("test accuracy") == 1
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.79
    assert summary["workers"] == 2
    job(2, "predict", run_dir, store, "--out", out)
    assert files(out) == ["part-00000.parquet", "part-00001.parquet"]
    assert sorted(pq.read_table(out)["id"].to_pylist()) == list(range(2708))


@pytest.mark.spawn
def test_unpartitioned_input_trains_on_two_workers_out_of_the_cache(tmp_path: Path) -> None:
    job(2, "train", "cora", "--run-dir", tmp_path / "two", "--epochs", 3)
    (entry,) = (tmp_path / "cache" / "v1").iterdir()
    assert entry.name.endswith("-2-node-hash-0")
    made = entry.stat().st_mtime_ns
    job(2, "train", "cora", "--run-dir", tmp_path / "again", "--epochs", 3)
    assert entry.stat().st_mtime_ns == made
    assert losses(tmp_path / "again") == losses(tmp_path / "two")


@pytest.mark.spawn
def test_killed_job_resumes_as_if_never_stopped(tmp_path: Path, cora: Path) -> None:
    words = ["train", str(cora), "--epochs", "60", "--no-progress"]
    job(2, *words, "--run-dir", tmp_path / "whole")
    killed = tmp_path / "killed"
    program = [*GRAPHTHETA, *words, "--run-dir", str(killed), "--checkpoint-every", "4"]
    with running(under_mpiexec(program, 2)) as process:
        wait_for(lambda: epochs_of(killed) >= 10, process)
    assert not (killed / "summary.json").exists(), "it was over before it was killed"
    shutil.copytree(killed, tmp_path / "alone")

    job(2, "train", "--run-dir", killed, "--resume")
    assert losses(killed) == losses(tmp_path / "whole")
    job(1, "train", "--run-dir", tmp_path / "alone", "--resume")
    np.testing.assert_allclose(losses(tmp_path / "alone"), losses(killed), rtol=1e-4)


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
    assert output.count(f"stopped after epoch {epochs} of 100000, with a checkpoint") == 1
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
def test_ctrl_c_is_one_line(tmp_path: Path, cora: Path) -> None:
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
    assert output.splitlines()[-1] == "error: interrupted"


# -- reports --------------------------------------------------------------------------------------


def test_info_reports_on_parts_traffic_and_degrees(command: Run, cora: Path) -> None:
    said = command("info", cora, "--report", "--width", 16, "--layers", 2)
    assert said.code == 0, said.err
    for words in ("interior", "train (split)", "owner", "2 layers of 16 float32", "128 to 255"):
        assert words in said.out, words
    described = json.loads(command("info", cora, "--json", "--report", "--dtype", "float64").out)
    found = described["report"]
    assert found["quality"] == described["quality"]
    assert sum(found["parts"]["masters"]) == 2708
    assert found["predicted_bytes"]["sync"] == sum(found["traffic"]["sync"]) * 128 * 8
    assert_one_line(command("info", cora, "--report", "--dtype", "int3"), "one of float64, float32")


def test_info_draws_a_picture(command: Run, cora: Path) -> None:
    pytest.importorskip("matplotlib")
    said = command("info", cora, "--picture", "cora.png")
    assert said.code == 0, said.err
    assert "drawn in cora.png and cora.svg" in said.out
    assert Path("cora.png").read_bytes().startswith(b"\x89PNG")
    assert Path("cora.svg").is_file()


# -- export ---------------------------------------------------------------------------------------


def test_export_writes_a_folder_and_keeps_what_is_there(command: Run, cora: Path) -> None:
    said = command("export", "dgl-chunked", cora, "out", "--name", "cora")
    assert said.code == 0, said.err
    assert "2 parts of 2,708 nodes are in out" in said.out
    assert json.loads(Path("out/metadata.json").read_text())["graph_name"] == "cora"
    assert_one_line(command("export", "pyg", cora, "out"), "expected no file and no directory")
    assert_one_line(
        command("export", "csv", cora, "other"), "unknown form 'csv'. Choose one of dgl"
    )
    assert [path.name for path in Path().iterdir() if path.name != "cache"] == ["out"]


@pytest.mark.spawn
def test_export_by_several_workers_is_written_once(tmp_path: Path, cora: Path) -> None:
    assert job(2, "export", "pyg", cora, tmp_path / "out").count("2 parts of 2,708 nodes") == 1
    assert (tmp_path / "out" / "META.json").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["out"]
