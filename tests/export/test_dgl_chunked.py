"""Export to DGL's chunked graph format, read as its user guide describes, without our code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError
from graphtheta.export import export
from tests.export.graphs import CORNERS, edge_rows, node_rows, rich_graph, store_of
from tests.export.rows import check_edges, check_nodes
from tests.graphs import random_graph, to_graph


class Chunked:
    """Folder in the chunked graph format, with the chunks of each column concatenated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / "metadata.json").read_text())

    def edges(self) -> list[tuple[int, ...]]:
        spec = self.meta["edges"]["_N:_E:_N"]
        assert spec["format"] == {"name": "csv", "delimiter": " "}
        lines = "".join((self.folder / file).read_text() for file in spec["data"]).splitlines()
        return [tuple(int(word) for word in line.split(" ")) for line in lines]

    def rows(self, section: str, kind: str) -> list[dict[str, Any]]:
        columns = {}
        for name, spec in self.meta[section][kind].items():
            assert spec["format"] == {"name": "numpy"}
            chunks = [np.load(self.folder / file) for file in spec["data"]]
            assert len({(chunk.dtype, chunk.shape[1:]) for chunk in chunks}) == 1
            columns[name] = np.concatenate(chunks).tolist()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def part_of_node(self) -> list[int]:
        return [int(line) for line in (self.folder / "partition/_N.txt").read_text().splitlines()]

    def parquet(self, kind: str) -> dict[int, dict[str, Any]]:
        rows = pq.read_table(self.folder / f"{kind}_columns").to_pylist()
        return {row[f"{kind}_key"]: row for row in rows}


@pytest.mark.parametrize("method", ["node-hash", "dbh"])
@pytest.mark.parametrize("undirected", [False, True], ids=["directed", "undirected"])
@pytest.mark.parametrize("corner", CORNERS)
def test_chunks_hold_the_same_graph(
    corner: str, undirected: bool, method: str, tmp_path: Path
) -> None:
    graph = rich_graph(corner, text_ids=undirected)
    store = store_of(graph, tmp_path / "store", 3, method, undirected=undirected)
    export("dgl-chunked", store, tmp_path / "chunked", name="g")
    chunked = Chunked(tmp_path / "chunked")
    nodes, edges = node_rows(graph), edge_rows(graph, undirected=undirected)

    meta = chunked.meta
    assert (meta["graph_name"], meta["node_type"], meta["edge_type"]) == ("g", ["_N"], ["_N:_E:_N"])
    assert meta["num_nodes_per_type"] == [graph.num_nodes] == [sum(meta["num_nodes_per_chunk"][0])]
    assert meta["num_edges_per_type"] == [len(edges)] == [sum(meta["num_edges_per_chunk"][0])]
    found, rest = chunked.rows("node_data", "_N"), chunked.parquet("node")
    for row in found:
        key = row["node_key"]
        check_nodes(nodes[key], row, rest[key], features="feat", label="label")
    key_of_id = [row["node_key"] for row in found]
    assert sorted(key_of_id) == list(range(graph.num_nodes))

    rows, notes = chunked.rows("edge_data", "_N:_E:_N"), chunked.parquet("edge")
    for (src, dst), row in zip(chunked.edges(), rows, strict=True):
        key = row["edge_key"]
        assert (key_of_id[src], key_of_id[dst]) == (edges[key]["src"], edges[key]["dst"])
        check_edges(
            edges[key], row, notes[key], attr="feat", type="etype", weight="weight", label="label"
        )
    assert sorted(row["edge_key"] for row in rows) == sorted(edges)

    parts = {
        key: part
        for part in range(store.num_parts)
        for key in store.part(part).masters["node_key"].to_pylist()
    }
    assert chunked.part_of_node() == [parts[key] for key in key_of_id]
    assert json.loads((tmp_path / "chunked/partition/partition_meta.json").read_text()) == {
        "version": "1.0.0",
        "num_parts": store.num_parts,
        "algo_name": "random",
    }


def test_counts_of_chunks_are_those_of_the_files(tmp_path: Path) -> None:
    store = store_of(to_graph(random_graph(30, 90)), tmp_path / "store", 4, "kaminpar")
    export("dgl-chunked", store, tmp_path / "chunked")
    chunked = Chunked(tmp_path / "chunked")
    files = chunked.meta["node_data"]["_N"]["feat"]["data"]
    counts = [len(np.load(chunked.folder / file)) for file in files]
    assert counts == chunked.meta["num_nodes_per_chunk"][0] == store.book.masters.tolist()
    files = chunked.meta["edges"]["_N:_E:_N"]["data"]
    lines = [len((chunked.folder / file).read_text().splitlines()) for file in files]
    assert lines == chunked.meta["num_edges_per_chunk"][0] == store.book.edges.tolist()


def test_empty_chunks_are_empty_files(tmp_path: Path) -> None:
    """DGL's pipeline skips an edge file of no bytes, and fails on any other without a line."""
    store = store_of(rich_graph("star_in"), tmp_path / "store", 3)
    export("dgl-chunked", store, tmp_path / "chunked")
    sizes = [f.stat().st_size for f in sorted((tmp_path / "chunked" / "edges").iterdir())]
    assert [size == 0 for size in sizes] == [edges == 0 for edges in store.book.edges]
    assert 0 in sizes


def test_columns_that_would_get_one_name_are_refused(tmp_path: Path) -> None:
    graph = to_graph(random_graph(30, 90))
    nodes = graph.nodes.append_column("label_score", graph.nodes["label:score"])
    store = store_of(Graph(nodes, graph.edges), tmp_path / "store", 2)
    match = r"columns of nodes, got 'label_score' for 'label:score' and 'label_score'\. Rename"
    with pytest.raises(ConfigError, match=match):
        export("dgl-chunked", store, tmp_path / "chunked")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_unknown_format_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"format .*: expected one of dgl, dgl-chunked, pyg, got 'csv'"
    ):
        export("csv", tmp_path / "store", tmp_path / "out")
