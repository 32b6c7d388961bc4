"""What the command line prints about a graph, and the lines that help with an input."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphtheta.partition import open_store
from tests.integration.cli import (  # noqa: F401
    NODES,
    Run,
    assert_one_line,
    command,
    elsewhere,
)

TABLES = "partition --nodes nodes.parquet --edges edges.parquet store --method node-hash".split()
TRAIN = "train store --hidden 4 --epochs 1 --no-progress --run-dir run".split()
SIGNS = {
    "src": ["a", "b", "c", "d", "a", "b"],
    "dst": ["b", "c", "d", "a", "c", "d"],
    "kind": ["likes", "knows", "likes", "knows", "likes", "knows"],
    "sign": [0, 1, 1, 0, 1, 0],
    "part": ["train", "train", "val", "val", "test", "test"],
}
OF_EDGES = "--edge-type kind --edge-label sign --edge-split split=part".split()


def write(nodes: dict[str, Any], edges: dict[str, Any] | None = None) -> None:
    pq.write_table(pa.table(nodes), "nodes.parquet")
    pq.write_table(pa.table(edges or SIGNS), "edges.parquet")


def partition(command: Run, *words: object) -> str:
    result = command(*TABLES, "--parts", 1, "--id", "name", *words)
    assert result.code == 0, result.err
    return str(result.out)


def test_info_shows_columns_of_edges_and_names(command: Run) -> None:
    write({**NODES, "y": ["x", "z", None, "x"]})
    partition(command, *OF_EDGES, "--label", "y")
    out = command("info", "store").out
    for pattern in (
        r"edge types +2: 'knows', 'likes'\n",
        r"  labels +y \(multiclass, 2: 'x', 'z'\)\n",
        r"  splits +none\n",
        r"edge labels +sign \(multiclass, 2\)\n",
        r"edge splits +split\n",
        r"  classes of y +2 x, 1 z; 1 missing\n",
        r"  edge classes of sign +3, 3\n",
        r"  edge split split +2 train, 2 val, 2 test, 0 none\n",
        r"  size +\d+\.\d\d kB\n",
    ):
        assert re.search(pattern, out), out


def test_two_classes_of_edges_have_binary_metrics(command: Run) -> None:
    write(NODES)
    partition(command, *OF_EDGES, "--features", "f_*")
    result = command(*TRAIN, "--task", "edge")
    assert result.code == 0, result.err
    for name in ("auroc", "average_precision", "f1", "precision", "recall"):
        assert f'"test_{name}"' in Path("run/metrics.jsonl").read_text()


def test_a_metric_that_is_missing_has_a_reason(command: Run) -> None:
    parts = ["train", "train", "test", "none", "none", "test"]
    write(NODES, {**SIGNS, "sign": [0, 1, 1, 0, 1, 1], "part": parts})
    partition(command, *OF_EDGES, "--features", "f_*")
    result = command(*TRAIN, "--task", "edge")
    assert re.search(r"test loss [\d.]+ \(no auroc: all targets have one class\)", result.out)
    result = command(*TRAIN[:-1], "again", "--task", "edge", "--evaluate-every", 2)
    assert re.search(r"loss [\d.]+ \(not evaluated in these epochs\)", result.out)


def test_labels_of_edges_are_not_those_of_nodes(command: Run) -> None:
    write(NODES)
    partition(command, *OF_EDGES, "--features", "f_*")
    assert_one_line(
        command(*TRAIN),
        r"expected a label of nodes, got only labels of edges \('sign'\)\. Use --task",
    )
    write(NODES, {name: SIGNS[name] for name in ("src", "dst")})
    words = "--features f_* --label y --split split=part".split()
    assert command(*TABLES[:-3], "plain", "--parts", 1, "--id", "name", *words).code == 0
    assert_one_line(
        command("train", "plain", *TRAIN[2:], "--task", "edge"),
        r"expected a label of edges, got none\. Name a column .* --edge-label COLUMN",
    )


def test_a_graph_without_features_needs_an_embedding(command: Run) -> None:
    write({name: NODES[name] for name in ("name", "y", "part")})
    partition(command, "--label", "y", "--split", "split=part")
    assert_one_line(command(*TRAIN), "expected node features, got none.* --embedding 64")
    assert command(*TRAIN, "--embedding", 4).code == 0


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ("name,x\n1,2\n2,3\n", "src,dst\n1,2\n", r"a column 'id', got columns name, x\..*--id"),
        ("id\n1\n2\n", "weight,user,item\n0.5,1,2\n", r"columns src and dst.*--src and --dst"),
        ("id\n1\n2\n", "a|b\n1|2\n", r"columns src and dst, got columns src\. .*--src and --dst"),
        ("id\n1\n2\n", "0.5,1,2\n0.7,2,1\n", r"ids of the node table.*'0\.5'.*--src, --dst"),
    ],
    ids=["no_id", "other_names", "other_delimiter", "weights_first"],
)
def test_a_wrong_column_names_the_option(
    nodes: str,
    edges: str,
    message: str,
    command: Run,
    tmp_path: Any,
) -> None:
    (tmp_path / "nodes.csv").write_text(nodes)
    (tmp_path / "edges.csv").write_text(edges)
    words = "partition --nodes nodes.csv --edges edges.csv store --parts 1".split()
    assert_one_line(command(*words), message)


def test_a_part_with_most_edges_gets_a_hint(command: Run) -> None:
    hub = np.zeros(900, np.int64)
    rest = np.arange(900) % 300
    edges = {"src": np.concatenate([rest, rest[:20]]), "dst": np.concatenate([hub, rest[1:21]])}
    write({"name": np.arange(300)}, edges)
    out = partition(command, "--parts", 2)
    assert re.search(
        r"hint: one part has \d\.\d times the mean of edges.*choose another method", out
    )
    assert "--balance-edges" not in out
    words = [*TABLES[:5], "range", "--method", "range", "--parts", 2, "--id", "name"]
    assert "limit it with --balance-edges 1.1, or choose" in command(*words).out
    words = [*TABLES[:5], "even", "--method", "edge-hash", "--parts", 2, "--id", "name"]
    assert "hint" not in command(*words).out


def test_split_seed_chooses_the_split(command: Run) -> None:
    size = 200
    masks = {f"{name}_masks": np.zeros((3, size), np.bool_) for name in ("train", "val", "test")}
    for number in range(3):
        masks["train_masks"][number, : 10 + number] = True
        masks["val_masks"][number, 20:30] = True
        masks["test_masks"][number, 30:] = True
    fields = {"node_features": np.eye(size, 2), "node_labels": np.arange(size) % 3}
    np.savez("g.npz", **fields, edges=np.array([[0, 1], [1, 2]]), **masks)
    assert command("partition", "g.npz", "store", "--parts", 1, "--split-seed", 2).code == 0
    split = open_store("store").part(0).masters_of()["split:split"].to_numpy()
    assert np.bincount(split).tolist() == [8, 12, 10, 170]
    assert_one_line(
        command("partition", "g.npz", "other", "--parts", 1, "--split-seed", 3),
        "the number of one of its 3 splits, from 0, got 3",
    )
    write(NODES)
    assert_one_line(
        command(*TABLES[:5], "third", "--parts", 1, "--split-seed", 1),
        "--split-seed: expected INPUT",
    )
