"""Folders of tables of several node types and relations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from graphtheta import datasets
from graphtheta.comm.single import SingleCommunicator
from graphtheta.data.graph import Graph
from graphtheta.datasets.reading import reading
from graphtheta.datasets.store_cache import open_input
from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.shard.open import open_shard
from tests.datasets.test_published import DATA

PAPERS = {
    "id": [10, 20, 30],
    "f_1": [1.0, 2.0, 3.0],
    "f_2": [4.0, 5.0, 6.0],
    "venue": ["x", "y", "x"],
    "s": ["train", "val", "test"],
    "year": [2001, 2002, 2003],
}
AUTHORS = {"id": ["u", "v"], "f_1": [7.5, 8.5], "born": [1970, 1980]}
WRITES = {"src": ["u", "v", "v"], "dst": [10, 20, 30], "stars": [3, 0, 1], "w": [0.5, 1.0, 2.0]}
CITES = {"src": [20, 30], "dst": [10, 10], "year": [2002, 2003]}
OPTIONS = {
    "features": ["author.f_1", "paper.f_*"],
    "labels": "venue",
    "splits": {"split": "paper.s"},
    "edge_labels": "author-writes-paper.stars",
    "edge_weight": "w",
}


def write(folder: Path, **changed: Any) -> str:
    """Write a folder of tables in several formats, and return its path."""
    tables = {"papers": PAPERS, "authors": AUTHORS, "writes": WRITES, "cites": CITES, **changed}
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(tables["papers"]), folder / "nodes-paper.parquet")
    pyarrow.csv.write_csv(pa.table(tables["authors"]), folder / "nodes-author.csv")
    writes, cites = folder / "edges-author-writes-paper", folder / "edges-paper-cites-paper.arrow"
    writes.mkdir()
    pq.write_table(pa.table(tables["writes"]), writes / "0.parquet")
    pyarrow.feather.write_feather(pa.table(tables["cites"]), cites)
    return str(folder)


def test_a_table_is_a_node_type_or_a_relation(tmp_path: Path) -> None:
    source = datasets.read(write(tmp_path / "g"), **OPTIONS)
    graph = Graph.from_source(source)
    assert graph.node_types == ("author", "paper")
    assert [relation.text for relation in graph.relations] == [
        "author-writes-paper",
        "paper-cites-paper",
    ]
    assert graph.labels == ("paper.venue",)
    assert graph.splits == ("paper.split",)
    assert graph.node_table("author")["features"].to_pylist() == [[7.5], [8.5]]
    assert graph.node_table("paper")["features"].to_pylist() == [[1, 4], [2, 5], [3, 6]]
    writes = graph.edge_table("author-writes-paper")
    assert writes["src"].to_pylist() == [0, 1, 1]
    assert writes["dst"].to_pylist() == [2, 3, 4]
    assert writes["label:stars"].to_pylist() == [3, 0, 1]
    assert writes["weight"].to_pylist() == [0.5, 1.0, 2.0]
    assert graph.edge_table("paper-cites-paper").column_names == ["src", "dst"]
    rows = dict(reading(source))
    assert rows["node paper.label:venue"] == "multiclass (by its type, string), 2 classes: 'x', 'y'"
    assert rows["node table author"].endswith("2 rows, ids: id; not read: born")


def test_a_label_of_a_type_has_a_name_and_a_kind(tmp_path: Path) -> None:
    path = write(tmp_path / "g")
    kinds = {"paper.y": "multiclass", "author.born": "regression"}
    labels = {"y": "paper.venue", "author.born": "born"}
    options = {"labels": labels, "label_kinds": kinds, "splits": "paper.random(0.5,0.5)"}
    graph = Graph.from_source(datasets.read(path, **options))
    assert graph.labels == ("author.born", "paper.y")
    assert graph.splits == ("paper.split",)
    assert graph.node_table("author")["label:born"].type == pa.float32()


def test_reverse_relations_are_read_from_the_same_tables(tmp_path: Path) -> None:
    path = write(tmp_path / "g")
    source = datasets.read(path, **OPTIONS, add_reverse=True)
    graph = Graph.from_source(source)
    assert [relation.text for relation in graph.relations[2:]] == [
        "paper-rev_writes-author",
        "paper-rev_cites-paper",
    ]
    assert [table.first_key for table in source.edge_tables] == [0, 3, 5, 8]
    back = graph.edge_table("paper-rev_writes-author")
    assert back.column_names == ["src", "dst", "weight"]  # a label belongs to the edge itself
    assert back["src"].to_pylist() == [2, 3, 4]
    assert back["dst"].to_pylist() == [0, 1, 1]
    assert back["weight"].to_pylist() == [0.5, 1.0, 2.0]
    plain = Graph.from_source(datasets.read(path, **OPTIONS))
    assert Graph.from_source(plain, add_reverse=True).digest() == graph.digest()
    assert source.digest() != datasets.read(path, **OPTIONS).digest()
    with pytest.raises(ConfigError, match="no relation paper-rev_writes-author, got one in"):
        Graph.from_source(graph, add_reverse=True)
    shard = open_shard(source)
    assert [relation.text for relation in shard.relations] == [r.text for r in graph.relations]


def test_a_run_opens_a_folder_of_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHTHETA_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "g")
    comm = SingleCommunicator()
    plain = open_input(path, comm)
    assert open_input(path, comm, add_reverse=True).manifest.num_edges == 10
    assert plain.manifest.num_edges == 5
    reversed_too = open_input(path, comm, add_reverse=True).manifest.recipe
    assert open_input(path, comm, like=reversed_too).manifest.num_edges == 10
    assert open_input(path, comm, like=plain.manifest.recipe).manifest.num_edges == 5
    with pytest.raises(ConfigError, match="expected a store made with --add-reverse"):
        open_input(str(plain.path), comm, add_reverse=True)


TOML = """
[nodes.paper]
file = "articles.parquet"
id = "number"
features = ["f_2", "f_1"]
labels = {y = "venue"}
time = "year"

