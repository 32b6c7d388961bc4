"""Shards of a graph of several node types and relations, of one part or several merged."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError
from graphtheta.partition import Plan, Store, make_store, open_store
from graphtheta.shard.shard import Shard
from graphtheta.shard.subset import with_edges
from tests.typed_graphs import WRITES, typed_graph

GRAPH = typed_graph()
FIRST_KEYS = {table.name: table.first_key for table in GRAPH.node_tables}
STARS, SPLIT = "author-writes-paper.stars", "author-writes-paper.split"
DEBIAN = Path(__file__).parents[3] / "shared" / "data" / "debian"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(GRAPH, tmp_path_factory.mktemp("typed") / "store", Plan(4, "dbh"))


def shards(store: Store, workers: int) -> list[Shard]:
    """Return the shards of all ranks, with half of their edges left out in a second list."""
    found: dict[int, Shard] = {}
    lock = threading.Lock()

    def work(comm: Communicator) -> None:
        shard = gt.open_shard(store, comm)
        with lock:
            found[comm.rank] = shard

    gt.run_local(work, workers=workers, timeout_s=60)
    return [found[rank] for rank in range(workers)]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_shards_hold_the_columns_of_each_type(workers: int, store: Store) -> None:
    nodes: list[pa.Table] = []
    edges: dict[str, list[pa.Table]] = {relation.text: [] for relation in GRAPH.relations}
    for shard in shards(store, workers):
        assert shard.node_types == GRAPH.node_types
        assert shard.relations == GRAPH.relations
        assert shard.features.shape == (shard.num_masters, 0)
        label, known = shard.label("paper.y")
        nodes.append(
            pa.table(
                {
                    "key": shard.node_key_L[: shard.num_masters],
                    "type": shard.node_column("node_type").numpy(),
                    "label": pa.array(label.numpy(), mask=~known.numpy()),
                    "split": shard.split("paper.split").numpy(),
                }
            )
        )
        for name in ("author", "paper", "venue"):
            rows = shard.masters_of(name)
            keys = shard.node_key_L[rows] - FIRST_KEYS[name]
            table = GRAPH.node_table(name).take(pa.array(keys))
            assert shard.original_ids_of(name).to_pylist() == table["id"].to_pylist()
            if name != "venue":
                expected = np.array(table["features"].to_pylist(), np.float32)
                np.testing.assert_array_equal(shard.features_of(name).numpy(), expected)
        columns, types = shard.edge_columns, shard.edge_columns["type"].numpy()
        assert set(columns) == {"type", f"label:{STARS}", f"known:{STARS}", f"split:{SPLIT}"}
        for i, relation in enumerate(GRAPH.relations):
            rows = shard.edges_of(relation)
            np.testing.assert_array_equal(rows, np.flatnonzero(types == i))
            found = {"edge_key": shard.edge_key[rows]}
            own = shard.edge_columns_of(relation.text)
            for name, column in own.items():
                found[name] = column.numpy()
            if relation == WRITES:
                of_all, known = columns[f"label:{STARS}"], columns[f"known:{STARS}"]
                assert not known[types != i].any()
                assert not of_all[types != i].any()
                assert torch.equal(of_all[rows], own["label:stars"])
                assert torch.equal(known[rows], own["known:stars"])
                assert torch.equal(columns[f"split:{SPLIT}"][rows], own["split:split"])
            edges[relation.text].append(pa.table(found))
    table = pa.concat_tables(nodes).sort_by("key")
    of_papers = GRAPH.node_table("paper")
    label, split = of_papers["label:y"].to_pylist(), of_papers["split:split"].to_pylist()
    assert table["label"].to_pylist() == [*[None] * 13, *label, *[None] * 4]
    assert table["split"].to_pylist() == [*[0] * 13, *split, *[0] * 4]
    assert table["type"].to_pylist() == [0] * 13 + [2] * 21 + [3] * 4
    for relation in GRAPH.edge_tables:
        found = pa.concat_tables(edges[relation.relation.text]).sort_by("edge_key")
        rows = GRAPH.edge_table(relation.relation)
        assert found["edge_key"].to_pylist() == [relation.first_key + i for i in range(len(rows))]
        for name in set(rows.column_names) - {"src", "dst", "label:stars"}:
            assert found[name].to_pylist() == rows[name].to_pylist()


def test_some_edges_keep_the_columns_of_their_relation(store: Store) -> None:
    (shard,) = shards(store, 1)
    kept = shard.edge_key % 3 != 0
    some = with_edges(shard, kept)
    np.testing.assert_array_equal(some.edge_key, shard.edge_key[kept])
    for name in shard.edge_columns:
        assert torch.equal(some.edge_columns[name], shard.edge_columns[name][kept])
    stays = kept[shard.edges_of(WRITES)]
    weight = shard.edge_columns_of(WRITES)["weight"]
    assert torch.equal(some.edge_columns_of(WRITES)["weight"], weight[stays])


def test_columns_of_all_relations_are_joined(tmp_path: Path) -> None:
    ends = {"src": [0, 1, 1], "dst": [1, 0, 1]}
    edges = {
        "a-to-a": {**ends, "weight": [1.0, 2.0, 3.0], "attr": [[1.0], [2.0], [3.0]]},
        "a-of-a": {**ends, "weight": [4.0, 5.0, 6.0]},
    }
    graph = Graph.from_arrow({"a": {"id": [0, 1], "x": [5, 6]}}, edges)
    shard = gt.open_shard(graph)
    assert set(shard.edge_columns) == {"type", "weight"}
    assert shard.edge_columns["weight"].tolist() == [1.0 + key for key in shard.edge_key]
    assert shard.num_edge_types == 2
    assert (shard.node_column("x") == 5 + shard.node_column("node_key")).all()
    shard = gt.open_shard(make_store(graph, tmp_path / "store", Plan(2, "dbh")))
    assert shard.edge_columns["weight"].tolist() == [1.0 + key for key in shard.edge_key]


def test_what_needs_one_type_says_so(store: Store) -> None:
    (shard,) = shards(store, 1)
    for what in (shard.original_ids_of, shard.features_of, lambda: shard.masters_of("x")):
        with pytest.raises(ConfigError, match=r"^node type: expected one of author, empty, paper"):
            what()
    with pytest.raises(ConfigError, match=r"^relation: expected one of author-writes-paper"):
        shard.edges_of()
    with pytest.raises(ConfigError, match=r"expected one of paper\.y, got 'author\.y'"):
        shard.label("author.y")


@pytest.mark.skipif(not DEBIAN.exists(), reason="needs the Debian graph")
def test_debian_is_stored_and_read_back(tmp_path: Path) -> None:
    nodes, edges = {}, {}
    for file in sorted(DEBIAN.glob("*.parquet")):
        kind, *name = file.stem.split("-")
        if kind == "nodes":
            nodes[name[0]] = pq.read_table(file)
        elif "tagged" in name or "maintained_by" in name:
            edges[tuple(name)] = pq.read_table(file)
    options = {"package": {"labels": "section", "splits": "split"}}
    graph = Graph.from_arrow(nodes, edges, columns=options)
    store = open_store(make_store(graph, tmp_path / "store", Plan(2, "node-hash")).path)
    shard = gt.open_shard(store)
    assert shard.manifest.labels["package.section"].num_classes == 58
    rows = shard.masters_of("package")
    order = np.argsort(shard.node_key_L[rows])
    ids = shard.original_ids_of("package").take(pa.array(order))
    assert ids.to_pylist() == nodes["package"]["id"].to_pylist()
    classes = np.array(shard.manifest.labels["package.section"].classes)
    label, known = shard.label("package.section")
    assert known[rows].all()
    assert classes[label.numpy()[rows[order]]].tolist() == nodes["package"]["section"].to_pylist()
    for relation in shard.relations:
        assert len(shard.edges_of(relation)) == edges[tuple(relation)].num_rows
