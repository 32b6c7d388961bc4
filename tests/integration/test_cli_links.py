"""Links and labels of edges from the command line: partition, train, resume, predict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.cli import (  # noqa: F401
    Run,
    assert_one_line,
    command,
    elsewhere,
    job,
)


def write_graph(**missing: None) -> None:
    """Write ratings by name, with splits in words, signs and kinds."""
    rng = np.random.default_rng(0)
    names = np.array([f"user-{k}" for k in range(50)])
    skill = rng.standard_normal(50)
    src, dst = rng.integers(0, 50, (2, 400))
    edges = {
        "src": names[src],
        "dst": names[dst],
        "split:split": rng.choice(["train", "train", "train", "val", "test"], 400),
        "label:sign": skill[src] < skill[dst],
        "type": rng.integers(0, 3, 400),
    }
    nodes = {"id": names, "features": pa.FixedSizeListArray.from_arrays(skill, 1)}
    pq.write_table(pa.table(nodes), "nodes.parquet")
    pq.write_table(pa.table({k: v for k, v in edges.items() if k not in missing}), "edges.parquet")
    pairs = {"src": names[:7], "dst": names[3:10], "type": rng.integers(0, 3, 7)}
    pq.write_table(pa.table(pairs), "pairs.parquet")


PARTITION = "partition --nodes nodes.parquet --edges edges.parquet store --parts 2".split()
TRAIN = "train store --hidden 8 --dropout 0.1 --no-progress --epochs".split()


@pytest.mark.spawn
def test_links_of_a_knowledge_graph_on_two_workers(command: Run, tmp_path: Path) -> None:
    write_graph()
    assert command(*PARTITION, "--method", "dbh").code == 0
    options = "--task link --relation-column type --negatives 3 --strategy mini --embedding 4"
    store, run_dir = tmp_path / "store", tmp_path / "runs/a"
    words = [*options.split(), "--batch-size", "64", "--evaluate-every", "2", "--run-dir", run_dir]
    result = job(2, "train", store, *TRAIN[2:], "2", *words)
    assert "test mrr" in result
    assert "validation mrr" in result
    again = command("train", store, *TRAIN[2:], "4", *words, "--resume")
    assert again.code == 0, again
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["epochs"] == 4
    assert {"test_auc", "test_hits@10", "val_mrr"} <= summary.keys()
    config = (run_dir / "config.toml").read_text()
    assert 'split = "split"' in config
    assert 'relation_column = "type"' in config
    pairs, out = tmp_path / "pairs.parquet", tmp_path / "out"
    result = command("predict", run_dir, store, "--edges", pairs, "--out", out)
    assert f"wrote predictions of 7 edges to {out}" in result.out
    found = pq.read_table("out")
    for name in ("src", "dst", "type"):
        assert found[name].to_pylist() == pq.read_table(pairs)[name].to_pylist()
    assert all(0 < p < 1 for p in found["probability"].to_pylist())


def test_signs_of_edges_are_learned_and_predicted(command: Run) -> None:
    write_graph()
    assert command(*PARTITION).code == 0
    words = "--task edge --model sage --lr 0.05 --weight-decay 0 --run-dir runs/b".split()
    result = command(*TRAIN, "60", *words)
    assert result.code == 0, result
    assert "test auroc 0.9" in result.out or "test auroc 1.0" in result.out, result.out
    result = command("predict", "runs/b", "store", "--edges", "pairs.parquet", "--out", "out")
    assert result.code == 0, result
    found = pq.read_table("out")
    nodes = pq.read_table("nodes.parquet").to_pydict()
    skill = dict(zip(nodes["id"], nodes["features"], strict=True))
    wanted = [
        skill[a][0] < skill[b][0]
        for a, b in zip(found["src"].to_pylist(), found["dst"].to_pylist(), strict=True)
    ]
    assert np.mean(np.array(found["prediction"].to_pylist()) == wanted) > 0.7
    assert_one_line(
        command("predict", "runs/b", "store", "--out", "elsewhere"),
        "for a run of --task edge, which predicts pairs of nodes. Give a table",
    )
    pq.write_table(pa.table({"src": ["nobody"], "dst": ["user-1"]}), "odd.parquet")
    assert_one_line(
        command("predict", "runs/b", "store", "--edges", "odd.parquet", "--out", "elsewhere"),
        "1 unknown: 'nobody'",
    )


@pytest.mark.parametrize(
    ("words", "result"),
    [
        ("--task edges", r"task \(--task\): expected one of edge, link, node, got 'edges'"),
        ("--task link --decoder x", r"decoder \(--decoder\): expected one of bilinear, dist"),
        (
            "--decoder dot",
            "--decoder: expected --task edge or --task link with this option",
        ),
        ("--task link --label sign", "--label: expected none with --task link, got 'sign'"),
        ("--task link --decoder distmult", "expected edges with a relation, got none"),
        ("--task link --relation-column x", "edge column of relations .* got 'x'"),
        ("--task link --relation-column label:sign", "expected integers from 0 in the relation"),
        ("--task link --split x", r"split of edges \(--split\): expected one of split, got 'x'"),
        ("--task edge --label x", r"label of edges \(--label\): expected one of sign, got 'x'"),
        ("--task link --corrupt tail", "--corrupt: expected 'both', 'dst' or 'src', got 'tail'"),
        ("--task link --candidates x", "node column of candidates .*: expected one of .*, got 'x'"),
        ("--task edge --split-pairs", "--split-pairs: expected --task link with this option"),
        ("--task link --negatives 0", "--negatives: expected greater than or equal to 1, got '?0"),
    ],
)
def test_mistakes_get_one_line(words: str, result: str, command: Run) -> None:
    write_graph()
    assert command(*PARTITION).code == 0
    assert_one_line(command(*TRAIN, "1", "--run-dir", "runs/c", *words.split()), result)
    assert not Path("runs/c").exists()


def test_twins_are_counted_or_split(command: Run, caplog: pytest.LogCaptureFixture) -> None:
    write_graph()
    assert command(*PARTITION).code == 0
    words = [*TRAIN, "1", "--task", "link", "--no-ranking", "--run-dir"]
    result = command(*words, "runs/e")
    assert result.code == 0, result
    assert "validation and test edges" in caplog.text
    assert "--split-pairs" in caplog.text
    caplog.clear()
    result = command(*words, "runs/f", "--split-pairs", "--candidates", "all")
    assert result.code == 0, result
    assert "validation and test edges" not in caplog.text
    assert "split_pairs = true" in Path("runs/f/config.toml").read_text()


def test_edges_without_split_or_label_get_one_line(command: Run) -> None:
    write_graph(**{"split:split": None, "label:sign": None})
    assert command(*PARTITION).code == 0
    for task, kind in (("link", "split"), ("edge", "label")):
        result = command(*TRAIN, "1", "--run-dir", "runs/d", "--task", task)
        assert_one_line(result, f"expected a {kind} of edges, got none. Name a column")
