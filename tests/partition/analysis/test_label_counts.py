"""Sizes of the splits and classes of a store, over several parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from graphtheta.data.graph import Graph
from graphtheta.partition import Plan, make_store
from graphtheta.partition.analysis.label_counts import count_labels

N = 40


def test_classes_and_splits_are_counted(tmp_path: Path) -> None:
    key = np.arange(N)
    nodes = {
        "id": key,
        "label:y": pa.array(key % 3, mask=key % 5 == 0),
        "label:b": key < 10,
        "label:r": pa.array((key / 2).astype(np.float32), mask=key == 7),
        "split:split": (key % 4).astype(np.int8),
    }
    edges = {
        "src": key,
        "dst": (key + 1) % N,
        "label:sign": key % 2,
        "split:s": (key % 4).astype(np.int8),
    }
    graph = Graph(nodes, edges)
    of_nodes, of_edges = count_labels(make_store(graph, tmp_path / "s", Plan(3, "dbh")))
    rows = dict(of_nodes.rows())
    known = np.bincount(key[key % 5 > 0] % 3)
    assert rows["classes of y"] == ", ".join(map(str, known)) + "; 8 missing"
    assert rows["classes of b"] == "30, 10"
    assert rows["label r"] == "1 missing"
    assert rows["split split"] == (
        "10 train, 10 val, 10 test, 10 none; with label y: 8 train, 8 val, 8 test, 8 none; "
        "with label r: 10 train, 10 val, 9 test, 10 none"
    )
    assert of_edges.rows("edge ") == [
        ("edge classes of sign", "20, 20"),
        ("edge split s", "10 train, 10 val, 10 test, 10 none"),
    ]
    found = of_nodes.as_json()["splits"]["split"]
    assert found["train"] == 10
    assert found["labelled"]["y"]["train"] == 8
