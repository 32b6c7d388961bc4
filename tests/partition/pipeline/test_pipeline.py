"""Partitioning pipeline: content of the parts, independent of the number of ranks and threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.data.graph import Graph
from graphtheta.data.source import TableInMemory
from graphtheta.data.types import EDGE, NODE, EdgeTable, NodeTable, edge_tables, node_tables
from graphtheta.errors import PartitionError
from graphtheta.partition import PARTITIONERS, Plan, Resources, assess, build, measure
from graphtheta.partition.pipeline import order, part_builder
from graphtheta.partition.store import check_part
from tests.graphs import CORNER_GRAPHS, CornerGraph, power_law, random_graph, to_graph
from tests.partition.invariants import check
from tests.partition.sources import IdSource, build_on, by_id

METHODS = sorted(PARTITIONERS)


@st.composite
def corner_graphs(draw: st.DrawFn) -> CornerGraph:
    num_nodes = draw(st.integers(1, 12))
    node = st.integers(0, num_nodes - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=30))
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    return num_nodes, pairs[:, 0].copy(), pairs[:, 1].copy()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    corner=corner_graphs(),
    method=st.sampled_from(METHODS),
    undirected=st.booleans(),
    self_loops=st.booleans(),
    repeats=st.booleans(),
    workers=st.integers(1, 3),
    data=st.data(),
)
def test_build_keeps_every_invariant(
    corner: CornerGraph,
    method: str,
    undirected: bool,
    self_loops: bool,
    repeats: bool,
    workers: int,
    data: st.DataObject,
) -> None:
    graph = to_graph(corner)
    num_parts = data.draw(st.integers(1, min(5, corner[0])))
    kept = {"undirected": undirected, "self_loops": self_loops, "repeats": repeats}
    whole = build_on(
        graph, num_parts, workers, method=method, seed=data.draw(st.integers(0, 9)), **kept
    )
    check(whole, graph, **kept)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CORNER_GRAPHS)
def test_build_keeps_every_invariant_on_corner_graphs(name: str, method: str) -> None:
    graph = to_graph(CORNER_GRAPHS[name])
    for num_parts in {1, min(3, graph.num_nodes), min(8, graph.num_nodes)}:
        check(build_on(graph, num_parts, 2, method=method), graph)


@pytest.mark.parametrize(
    "undirected",
    [
        pytest.param(False, marks=pytest.mark.slow, id="directed"),
        pytest.param(True, id="undirected"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_build_gives_the_same_bytes_on_any_number_of_ranks(method: str, undirected: bool) -> None:
    graph = to_graph(power_law(70, 300), text_ids=True)
    wholes = [
        build_on(graph, 4, workers, method=method, undirected=undirected, seed=3)
        for workers in (1, 2, 3, 7)
    ]
    first = wholes[0].build
    for whole in wholes[1:]:
        assert whole.build.book.digests == first.book.digests
        assert whole.build.manifest == first.manifest
        for index, part in whole.parts.items():
            for name, table in part.tables().items():
                assert table.equals(wholes[0].parts[index].tables()[name])


@pytest.mark.parametrize("method", METHODS)
def test_build_gives_the_same_bytes_on_any_number_of_threads(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = by_id(to_graph(power_law(300, 2500), text_ids=True))
    plan = Plan(5, method, undirected=True, repeats=False, seed=3)
    alone = build(source, plan)
    monkeypatch.setattr("graphtheta.data.batches.CHUNK_ROWS", 400)  # some chunks in flight
    for threads in (2, 3):
        assert build(source, plan, Resources(threads=threads)).manifest == alone.manifest


@pytest.mark.parametrize("method", METHODS)
def test_build_is_reproducible_and_depends_on_the_seed(method: str) -> None:
    graph = to_graph(random_graph(200, 800))
    checksums = [build(graph, Plan(4, method, seed=s)).manifest.checksum for s in (0, 0, 1)]
    assert checksums[0] == checksums[1]
    assert checksums[0] != checksums[2]


@pytest.mark.parametrize("text_ids", [False, True], ids=["int_ids", "text_ids"])
@pytest.mark.parametrize("workers", [1, 3])
def test_build_resolves_ids_to_the_same_graph(text_ids: bool, workers: int) -> None:
    graph = to_graph(random_graph(50, 130), text_ids=text_ids)
    keyed = build(graph, Plan(3, "dbh"))
    named = build_on(by_id(graph), 3, workers, method="dbh")
    assert named.build.book.digests == keyed.book.digests


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("text_ids", [False, True], ids=["int_ids", "text_ids"])
def test_build_without_a_node_table_numbers_sorted_ids(text_ids: bool, workers: int) -> None:
    edges = by_id(to_graph(power_law(40, 90), text_ids=text_ids)).edges
    ids = sorted({*edges["src"].to_pylist(), *edges["dst"].to_pylist()})
    key_of_id = {name: key for key, name in enumerate(ids)}
    keys = {end: [key_of_id[name] for name in edges[end].to_pylist()] for end in ("src", "dst")}
    columns = {name: edges[name] for name in edges.column_names} | keys
    expected = Graph(pa.table({"id": ids}), pa.table(columns))
    whole = build_on(IdSource(None, edges), 3, workers, method="edge-hash")
    check(whole, expected)
    assert whole.build.book.digests == build(expected, Plan(3, "edge-hash")).book.digests


def test_build_reads_only_its_own_rows() -> None:
    requested: set[tuple[str, int, int]] = set()

    class SpyTable(TableInMemory):
        def chunks(
            self, start: int, stop: int, columns: Sequence[str] | None = None
        ) -> Iterator[pa.Table]:
            requested.add((self.name, start, stop))
            return super().chunks(start, stop, columns)

    class Spy(IdSource):
        @property
        def node_tables(self) -> tuple[NodeTable, ...]:
            return node_tables({NODE: SpyTable("nodes", self.nodes)})

        @property
        def edge_tables(self) -> tuple[EdgeTable, ...]:
            return edge_tables({EDGE: SpyTable("edges", self.edges)}, [NODE])

    graph = to_graph(random_graph(10, 31))
    build_on(Spy(graph.nodes, graph.edges, keyed=True), 3, 3)
    assert sorted(requested) == [
        *(("edges", 31 * r // 3, 31 * (r + 1) // 3) for r in range(3)),
        *(("nodes", 10 * r // 3, 10 * (r + 1) // 3) for r in range(3)),
    ]


def test_dbh_distributes_the_edges_of_a_hub() -> None:
    leaves = np.arange(1, 4001)
    graph = Graph(
        pa.table({"id": np.arange(4001)}),
        pa.table({"src": leaves, "dst": np.zeros_like(leaves)}),
    )
    assert build(graph, Plan(4, "dbh")).book.edges.max() < 0.3 * 4000


def test_build_refuses_a_part_of_more_replicas_than_local_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(order, "_INT32_LIMIT", 40)
    monkeypatch.setattr(part_builder, "_INT32_LIMIT", 40)
    monkeypatch.setattr(check_part, "_INT32_LIMIT", 40)
    graph = to_graph(random_graph(40, 100))
    with pytest.raises(PartitionError, match=r"got 40 in part 0\. Use more parts"):
        build(graph, Plan(1))
    part = build(to_graph(random_graph(39, 100)), Plan(1)).parts[0]
    assert part.out_edges.schema.field("csc_position").type == pa.int64()


def test_undirected_input_is_two_directed_edges_and_a_self_loop_once() -> None:
    graph = to_graph((2, np.array([0, 1]), np.array([1, 1])))
    part = build(graph, Plan(1, undirected=True)).parts[0]
    assert sorted(part.in_edges["edge_key"].to_pylist()) == [0, 1, 2]
    assert sorted(part.masters["in_degree"].to_pylist()) == [1, 2]


def test_manifest_describes_the_columns() -> None:
    graph = to_graph(CORNER_GRAPHS["random"], text_ids=True)
    manifest = build(graph, Plan(2)).manifest
    dump = manifest.model_dump(exclude_none=True)
    (nodes,), (edges,) = dump["node_types"], dump["relations"]
    assert (nodes["name"], nodes["id_type"]) == ("node", "string")
    assert (nodes["first_key"], nodes["count"]) == (0, graph.num_nodes)
    assert nodes["columns"] == {
        "features": {"dtype": "float32", "width": 3},
        "label:y": {"dtype": "int64"},
        "label:score": {"dtype": "float32"},
        "split:split": {"dtype": "int8"},
    }
    assert (edges["source"], edges["name"], edges["destination"]) == ("node", "to", "node")
    assert edges["columns"] == {
        "attr": {"dtype": "float32", "width": 2},
        "type": {"dtype": "int64"},
    }
    assert nodes["labels"] == {
        "y": {"task": "multiclass", "num_classes": 4},
        "score": {"task": "regression", "num_classes": 1},
    }
    assert nodes["splits"] == ["split"]
    assert edges["num_types"] == manifest.num_edge_types == 5


def test_manifest_has_the_task_of_every_label() -> None:
    nodes = {
        "id": [0, 1, 2],
        "label:binary": [True, None, False],
        "label:many": pa.array([[True, False]] * 3, pa.list_(pa.bool_(), 2)),
        "label:targets": pa.array([[0.5, 1.0]] * 3, pa.list_(pa.float32(), 2)),
        "label:none": pa.array([None] * 3, pa.int64()),
    }
    edges = {
        "src": [0, 1],
        "dst": [1, 2],
        "label:kind": [3, 1],
        "split:split": pa.array([1, 2], "int8"),
    }
    manifest = build(Graph(pa.table(nodes), pa.table(edges)), Plan(2)).manifest
    assert {n: (s.task, s.num_classes) for n, s in manifest.labels.items()} == {
        "binary": ("binary", 2),
        "many": ("multilabel", 2),
        "targets": ("regression", 2),
        "none": ("multiclass", 0),
    }
    assert manifest.edge_labels["kind"].num_classes == 4
    assert manifest.edge_splits == ["split"]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["power_law", "self_loops", "edgeless", "star_in"])
def test_assess_agrees_with_build(name: str, method: str, workers: int) -> None:
    graph = to_graph(CORNER_GRAPHS[name])

    def work(comm: Communicator) -> None:
        plan, resources = Plan(3, method, undirected=True), Resources(comm)
        found = measure(assess(graph, plan, resources))
        assert found == build(graph, plan, resources).manifest.quality

    run_local(work, workers, timeout_s=60)
