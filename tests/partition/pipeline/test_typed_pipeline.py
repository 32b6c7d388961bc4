"""Partitioning of graphs of several node types and relations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from graphtheta.data.graph import Graph
from graphtheta.data.source import TableInMemory
from graphtheta.datasets import read
from graphtheta.errors import ConfigError, GraphFormatError, PartitionError
from graphtheta.partition import (
    PARTITIONERS,
    Balance,
    PartTables,
    Plan,
    build,
    column_numpy,
    compare,
    make_store,
    measure,
    open_store,
)
from graphtheta.partition.pipeline import resolve_ids
from tests.partition.sources import TypedIdSource, build_on
from tests.typed_graphs import WRITES, typed_graph

GRAPH = typed_graph()
DEBIAN = Path(__file__).parents[4] / "shared" / "data" / "debian"


def check(parts: dict[int, PartTables], graph: Graph) -> None:
    """Check that parts hold exactly the nodes, edges and columns of a graph, by type."""
    for i, of_type in enumerate(graph.node_tables):
        found = pa.concat_tables([part.masters_of(i) for part in parts.values()])
        found = found.sort_by("node_key")
        keys = of_type.first_key + np.arange(of_type.num_rows)
        np.testing.assert_array_equal(column_numpy(found, "node_key"), keys)
        rows = graph.node_table(of_type.name)
        names = ["original_id", *rows.column_names[1:]]
        assert found.select(names).equals(rows.rename_columns(names))
    for i, relation in enumerate(graph.edge_tables):
        found = pa.concat_tables([edges_of(part, i) for part in parts.values()])
        found = found.sort_by("edge_key")
        keys = relation.first_key + np.arange(relation.num_rows)
        np.testing.assert_array_equal(column_numpy(found, "edge_key"), keys)
        rows = graph.edge_table(relation.relation)
        assert found.select(rows.column_names).equals(rows)
    first_keys = np.array([table.first_key for table in graph.node_tables])
    for part in parts.values():
        keys = column_numpy(part.masters, "node_key")
        of_type = np.searchsorted(first_keys, keys, side="right")
        boundary = np.arange(len(keys)) >= part.num_interior
        assert (np.diff(of_type + 10 * boundary) >= 0).all(), "a type is two slices of masters"


def edges_of(part: PartTables, relation: int) -> pa.Table:
    """Return the edges of a relation in a part, with node keys as ends."""
    keys = column_numpy(part.replicas, "node_key")
    dst = np.repeat(keys, np.diff(column_numpy(part.in_indptr, "indptr")))
    table = part.in_edges_of(relation)
    src = keys[column_numpy(table, "src")]
    table = table.set_column(0, "src", pa.array(src))
    return table.append_column("dst", pa.array(dst[part.rows_of_relation(relation)]))


@pytest.mark.parametrize("method", PARTITIONERS)
def test_parts_hold_the_types_of_the_graph(method: str) -> None:
    for num_parts in (1, 2, 3):
        check(build(GRAPH, Plan(num_parts, method)).parts, GRAPH)


def test_ranks_and_ids_do_not_change_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = build(GRAPH, Plan(3, "dbh")).book.digests
    by_id = TypedIdSource.of(GRAPH)
    assert build_on(by_id, 3, 2, method="dbh").build.book.digests == digests
    monkeypatch.setattr(resolve_ids, "_NO_LIMIT", 2500)  # several slices of hash tables
    assert build(by_id, Plan(3, "dbh")).book.digests == digests


def test_store_of_a_typed_graph_is_verified_and_indexed(tmp_path: Path) -> None:
    store = open_store(make_store(GRAPH, tmp_path / "store", Plan(3, "hdrf")).path)
    store.verify()
    manifest = store.manifest
    assert [of_type.count for of_type in manifest.node_types] == [13, 0, 21, 4]
    assert manifest.relations[0].relation.text == "author-writes-paper"
    assert list(manifest.labels) == ["paper.y"]
    assert manifest.splits == ["paper.split"]
    assert list(manifest.edge_labels) == ["author-writes-paper.stars"]
    assert (manifest.num_edge_types, list(manifest.edge_columns)) == (5, ["type"])
    assert manifest.relations[2].num_types == 2
    quality = manifest.quality
    assert [of_relation.num_edges for of_relation in quality.relations] == [40, 60, 9, 0, 21]
    cut = sum(of.edge_cut * of.num_edges for of in quality.relations)
    assert np.isclose(cut / 130, quality.edge_cut)
    sizes = zip(manifest.node_types, quality.node_types, strict=True)
    replicas = sum(of_type.count * found.replication_factor for of_type, found in sizes)
    assert np.isclose(replicas / 38, quality.replication_factor)
    for i, of_type in enumerate(manifest.node_types):
        tables = [store.part(p).masters_of(i) for p in range(3)]
        ids = pa.concat_tables(tables)["original_id"].combine_chunks()
        keys = pa.concat_tables(tables)["node_key"].to_numpy()
        found = store.index.new_ids(ids, of_type.name)
        np.testing.assert_array_equal(found, store.index.new_ids_of_keys(keys))
    with pytest.raises(ConfigError, match=r"node type: expected one of author, .*, got none"):
        store.index.new_ids([1])


def test_duplicates_have_the_same_relation_and_type() -> None:
    ends = {"src": [0, 0, 1, 0, 0], "dst": [1, 1, 2, 1, 1]}
    edges = {
        "a-to-a": {**ends, "type": [0, 1, 0, 0, 1]},
        "a-of-a": {**ends, "weight": np.ones(5, np.float32)},
    }
    graph = Graph.from_arrow({"a": {"id": [0, 1, 2]}}, edges)
    built = build(graph, Plan(2, "dbh", repeats=False))
    keys = [column_numpy(part.in_edges, "edge_key") for part in built.parts.values()]
    assert sorted(np.concatenate(keys).tolist()) == [0, 1, 2, 5, 7]
    assert built.manifest.dropped_duplicates == 5


def test_a_column_of_types_beside_relations_is_pointed_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    build(GRAPH, Plan(1))
    (record,) = caplog.records
    assert "the column 'type' of 'paper-extends-paper' is kept" in record.getMessage()


def test_training_nodes_of_a_type_are_balanced() -> None:
    plan = Plan(3, "ldg", balance=Balance(train=1.0), balance_split="paper.split")
    parts = build(GRAPH, plan).parts.values()
    train = [
        np.count_nonzero(part.node_columns[2]["split:split"].to_numpy() == 1) for part in parts
    ]
    assert max(train) <= np.ceil(sum(train) / 3)


@pytest.mark.skipif(not DEBIAN.exists(), reason="needs the Debian graph")
def test_node_types_are_balanced_on_request() -> None:
    source = read(str(DEBIAN))
    plan = Plan(8, balance=Balance(types=1.05))
    for found in compare(source, plan, ["ldg", "metis", "range"]):
        assert found.counts is not None, found.refusal
        quality = measure(found.counts)
        assert quality.edge_cut < 0.7  # of random parts: 0.875
        for table, of_type in zip(source.node_tables, quality.node_types, strict=True):
            mean = table.num_rows / 8
            assert round(of_type.balance * mean) <= np.ceil(1.05 * mean)
    (by_nodes,) = compare(source, replace(plan, balance=Balance()), ["ldg"])
    assert by_nodes.counts is not None
    assert max(of_type.balance for of_type in measure(by_nodes.counts).node_types) > 1.3


@pytest.mark.parametrize(
    "method", [name for name, of in PARTITIONERS.items() if "types" not in of.balances]
)
def test_methods_that_cannot_balance_types_refuse_it(method: str) -> None:
    match = (
        rf"^partition: expected a method that can balance types, got {method}\. Omit .*, metis\.$"
    )
    with pytest.raises(PartitionError, match=match):
        build(GRAPH, Plan(2, method, balance=Balance(types=1.1)))


def test_mistakes_name_the_table_of_the_relation() -> None:
    source = TypedIdSource.of(GRAPH)
    cites = source.edge_tables[1]
    dst = ["p1"] * 59 + ["nowhere"]
    assert isinstance(cites.table, TableInMemory)
    rows = cites.table.rows.set_column(1, "dst", pa.array(dst))
    tables = list(source.edge_tables)
    tables[1] = replace(cites, table=TableInMemory("cites.parquet", rows))
    match = r"^cites\.parquet: dst: expected ids of nodes of paper, got unknown 'nowhere' in row 59"
    with pytest.raises(GraphFormatError, match=match):
        build(replace(source, edge_tables=tuple(tables)), Plan(2))
    with pytest.raises(ConfigError, match=r"got 'author-writes-paper'.*\(--add-reverse\)\.$"):
        build(GRAPH, Plan(2, undirected=True))
    one = Graph.from_arrow(
        {"author": {"id": [1]}, "paper": {"id": [1]}}, {WRITES: {"src": [1], "dst": [1]}}
    )
    with pytest.raises(ConfigError, match="between nodes of one type to reverse"):
        build(one, Plan(1, undirected=True))