[edges.author-writes-paper]
labels = "stars"
weight = "w"
"""


def test_graph_toml_names_tables_and_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "g")
    (tmp_path / "g" / "nodes-paper.parquet").unlink()
    papers = {"number" if name == "id" else name: values for name, values in PAPERS.items()}
    pq.write_table(pa.table(papers), tmp_path / "g" / "articles.parquet")
    (tmp_path / "g" / "graph.toml").write_text(TOML)
    graph = Graph.from_source(datasets.read(path, labels="paper.s", label_kinds="multiclass"))
    assert set(graph.node_types) == {"author", "paper"}
    papers = graph.node_table("paper")
    assert papers.column_names == ["id", "features", "label:s", "time"]
    assert papers["features"].to_pylist() == [[4, 1], [5, 2], [6, 3]]
    assert papers["time"].to_pylist() == PAPERS["year"]
    writes = graph.edge_table("author-writes-paper")
    assert writes.column_names == ["src", "dst", "weight", "label:stars"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "topic"}, r"--label\): expected a column of author, paper, .* got 'topic'"),
        ({"labels": "papers.venue"}, "expected a column of author, paper, .* got 'papers.venue'"),
        ({"labels": "author.venue"}, "nodes-author.csv: expected a column 'venue', got columns id"),
        ({"labels": "author-writes-paper.stars"}, "expected a column of author, paper"),
        ({"edge_labels": "paper.venue"}, "expected a column of author-writes-paper, paper-cites"),
        ({"splits": {"split": ["s", "nope", "s"]}}, "got 's, nope, s'"),
        ({"features": "paper.x_*"}, r"nodes-paper.parquet: expected a column 'x_\*'"),
        ({"label_kinds": {"paper.z": "binary"}}, r"names of labels \(none\), got 'paper.z'"),
        ({"id": "number"}, r"id \(--id\): expected a column of author, paper"),
    ],
)
def test_wrong_names_of_columns_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        datasets.read(write(tmp_path / "g"), **options)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("nodes-paper.csv", "id\n1\n", "one table for nodes-paper, got nodes-paper.csv, "),
        ("edges-paper-in-venue.csv", "src,dst\n10,1\n", "got 'venue' in the relation paper-in"),
        ("edges-paper-x.csv", "src,dst\n10,1\n", "names without '-', got edges-paper-x"),
        ("graph.toml", "[nodes.paper]\nlabel = 'y'", "expected keys among file, .*'label'"),
        ("graph.toml", "[node.paper]\n", "expected keys among nodes, edges, got 'node'"),
        ("graph.toml", "[nodes.paper]\nid = 3", " id: expected the name of a column, got 3"),
        ("graph.toml", "[nodes]\npaper = 3", r"paper\]: expected a table of keys, got 3"),
        ("graph.toml", "[nodes.city]\nid = 'id'", "one table for nodes-city, got none"),
        ("graph.toml", "nodes = [", "expected TOML, got an error"),
    ],
)
def test_wrong_folders_are_refused(tmp_path: Path, file: str, text: str, message: str) -> None:
    path = write(tmp_path / "g")
    (tmp_path / "g" / file).write_text(text)
    with pytest.raises(ConfigError, match=message):
        datasets.read(path)


def test_an_end_of_another_type_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "g", writes={**WRITES, "src": ["u", "v", "10"]})
    with pytest.raises(GraphFormatError, match=r"src: expected ids of .*author.csv, got '10'"):
        Graph.from_source(datasets.read(path))


def test_a_folder_without_node_tables_is_refused(tmp_path: Path) -> None:
    (tmp_path / "edges-a-to-a.csv").write_text("src,dst\n1,2\n")
    with pytest.raises(ConfigError, match="expected tables of nodes, such as nodes-<type>"):
        datasets.read(str(tmp_path))


def test_folders_with_other_names_are_refused_or_described(tmp_path: Path) -> None:
    (tmp_path / "nodes-a.csv").write_text("id\n1\n2\n")
    with pytest.raises(ConfigError, match="expected tables of edges, such as edges-<source type>-"):
        datasets.read(str(tmp_path))
    (tmp_path / "edges-a-r-s-a.csv").write_text("src,dst\n1,2\n")
    with pytest.raises(ConfigError, match=r"got edges-a-r-s-a. Rename it, or name it .*graph.toml"):
        datasets.read(str(tmp_path))
    (tmp_path / "graph.toml").write_text("[edges.a-r_s-a]\nfile = 'edges-a-r-s-a.csv'")
    assert [one.relation.name for one in datasets.read(str(tmp_path)).edge_tables] == ["r_s"]
    (tmp_path / "nodes-b\n\x07.csv").write_text("id\n1\n")
    with pytest.raises(ConfigError, match=r"control characters, got 'b\\n\\x07'") as caught:
        datasets.read(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_types_without_nodes_and_relations_without_edges(tmp_path: Path) -> None:
    path = write(tmp_path / "g", cites={"src": pa.array([], "int64"), "dst": pa.array([], "int64")})
    (tmp_path / "g" / "nodes-venue.csv").write_text("id\n")
    (tmp_path / "g" / "edges-paper-in-venue.csv").write_text("src,dst\n")
    shard = open_shard(datasets.read(path, **OPTIONS, add_reverse=True))
    assert shard.node_types == ("author", "paper", "venue")
    counts = [len(shard.edges_of(relation)) for relation in shard.relations]
    assert counts == [3, 0, 0, 3, 0, 0]


def test_reverse_relations_need_a_node_table(tmp_path: Path) -> None:
    (tmp_path / "edges.csv").write_text("src,dst\n1,2\n")
    with pytest.raises(ConfigError, match="expected a graph with a node table, got only edges"):
        datasets.read(str(tmp_path), add_reverse=True)


@pytest.mark.skipif(not (DATA / "debian").exists(), reason="needs the Debian graph")
def test_debian() -> None:
    path = str(DATA / "debian")
    graph = Graph.from_source(datasets.read(path, labels="package.section", splits="package.split"))
    assert (graph.num_nodes, graph.num_edges) == (100_378, 516_522)
    assert len(graph.relations) == 11
    assert graph.labels == ("package.section",)
    assert graph.node_table("package")["label:section"].to_numpy().max() == 57
