"""Graphs of several node types from the command line: predict, info."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import graphtheta as gt
from graphtheta.cli import main
from graphtheta.data.graph import Graph
from graphtheta.inference.whole import infer
from graphtheta.partition import Plan, make_store
from tests.integration.cli import (  # noqa: F401
    Run,
    assert_one_line,
    command,
    elsewhere,
)
from tests.typed_graphs import typed_graph, typed_tables

GRAPH = typed_graph()
PAPERS = GRAPH.node_table("paper")["id"].to_pylist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and a run on it that predicts `paper.y`."""
    path = tmp_path_factory.mktemp("typed")
    make_store(GRAPH, path / "store", Plan(2, "node-hash"))
    train = ["train", str(path / "store"), "--model", "rgcn", "--epochs", "2", "--hidden", "4"]
    assert main([*train, "--run-dir", str(path / "run")]) == 0
    return path


def test_predict_writes_a_folder_of_the_type(folder: Path, tmp_path: Path, command: Run) -> None:
    run, store = folder / "run", folder / "store"
    result = command("predict", run, store, "--out", tmp_path / "out", "--embeddings")
    assert result.code == 0, result
    assert f"wrote predictions of {len(PAPERS)} nodes" in result.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["paper"]
    table = pq.read_table(tmp_path / "out" / "paper")
    assert sorted(table["id"].to_pylist()) == sorted(PAPERS)
    pq.write_table(pa.table({"id": PAPERS[3:7]}), tmp_path / "ids.parquet")
    options = ("--nodes", tmp_path / "ids.parquet", "--out", tmp_path / "some")
    assert command("predict", run, store, *options).code == 0
    some = pq.read_table(tmp_path / "some" / "paper")
    assert sorted(some["id"].to_pylist()) == sorted(PAPERS[3:7])
    rows = [table["id"].to_pylist().index(key) for key in some["id"].to_pylist()]
    np.testing.assert_allclose(
        np.stack(table["probability"].take(rows).to_numpy()),
        np.stack(some["probability"].to_numpy()),
        rtol=1e-5,
    )
    pq.write_table(pa.table({"id": ["a3"]}), tmp_path / "ids.parquet")
    options = ("--nodes", tmp_path / "ids.parquet", "--out", tmp_path / "none")
    assert_one_line(command("predict", run, store, *options), "expected ids of the graph's nodes")
    nodes, edges = typed_tables()
    swapped = Graph.from_arrow(nodes, dict(reversed(edges.items())))
    make_store(swapped, tmp_path / "swapped", Plan(1, "node-hash"))
    result = command("predict", run, tmp_path / "swapped", "--out", tmp_path / "none")
    assert_one_line(result, "author-writes-paper, paper-cites-paper")
    assert_one_line(command("predict", run, "cora", "--out", tmp_path / "none"), "run: expected")


def test_pairs_of_a_relation_are_predicted(folder: Path, tmp_path: Path, command: Run) -> None:
    run, relation = tmp_path / "links", "author-writes-paper"
    train = ["train", folder / "store", "--epochs", "1", "--hidden", "4", "--run-dir"]
    words = "--model rgcn --task link --relation author-writes-paper --split split".split()
    result = command(*train, run, *words)
    assert f"relation {relation}, split {relation}.split: binary" in result.out, result
    pq.write_table(pa.table({"src": [3, 4], "dst": PAPERS[:2]}), tmp_path / "pairs.parquet")
    predict = ["predict", run, folder / "store", "--edges", tmp_path / "pairs.parquet", "--out"]
    assert command(*predict, tmp_path / "out").code == 0
    assert pq.read_table(tmp_path / "out")["dst"].to_pylist() == PAPERS[:2]
    pq.write_table(pa.table({"src": [3], "dst": ["3"]}), tmp_path / "pairs.parquet")
    assert_one_line(command(*predict, tmp_path / "none"), "dst: expected ids of nodes .*'3'")


def test_a_target_type_makes_the_name_of_its_label_plain(
    folder: Path, tmp_path: Path, command: Run
) -> None:
    train = ["train", folder / "store", "--model", "rgcn", "--hidden", "4", "--run-dir"]
    words = ["--label", "y", "--target-type"]
    run = tmp_path / "run"
    for epochs in (1, 2):
        result = command(*train, run, *words, "paper", "--epochs", epochs, "--resume")
        assert "label paper.y, split paper.split" in result.out, result
    assert command("predict", run, folder / "store", "--out", tmp_path / "out").code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["paper"]
    message = r"node type \(--target-type\): expected one of author, empty, paper, venue, got 'x'"
    assert_one_line(command(*train, tmp_path / "none", *words, "x"), message)


