"""GraphStorm's construction files (gconstruct JSON)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from graphtheta import datasets
from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError, GraphThetaError

NODES = 40
CONFIG: dict[str, Any] = {
    "version": "gconstruct-v0.1",
    "nodes": [
        {
            "node_type": "paper",
            "node_id_col": "node_id",
            "format": {"name": "parquet"},
            "files": "papers_*.parquet",
            "features": [
                {"feature_col": ["x", "z"], "feature_name": "feat", "out_dtype": "float32"},
                {"feature_col": "x", "transform": {"name": "no-op"}},
            ],
            "labels": [
                {"label_col": "venue", "task_type": "classification", "split_pct": [0.5, 0.25, 0.1]}
            ],
        },
        {
            "node_type": "author",
            "node_id_col": "name",
            "format": {"name": "csv", "separator": ","},
            "files": ["authors.csv"],
            "labels": [
                {
                    "label_col": "born",
                    "task_type": "regression",
                    "custom_split_filenames": {
                        "train": "t.parquet",
                        "test": "e.parquet",
                        "column": "n",
                    },
                }
            ],
        },
    ],
    "edges": [
        {
            "relation": ["author", "write", "paper"],
            "source_id_col": "a",
            "dest_id_col": "p",
            "format": {"name": "parquet"},
            "files": "writes.parquet",
            "features": [{"feature_col": "share"}],
            "labels": [{"label_col": "first", "task_type": "classification"}],
        }
    ],
}


def write(folder: Path, change: Callable[[Any], object] = lambda config: None) -> str:
    for part in (0, 1):
        rows = np.arange(part * NODES // 2, (part + 1) * NODES // 2)
        columns = {"node_id": rows + 100, "x": rows / 2, "z": rows * 1.0, "venue": rows % 3}
        pq.write_table(pa.table(columns), folder / f"papers_{part}.parquet")
    authors = pa.table({"name": ["007", "7", "b"], "born": [1970.5, 1980.5, 1990.5]})
    pyarrow.csv.write_csv(authors, folder / "authors.csv")
    pq.write_table(pa.table({"n": ["b", "007"]}), folder / "t.parquet")
    pq.write_table(pa.table({"n": ["7"]}), folder / "e.parquet")
    (folder / "l.json").write_text('"b"\n"007"\n')
    (folder / "real.json").write_text("1.5\n")
    (folder / "list.json").write_text('["7"]')
    (folder / "pairs.json").write_text("[1, 2]\n[1, 3]\n")
    writes = {"a": ["b"] * 10, "p": np.arange(100, 110), "share": np.ones(10), "first": [0, 1] * 5}
    pq.write_table(pa.table(writes), folder / "writes.parquet")
    config = copy.deepcopy(CONFIG)
    change(config)
    (folder / "graph.json").write_text(json.dumps(config))
    return str(folder / "graph.json")


def read(path: str, **options: Any) -> Graph:
    return Graph.from_source(datasets.read(path, **options))


def test_tables_features_and_labels(tmp_path: Path) -> None:
    graph = read(write(tmp_path))
    assert graph.node_types == ("paper", "author")
    assert graph.labels == ("paper.venue", "author.born")
    paper, author = (graph.node_table(name) for name in graph.node_types)
    assert paper["id"].to_pylist() == list(range(100, 100 + NODES))
    assert paper["features"][3].as_py() == [1.5, 3, 1.5]
    assert author["id"].to_pylist() == ["007", "7", "b"]
    assert author["label:born"].to_pylist() == [1970.5, 1980.5, 1990.5]
    assert author["split:born"].to_pylist() == [1, 3, 1]
    writes = graph.edge_table("author-write-paper")
    assert writes["src"].to_pylist() == [NODES + 2] * 10
    assert writes["attr"][0].as_py() == [1.0]
    assert np.bincount(writes["split:first"]).tolist() == [0, 8, 1, 1]  # the default fractions


@pytest.mark.parametrize(
    "split",
    [
        {"train": "t.parquet", "test": "e.parquet", "column": ["n"]},
        {"train": "l.json", "valid": "", "test": "list.json"},
        {"train": ["l.json"], "test": "e.parquet", "column": "n"},
    ],
    ids=str,
)
def test_splits_are_read_from_tables_and_json(tmp_path: Path, split: dict[str, Any]) -> None:
    graph = read(write(tmp_path, setter(*SPLIT, split)))
    assert graph.node_table("author")["split:born"].to_pylist() == [1, 3, 1]


def test_split_pct_draws_by_seed(tmp_path: Path) -> None:
    path = write(tmp_path)
    split = read(path).node_table("paper")["split:venue"].to_numpy()
    assert np.bincount(split).tolist() == [6, 20, 10, 4]
    assert np.array_equal(read(path).node_table("paper")["split:venue"], split)
    other = read(path, seed=1).node_table("paper")["split:venue"].to_numpy()
    assert not np.array_equal(other, split)


def test_missing_numbers_get_the_mean_of_training_rows(tmp_path: Path) -> None:
    path = write(tmp_path)
    split = read(path).node_table("paper")["split:venue"].to_numpy()
    x = np.arange(NODES) / 2
    a_training_row = np.arange(NODES) == np.argmax(split == 1)
    for lost, width in (((split == 3) | a_training_row, 5), (split == 3, 3)):  # x occurs twice
        rows = {"node_id": np.arange(NODES) + 100, "x": pa.array(x, mask=lost), "z": x}
        tables = pa.table({**rows, "venue": np.arange(NODES) % 3})
        pq.write_table(tables.slice(0, 25), tmp_path / "papers_0.parquet")
        pq.write_table(tables.slice(25), tmp_path / "papers_1.parquet")
        found = np.stack(read(path).node_table("paper")["features"].to_pylist())
        assert found.shape == (NODES, width)
        mean = x[(split == 1) & ~lost].mean()
        np.testing.assert_allclose(found[lost, 0], mean, rtol=1e-6)


def test_splits_are_part_of_the_graph(tmp_path: Path) -> None:
    path = write(tmp_path)
    first, again, other = (datasets.read(path, seed=seed) for seed in (0, 0, 1))
    assert first.digest() == again.digest() != other.digest()
    assert first.stamp() == again.stamp() != other.stamp()
    assert first.memory_bytes == NODES + 3 + 10
    table = first.node_tables[0].table
    whole = pa.concat_tables(table.chunks(0, NODES))
    for names in (["split:venue"], ["features", "split:venue", "id"]):
        (part,) = table.chunks(NODES // 2 - 3, NODES // 2 + 3, names)
        assert part.equals(whole.select(names).slice(NODES // 2 - 3, 6).combine_chunks())


def setter(*keys: Any) -> Callable[[Any], None]:
    *path, last, value = keys

    def change(config: Any) -> None:
        for key in path:
            config = config[key]
        config[last] = value

    return change


LABEL = ("nodes", 0, "labels", 0)
SPLIT = ("nodes", 1, "labels", 0, "custom_split_filenames")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setter("is_homogeneous", True), "expected keys among version, .* got 'is_homogeneous'"),
        (setter("version", "gsprocessing-v1.0"), "expected version gconstruct.*got 'gsprocessing"),
        (setter("nodes", 0, "format", {"name": "hdf5"}), r"nodes\[0\] format: .* got 'hdf5'"),
        (setter("nodes", 0, "files", "x*.parquet"), "expected a path of files, got 'x.*.parquet'"),
        (setter("nodes", 0, "node_type", "author"), "one table for each type, got a second one"),
        (
            setter(
                "nodes",
                0,
                "features",
                0,
                "transform",
                {"name": "bucket_numerical", "bucket_cnt": 3},
            ),
            "expected one of 'no-op', got 'bucket_numerical', which is not supported",
        ),
        (
            setter("nodes", 0, "features", 1, "transform", "truncate_dim", 3),
            "expected keys among name, got 'truncate_dim'",
        ),
        (setter(*LABEL, "task_type", "link_prediction"), "got 'link_prediction', which is not"),
        (setter(*LABEL, "split_pct", [0.9, 0.2, 0]), "three fractions that sum to at most 1"),
        (setter(*LABEL, "split_pct", [0.9, "x", 0]), "three fractions that sum to at most 1"),
        (
            lambda config: config["nodes"][0]["labels"].append(config["nodes"][0]["labels"][0]),
            r"nodes\[0\]: expected each label once, got 'venue' twice",
        ),
        (setter(*LABEL, "label_col", "topic"), "papers_0.parquet: expected a column 'topic'"),
        (setter(*SPLIT, "column", "m"), "t.parquet: expected a column 'm', got columns n"),
        (setter(*SPLIT, "train", "papers_0.parquet"), "expected a column 'n'"),
        (setter(*SPLIT, "test", "t.parquet"), "at most one of train, validation, test"),
        (
            lambda config: config["edges"][0]["labels"][0].update(custom_split_filenames={}),
            "expected custom_split_filenames of nodes, got edges",
        ),
        (setter(*SPLIT, "column", ["n", "m"]), r"train: .* name of one column, got \['n', 'm'\]"),
        (setter(*SPLIT, {"train": "t.parquet"}), r"the name of one column, got \[\]"),
        (setter(*SPLIT, "train", ["t.parquet", "l.json"]), "got .*l.json and others"),
        (setter(*SPLIT, "train", "graph.json"), "graph.json: expected an id on each line as JSON"),
        (setter(*SPLIT, "train", "pairs.json"), "or a list of ids, got other values"),
        (setter(*SPLIT, "train", "real.json"), "or a list of ids, got double"),
        (lambda config: config["edges"][0].pop("files"), "expected the key 'files', got none"),
        (setter("edges", 0, "relation", ["author", "paper"]), "relation: expected"),
        (setter("edges", 0, "features", [{"feature_col": "p"}]), "got 'p', the column of ids"),
        (setter("nodes", 0, "features", 3), r"nodes\[0\] features: expected a list, got 3"),
        (setter("nodes", 0, "files", [3]), "files: expected a text, got 3"),
        (setter("nodes", 0, 3), r"nodes\[0\]: expected a JSON object, got 3"),
        (setter("nodes", 1, "format", "separator", "|"), r"separator: expected one of .* got '\|'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(GraphThetaError, match=message):
        read(write(tmp_path, change))


def test_other_json_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ConfigError, match="a file of another kind"):
        datasets.read(str(tmp_path / "a.json"))
