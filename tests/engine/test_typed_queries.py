"""Queries of graphs of several node types and relations have the content of the input's tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphtheta as gt
from graphtheta.engine import RemoteGraph
from graphtheta.errors import ConfigError, GraphThetaError, UnknownNode
from graphtheta.tgar import Fanout, Neighbourhoods
from tests.engine.stores import make, serving
from tests.typed_graphs import WRITES, typed_graph

GRAPH = typed_graph()
PAPERS = GRAPH.node_table("paper")
AUTHORS = GRAPH.node_table("author")
WRITTEN = GRAPH.edge_table(WRITES)
FIRST_NODE = {table.name: table.first_key for table in GRAPH.node_tables}
FIRST_EDGE = {table.relation: table.first_key for table in GRAPH.edge_tables}
ENDS = {  # original ids of the ends of the edges of WRITES
    "src": AUTHORS["id"].take(WRITTEN["src"].to_numpy() - FIRST_NODE["author"]).to_pylist(),
    "dst": PAPERS["id"].take(WRITTEN["dst"].to_numpy() - FIRST_NODE["paper"]).to_pylist(),
}


def test_nodes_by_type(remote: RemoteGraph) -> None:
    assert remote.node_types == GRAPH.node_types
    assert remote.relations == GRAPH.relations
    assert remote.statistics()["node_types"] == {"author": 13, "empty": 0, "paper": 21, "venue": 4}
    names = ["title", "label:y", "features", "node_key", "original_id"]
    ids = PAPERS["id"].to_pylist()
    for found in (
        remote.columns(ids, names, node_type="paper"),
        remote.columns(None, names, node_type="paper"),
    ):
        assert found["original_id"].tolist() == ids
        assert found["title"].tolist() == PAPERS["title"].to_pylist()
        assert found["label:y"].tolist() == PAPERS["label:y"].fill_null(-1).to_pylist()
        assert found["node_key"].tolist() == list(np.arange(len(ids)) + FIRST_NODE["paper"])
        wanted = np.stack(PAPERS["features"].to_numpy())
        np.testing.assert_array_equal(found["features"], wanted)
    assert remote.columns(None, ["original_id"], node_type="empty")["original_id"].tolist() == []
    keys = remote.columns(None, ["node_key", "in_degree"])
    assert keys["node_key"].tolist() == list(range(remote.num_nodes))
    drawn = remote.random_nodes(21, node_type="paper")
    assert sorted(drawn.tolist()) == found["node_key"].tolist()
    # The same number names an author and a venue.
    of = {name: remote.new_ids([5], node_type=name)[0] for name in ("author", "venue")}
    assert remote.types_of(remote.columns(list(of.values()), ["node_key"], "new_id")["node_key"])[
        [0, 1]
    ].tolist() == [0, 3]


@pytest.mark.parametrize("direction", ["in", "out"])
def test_neighbours_by_relation(remote: RemoteGraph, direction: str) -> None:
    inward = direction == "in"
    nodes, own, other = (PAPERS, "dst", "src") if inward else (AUTHORS, "src", "dst")
    ids = nodes["id"].to_pylist()
    found = remote.neighbours(ids, direction=direction, relation=WRITES, columns=["weight"])
    keys = found.edge_key - FIRST_EDGE[WRITES]
    assert sorted(keys) == list(range(WRITTEN.num_rows))
    got = np.repeat(ids, np.diff(found.indptr)).tolist()
    assert got == [ENDS[own][key] for key in keys]
    np.testing.assert_array_equal(found.columns["weight"], WRITTEN["weight"].to_numpy()[keys])
    kind = "author" if inward else "paper"
    ends = remote.columns(found.node, ["original_id"], "new_id", node_type=kind)["original_id"]
    assert ends.tolist() == [ENDS[other][key] for key in keys]
    every = remote.neighbours(ids, direction=direction, node_type="paper" if inward else "author")
    of = remote.relations_of(every.edge_key)
    is_written = of == list(remote.relations).index(WRITES)
    assert every.edge_key[is_written].tolist() == found.edge_key.tolist()


def test_edges_by_relation(remote: RemoteGraph) -> None:
    src, dst = ENDS["src"], ENDS["dst"]
    keys = remote.find_edges(src, dst, relation="author-writes-paper")
    pairs = list(zip(src, dst, strict=True))
    wanted = np.array([pairs.index(pair) for pair in pairs])
    assert (keys - FIRST_EDGE[WRITES]).tolist() == wanted.tolist()
    assert set(remote.find_edges(src, dst, relation="author-likes-paper")) == {-1}
    names = ["weight", "label:stars"]
    for ends in (None, dst):
        found = remote.edge_columns(keys, names, dst=ends, relation=WRITES)
        np.testing.assert_array_equal(found["weight"], WRITTEN["weight"].to_numpy()[wanted])
        stars = WRITTEN["label:stars"].fill_null(-1).to_numpy()[wanted]
        assert found["label:stars"].tolist() == stars.tolist()


def test_draws_by_relation_do_not_depend_on_the_partitioning(tmp_path: Path) -> None:
    fanouts = {WRITES: [2, 1], "paper-cites-paper": [1, 2], "paper-in-venue": [None, 0]}
    drawn = []
    for number, (parts, method) in enumerate([(1, "node-hash"), (2, "node-hash"), (3, "dbh")]):
        make(GRAPH, tmp_path / f"{number}", parts, method)
        with serving(tmp_path / f"{number}", 2 if parts > 1 else 1) as graph:
            ids = PAPERS["id"].to_pylist()[:9]
            found = graph.subgraph(ids, fanouts, node_type="paper", seed=3, step=5)
            drawn.append((found.edge_key, found.node_key, found.num_nodes, found.num_edges))
            relation = graph.relations_of(found.edge_key)
            first_hop = slice(0, found.num_edges[0])
            pairs = np.stack([found.dst[first_hop], relation[first_hop]])
            _, counts = np.unique(pairs, axis=1, return_counts=True)
            assert counts.max() <= 2
            one = graph.neighbours(ids, relation=WRITES, fanout=1, seed=3, step=5, layer=1)
            is_written = relation[first_hop] == list(graph.relations).index(WRITES)
            assert found.edge_key[first_hop][is_written].tolist() == one.edge_key.tolist()
    for others in drawn[1:]:
        for got, want in zip(others, drawn[0], strict=True):
            assert np.array_equal(got, want)


def test_draws_by_relation_are_those_of_training(remote: RemoteGraph) -> None:
    shard = gt.open_shard(GRAPH)
    sizes = {WRITES: 2, ("paper", "cites", "paper"): 1}
    fanout = Fanout(tuple(sizes.get(tuple(relation), 0) for relation in GRAPH.relations), False)
    rows = shard.masters_of("paper")[:9]
    for layer, block in enumerate(Neighbourhoods(shard).blocks(rows, [fanout] * 2, seed=1, step=4)):
        nodes = block.node_key[: block.num_outputs]
        drawn = [
            remote.neighbours(
                nodes, by="node_key", relation=relation, fanout=size, seed=1, step=4, layer=layer
            ).edge_key
            for relation, size in sizes.items()
        ]
        assert np.sort(np.concatenate(drawn)).tolist() == sorted(block.edge_key.tolist())


def test_wrong_types_are_errors_of_one_line(remote: RemoteGraph) -> None:
    for call, kind, message in (
        (lambda: remote.new_ids([1]), ConfigError, "node type: expected one of author"),
        (lambda: remote.new_ids([1], node_type="x"), ConfigError, "got 'x'"),
        (lambda: remote.new_ids([99], node_type="author"), UnknownNode, "99"),
        (lambda: remote.new_ids([30], "node_key", "author"), UnknownNode, "the type author"),
        (lambda: remote.columns([1], ["title"], node_type="author"), ConfigError, "expected some"),
        (lambda: remote.columns([30], ["original_id"], "node_key"), ConfigError, "node type:"),
        (
            lambda: remote.columns([remote.new_ids(["p1"], node_type="paper")[0]], ["original_id"],
                                   "new_id", "author"),
            ConfigError, "expected nodes of the type author",
        ),
        (lambda: remote.neighbours(["p1"], relation="a-b-c"), ConfigError, "relation: expected"),
        (
            lambda: remote.neighbours(["p1"], node_type="paper", columns=["weight"]),
            ConfigError, "relation: expected one of",
        ),
        (
            lambda: remote.neighbours(["p1"], relation=WRITES, fanout=1, weight="weight"),
            ConfigError, "draw: expected",
        ),
        (
            lambda: remote.subgraph(["p1"], {WRITES: [2]}, node_type="paper", columns=["weight"]),
            ConfigError, "subgraph: expected no columns",
        ),
        (
            lambda: remote.subgraph(["p1"], {WRITES: [2], "paper-in-venue": []}, node_type="paper"),
            ConfigError, "subgraph: expected as many",
        ),
        (lambda: remote.edge_columns([0], ["weight"]), ConfigError, "relation: expected one of"),
        (
            lambda: remote.edge_columns([10**6], ["weight"], relation=WRITES),
            GraphThetaError, "of the relation author-writes-paper",
        ),
    ):  # fmt: skip
        with pytest.raises(kind, match=message) as error:
            call()
        assert len(str(error.value).splitlines()) == 1