def test_fanouts_by_relation(folder: Path, tmp_path: Path, command: Run) -> None:
    train = ["train", folder / "store", "--model", "rgcn", "--hidden", "4", "--strategy", "mini"]
    words = [*train, "--label", "paper.y", "--split", "paper.split", "--run-dir"]
    first, second, *others = (relation.text for relation in GRAPH.relations)
    rest = [word for text in others for word in ("--fanouts", f"{text}=all")]
    both = ["--fanouts", f"{first}=3,2", "--fanouts", f"{second}=0"]
    run = tmp_path / "run"
    assert command(*words, run, "--epochs", "1", *both, *rest).code == 0
    kept = tomllib.loads((run / "config.toml").read_text())["fanouts"]
    assert kept == {first: "3,2", second: "0", **dict.fromkeys(others, "all")}
    again = command(*words, run, "--epochs", "2", "--resume")
    assert again.code == 0, again
    assert "continues from" in again.out
    for wrong, message in {
        (
            f"{first}=3",
            *rest[1::2],
        ): f"--fanouts: {first}: expected all or 0, or .* 2 layers.*, got '3'",
        (f"{first}=3,2", f"{first}=4,4"): f"--fanouts: {first}: expected it once, got 3,2 and 4,4",
        (f"{first}=3,2", "5,5"): "expected one list of numbers, or .*, got '5,5' and others",
        (f"{first}=3,2", *rest[1::2]): f"got a difference: {second}",
        ("a-b-c=1,1", f"{first}=3,2", f"{second}=1,1", *rest[1::2]): "got a difference: a-b-c",
        ("paper=1,1",): "--fanouts: relation: expected .*, got 'paper'",
    }.items():
        given = [word for text in wrong for word in ("--fanouts", text)]
        assert_one_line(command(*words, tmp_path / "none", *given), message)


def test_learned_vectors_of_types(folder: Path, tmp_path: Path, command: Run) -> None:
    train = ["train", folder / "store", "--model", "rgcn", "--hidden", "4", "--embedding", "3"]
    words = [*train, "--label", "paper.y", "--split", "paper.split", "--epochs"]
    run, disk = ["--run-dir", tmp_path / "run"], ["--embedding-storage", tmp_path / "disk"]
    some = command(*words, "1", *run, "--embedding-types", "paper", *disk)
    assert "learned vectors of paper: 21 x 3, 252 bytes, mapped from" in some.out, some
    assert "of venue: 4 x 3" in some.out
    assert "of author" not in some.out
    again = command(*words, "2", *run, "--resume", disk[0], tmp_path / "other")
    assert again.code == 0, again
    assert f"252 bytes, mapped from {tmp_path / 'other'}" in again.out
    out = tmp_path / "out"
    assert command("predict", tmp_path / "run", folder / "store", "--out", out).code == 0
    none = ["--run-dir", tmp_path / "none"]
    message = r"node type \(--embedding-types\): expected one of .*, got 'x'"
    assert_one_line(command(*words, "1", *none, "--embedding-types", "x"), message)
    plain = ["train", "cora", "--epochs", "1", *none]
    assert_one_line(command(*plain, "--embedding-types", "all"), "expected a graph of several node")
    assert_one_line(command(*plain, *disk), "expected a model with learned vectors, got one with")


def test_info_shows_types_and_relations(folder: Path, command: Run) -> None:
    result = command("info", folder / "store")
    assert result.code == 0, result
    lines = [line.split() for line in result.out.splitlines()]
    cells = {line[0]: [*line[1:2], *line[4:]] for line in lines if len(line) > 4}
    assert cells["paper"] == "21 features float32[2], title string y (multiclass, 3) split".split()
    assert cells["author-likes-paper"] == ["0", "1.000", "none", "none", "none"]
    found = json.loads(command("info", folder / "store", "--json").out)
    assert [t["name"] for t in found["node_types"]] == list(GRAPH.node_types)
    assert [(r["source"], r["name"], r["destination"]) for r in found["relations"]] == [
        tuple(relation) for relation in GRAPH.relations
    ]
    assert command("info", folder / "store", "--report").code == 0


def test_trainer_predicts_in_the_order_of_the_types_table() -> None:
    shard = gt.open_shard(GRAPH)
    torch.manual_seed(0)
    model = gt.nn.TypedInput(shard, 4, gt.nn.RGCN(4, 8, 3, num_relations=5))
    trainer = gt.Trainer(model, shard, task=gt.NodePrediction("paper.y", "paper.split"))
    found = trainer.predict()
    assert found is not None
    first = next(table.first_key for table in GRAPH.node_tables if table.name == "paper")
    rows = np.argsort(shard.node_key_L[: shard.num_masters])[first : first + len(PAPERS)]
    torch.testing.assert_close(found, infer(model, shard)[torch.from_numpy(rows)])
