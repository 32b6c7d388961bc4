"""OGB's raw folders of heterogeneous graphs, in ogbn-mag's layout."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from graphtheta import datasets
from graphtheta.data.graph import Graph

WRITES, CITES = "author___writes___paper", "paper___cites___paper"
FILES = {
    "raw/num-node-dict": "paper,author\n4,3\n",
    "raw/triplet-type-list": "paper,cites,paper\nauthor,writes,paper\n",
    "raw/nodetype-has-label": "paper,author\nTrue,False\n",
    "raw/node-label/paper/node-label": "0\n2\nnan\n1\n",
    "raw/node-feat/paper/node-feat": "1,0.5\n2,1.5\n3,2.5\n4,3.5\n",
    "raw/node-feat/paper/node_year": "2015\n2016\n2017\n2018\n",
    f"raw/relations/{WRITES}/edge": "0,3\n2,1\n",
    f"raw/relations/{WRITES}/num-edge-list": "2\n",
    f"raw/relations/{WRITES}/edge-feat": "0.25\n0.75\n",
    f"raw/relations/{WRITES}/edge_reltype": "1\n1\n",
    f"raw/relations/{CITES}/edge": "1,0\n3,0\n3,2\n",
    f"raw/relations/{CITES}/num-edge-list": "3\n",
    "split/time/nodetype-has-split": "paper,author\nTrue,False\n",
    "split/time/paper/train": "0\n1\n",
    "split/time/paper/valid": "2\n",
    "split/time/paper/test": "3\n",
}


def write(folder: Path, changed: dict[str, str | None]) -> str:
    for name, text in {**FILES, **changed}.items():
        if text is not None:
            file = folder / f"{name}.csv.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(gzip.compress(text.encode()))
    return str(folder)


def read(folder: Path, changed: dict[str, str | None] | None = None, **options: Any) -> Graph:
    graph = datasets.read(write(folder, changed or {}), **options)
    assert isinstance(graph, Graph)
    return graph


def test_types_and_relations_are_sorted_by_name(tmp_path: Path) -> None:
    graph = read(tmp_path)
    assert graph.node_types == ("author", "paper")
    writes, cites = graph.relations
    assert (writes.text, cites.text) == ("author-writes-paper", "paper-cites-paper")
    assert graph.node_table("author").to_pydict() == {"id": [0, 1, 2]}  # only a number of nodes
    paper = graph.node_table("paper").to_pydict()
    assert paper["features"] == [[1, 0.5], [2, 1.5], [3, 2.5], [4, 3.5]]
    assert paper["label:y"] == [0, 2, None, 1]
    assert paper["split:split"] == [1, 1, 2, 3]
    assert paper["node_year"] == [2015, 2016, 2017, 2018]
    assert graph.edge_table(cites).to_pydict() == {"src": [4, 6, 6], "dst": [3, 3, 5]}


def test_features_of_the_only_graph_are_not_empty(tmp_path: Path) -> None:
    writes = read(tmp_path).edge_table("author-writes-paper").to_pydict()
    assert writes["attr"] == [[0.25], [0.75]]  # OGB's own reader returns none
    assert writes["edge_reltype"] == [1, 1]
    assert (writes["src"], writes["dst"]) == ([0, 2], [6, 4])


def test_several_splits_have_the_names_of_their_folders(tmp_path: Path) -> None:
    other = {name.replace("time", "random"): FILES[name] for name in FILES if "split/time" in name}
    assert read(tmp_path, dict(other)).splits == ("paper.random", "paper.time")


def test_a_relation_may_have_no_edges(tmp_path: Path) -> None:
    files = f"raw/relations/{CITES}"
    graph = read(tmp_path, {f"{files}/edge": "", f"{files}/num-edge-list": "0\n"})
    assert graph.edge_table("paper-cites-paper").num_rows == 0


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "raw/num-node-dict",
            "paper,author\n4,3\n5,5\n",
            "one line of values, .* got 2",
        ),
        ("raw/num-node-dict", "paper,author\n4,x\n", "expected a number of rows, got 'x'"),
        ("raw/num-node-dict", "paper\n4\n", "node types among paper, got 'author'"),
        ("raw/triplet-type-list", "author,paper\n", "expected 3 names in a line, got 2"),
        ("raw/node-label/paper/node-label", "0\n", "expected 4 lines, got 1"),
        ("raw/node-label/paper/node-label", None, "node-label.csv.gz: expected a CSV file, got"),
        ("raw/node-feat/paper/node-feat", "1\nx\n3\n4\n", "node-feat.csv.gz: expected a CSV file"),
        ("raw/node-feat/paper/node-feat", "1\nnan\n3\n4\n", "features: .* NaN or inf in row 1"),
        (f"raw/relations/{WRITES}/edge", "0,4\n2,1\n", "expected ids of nodes of paper, got 4"),
        (f"raw/relations/{WRITES}/edge", "0\n2\n", "edge.csv.gz: expected 2 columns, got 1"),
        (f"raw/relations/{CITES}/num-edge-list", "4\n", "edge.csv.gz: expected 4 lines, got 3"),
        ("split/time/paper/test", "4\n", r"expected rows in \[0, 4\), got 4"),
        ("split/time/paper/test", "0\n", "in at most one of train, validation, test"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, {file: text})
