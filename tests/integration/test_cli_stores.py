"""The command line of stores: partition, compare, report, find communities, export."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphtheta.cli import main
from graphtheta.partition import open_store
from graphtheta.partition.store.communities import list_communities
from tests.integration.cli import (  # noqa: F401
    COLUMNS,
    EDGES,
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

# -- partition and info ---------------------------------------------------------------------------


def test_tables_are_partitioned_and_described(command: Run) -> None:
    write_tables()
    tables = ["partition", "--nodes", "nodes.parquet", "--edges", "edges.parquet", "--parts", 2]
    result = command(*tables, *COLUMNS, "store", "--undirected", "--method", "node-hash")
    assert result.code == 0, result.err
    assert "wrote 4 nodes and 8 edges to store" in result.out
    info = command("info", "store", "--verify")
    for words in ("features float64[2]", "y (multiclass, 2)", "ids of type string", "verified"):
        assert words in info.out
    described = json.loads(command("info", "store", "--json", "--verify").out)
    assert described["verified"] is True
    assert (described["num_nodes"], len(described["parts"])) == (4, 2)


def test_columns_may_get_other_names_and_three_masks_make_a_split(command: Run) -> None:
    masks = {f"is_{k}": [i == k for i in range(4)] for k in range(3)}
    write_tables(masks)
    result = command(
        *"partition --nodes nodes.parquet --edges edges.parquet store --parts 1".split(),
        *"--id name --src from --dst to --features f_1 --features f_0".split(),
        *"--label fraud=y --label again=y --split three=is_0,is_1,is_2".split(),
    )
    assert result.code == 0, result.err
    store = open_store("store")
    assert set(store.manifest.labels) == {"again", "fraud"}
    part = store.part(0)
    split = dict(
        zip(
            part.masters_of()["original_id"].to_pylist(),
            part.masters_of()["split:three"].to_pylist(),
            strict=True,
        )
    )
    assert split == {"a": 1, "b": 2, "c": 3, "d": 0}


BAD_TABLES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown_id": ({}, {**EDGES, "to": ["b", "c", "d", "e"]}, "unknown 'e'"),
    "duplicate_id": ({"name": ["a", "b", "c", "a"]}, EDGES, "'a' more than once"),
    "infinite_feature": ({"f_0": [0.0, float("inf"), 2.0, 3.0]}, EDGES, "inf"),
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
    result = command(
        *"partition --nodes nodes.parquet --edges edges.parquet store --parts 1".split(), *columns
    )
    assert_one_line(result, re.escape(message))
    assert files(Path()) == before


def test_store_that_exists_is_kept(command: Run, cora: Path) -> None:
    before = files(cora)
    result = command("partition", "cora", cora, "--parts", 3)
    assert_one_line(result, "expected a new path or an empty directory")
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
    manifest.write_text(manifest.read_text().replace('"format_version": 2', '"format_version": 9'))


@pytest.mark.parametrize(
    ("damage", "words", "message"),
    [
        (truncate, "info", "in_edges.arrow: expected .* bytes, got"),
        (truncate, "train", "in_edges.arrow: expected .* bytes, got"),
        (alter, "info --verify", "masters.arrow: expected content of hash"),
        (renew, "info", "expected format version 2 or 3, got 9. Upgrade"),
        (renew, "train", "expected format version 2 or 3, got 9. Upgrade"),
    ],
)
def test_damaged_store_is_refused(
    command: Run, cora: Path, damage: Callable[[Path], None], words: str, message: str
) -> None:
    shutil.copytree(cora, "store")
    damage(Path("store"))
    name, *options = words.split()
    result = command(name, "store", *options, *(["--run-dir", "run"] if name == "train" else []))
    assert_one_line(result, message)
    assert not Path("run").exists()


# -- reports --------------------------------------------------------------------------------------


def test_info_reports_on_parts_traffic_and_degrees(command: Run, cora: Path) -> None:
    result = command("info", cora, "--report", "--width", 16, "--layers", 2)
    assert result.code == 0, result.err
    for words in ("interior", "train (split)", "owner", "2 layers of 16 float32", "128 to 255"):
        assert words in result.out, words
    described = json.loads(command("info", cora, "--json", "--report", "--dtype", "float64").out)
    found = described["report"]
    assert found["quality"] == described["quality"]
    assert sum(found["parts"]["masters"]) == 2708
    assert found["predicted_bytes"]["sync"] == sum(found["traffic"]["sync"]) * 128 * 8
    assert_one_line(command("info", cora, "--report", "--dtype", "int3"), "one of float64, float32")


def test_info_draws_a_picture(command: Run, cora: Path) -> None:
    pytest.importorskip("matplotlib")
    result = command("info", cora, "--picture", "cora.png")
    assert result.code == 0, result.err
    assert "plotted in cora.png and cora.svg" in result.out
    assert Path("cora.png").read_bytes().startswith(b"\x89PNG")
    assert Path("cora.svg").is_file()


# -- export ---------------------------------------------------------------------------------------


def test_export_writes_a_folder_and_keeps_what_is_there(command: Run, cora: Path) -> None:
    result = command("export", "dgl-chunked", cora, "out", "--name", "cora")
    assert result.code == 0, result.err
    assert "wrote 2 parts of 2,708 nodes to out" in result.out
    assert json.loads(Path("out/metadata.json").read_text())["graph_name"] == "cora"
    assert_one_line(command("export", "pyg", cora, "out"), "expected a new path or an empty")
    assert_one_line(command("export", "csv", cora, "other"), r"expected one of dgl, .*, got 'csv'")
    assert [path.name for path in Path().iterdir() if path.name != "cache"] == ["out"]


@pytest.mark.spawn
def test_export_by_several_workers_is_written_once(tmp_path: Path, cora: Path) -> None:
    assert job(2, "export", "pyg", cora, tmp_path / "out").count("2 parts of 2,708 nodes") == 1
    assert (tmp_path / "out" / "META.json").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["out"]


# -- what partition offers beside -----------------------------------------------------------------


def test_dry_run_estimates_and_does_nothing(command: Run) -> None:
    result = command("partition", "cora", "store", "--parts", 2, "--method", "hdrf", "--dry-run")
    assert result.code == 0, result.err
    for words in ("memory per rank", "disk for the store", "about", "10,556"):
        assert words in result.out
    assert files(Path()) == []


def test_compare_prints_methods_side_by_side(command: Run) -> None:
    result = command("partition", "cora", "--parts", 4, "--compare", "dbh,hdrf,kaminpar")
    assert result.code == 0, result.err
    table = result.out[result.out.index("\n  method") + 1 :]  # after how the input was read
    rows = {line.split()[0]: line.split() for line in table.splitlines()[1:]}
    assert list(rows) == ["dbh", "hdrf", "kaminpar"]
    assert float(rows["kaminpar"][1]) < float(rows["hdrf"][1]) < float(rows["dbh"][1])
    assert_one_line(
        command("partition", "cora", "--parts", 4, "--compare", "dbh,x"), r"2ps-l, .*, got 'x'"
    )
    assert files(Path()) == []


def test_assignment_only_writes_parquet(command: Run) -> None:
    result = command("partition", "cora", "out", "--parts", 3, "--assignment-only")
    assert result.code == 0, result.err
    assert files(Path("out")) == ["nodes.parquet"]
    assert set(pq.read_table("out/nodes.parquet")["part"].to_pylist()) == {0, 1, 2}


def test_edges_are_dropped_as_asked(command: Run) -> None:
    ends = {"from": ["a", "b", "a", "c", "a", "x"], "to": ["b", "a", "b", "c", "b", "a"]}
    write_tables(edges=ends)
    tables = ["partition", "--nodes", "nodes.parquet", "--edges", "edges.parquet", *COLUMNS]
    options = ["--parts", 1, "--undirected", "--drop-self-loops", "--drop-duplicates"]
    options += ["--drop-unknown"]
    result = command(*tables, "store", *options)
    assert result.code == 0, result.err
    assert "4 nodes and 2 edges" in result.out
    described = command("info", "store").out
    for name, number in (("self-loops", 1), ("duplicates", 6), ("edges of unknown ids", 1)):
        for text in (result.out, described):
            assert re.search(rf"dropped {name} +{number}\n", text)
    keys = open_store("store").part(0).in_edges["edge_key"].to_pylist()
    assert sorted(keys) == [0, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--memory-limit 8XB", r"--memory-limit: expected a size such as 8GB or 500MiB, got '8XB'"),
        ("--memory-limit 100kB", r"to fit the memory limit of 100\.00 kB, got an estimate"),
        ("--threads 0", "Invalid value for '--threads'"),
        ("--method dbh --balance-nodes 1.1", "expected a method that can balance nodes, got dbh"),
        ("--method hdrf --balance-types 1.1", "expected a method that can balance types, got hdrf"),
        ("--method ldg --balance-train 1.1 --balance-split x", "one of split, got 'x'"),
    ],
)
def test_limits_are_refused_in_one_line(command: Run, words: str, message: str) -> None:
    assert_one_line(command("partition", "cora", "store", "--parts", 2, *words.split()), message)
    assert files(Path()) == []


def test_communities_are_kept_in_the_store(command: Run, cora: Path) -> None:
    shutil.copytree(cora, "store")
    result = command("communities", "store", "--method", "multilevel", "--count", 20, "--name", "c")
    assert result.code == 0, result.err
    assert re.search(r"communities +20", result.out)
    assert list_communities("store") == ["c"]
    assert command("info", "store", "--verify").code == 0
    again = command("communities", "store", "--method", "multilevel", "--count", 20, "--name", "c")
    assert_one_line(again, "expected a new path or an empty directory")
    assert_one_line(command("communities", "store", "--method", "x"), "x")


@pytest.mark.spawn
@pytest.mark.parametrize("most", [20_000, 100_000, 1_000_000])
def test_disk_that_is_full_is_one_line_and_leaves_nothing(most: int, tmp_path: Path) -> None:
    # A limit on the size of files fails writes as a full disk does, in one phase or another.
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most})); "
        "from graphtheta.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["partition", "cora", str(tmp_path / "store"), "--parts", "2", "--method", "dbh"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    # On a busy machine a phase may take long enough to print a line before the error.
    errors = [line for line in done.stderr.splitlines() if not line.endswith("/s)")]
    result = Result((done.returncode, done.stdout, "\n".join([*errors, ""])))
    assert_one_line(result, "expected to write a store")
    assert files(tmp_path) == []


# Is interrupted when a phase is recorded. A shell's job may have been started to ignore the signal.
INTERRUPTED = """
import os, signal, sys
from graphtheta.cli import main
from graphtheta.partition.ooc.checkpointed_phases import CheckpointedPhases

signal.signal(signal.SIGINT, signal.default_int_handler)
phase = CheckpointedPhases.phase

def interrupted(self, name, run):
    result = phase(self, name, run)
    if name == "edges":
        os.kill(os.getpid(), signal.SIGINT)
    return result

CheckpointedPhases.phase = interrupted
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.spawn
def test_ctrl_c_can_be_gone_on_with(tmp_path: Path) -> None:
    words = ["partition", "cora", str(tmp_path / "store"), "--parts", "4", "--method", "lpa"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "error: interrupted"
    assert not (tmp_path / "store").exists()
    assert files(tmp_path) != []
    assert main(words) == 0
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["store"]


@pytest.mark.spawn
def test_job_of_two_partitions_as_one_does(tmp_path: Path) -> None:
    one = tmp_path / "one"
    assert main(["partition", "cora", str(one), "--parts", "4", "--method", "hdrf"]) == 0
    job(2, "partition", "cora", tmp_path / "two", "--parts", 4, "--method", "hdrf")
    assert open_store(tmp_path / "two").checksum == open_store(one).checksum
