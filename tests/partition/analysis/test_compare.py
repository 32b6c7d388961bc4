"""Partitioning without a store: comparisons, assignments as tables, estimates."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.data.graph import Graph
from graphtheta.data.schema import as_numpy, matrix_column
from graphtheta.errors import ConfigError, PartitionError, StoreError
from graphtheta.partition import (
    PARTITIONERS,
    Balance,
    Plan,
    Resources,
    build,
    compare,
    estimate,
    held_bytes,
    make_store,
    measure,
    write_assignment,
)
from tests.graphs import power_law, random_graph, to_graph
from tests.partition.sources import IdSource, by_id

GRAPH = to_graph(power_law(60, 300), text_ids=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_compare_equals_the_quality_of_stores(workers: int) -> None:
    methods = ["dbh", "node-hash", "hdrf"]

    def work(comm: Communicator) -> None:
        resources = Resources(comm)
        for one, method in zip(
            compare(by_id(GRAPH), Plan(4), methods, resources), methods, strict=True
        ):
            assert one.method == method
            assert one.counts is not None
            built = build(GRAPH, Plan(4, method), resources)
            assert measure(one.counts) == built.manifest.quality

    run_local(work, workers, timeout_s=60)


def test_compare_continues_after_a_method_is_refused() -> None:
    resources = Resources(memory_limit=400_000)
    graph = to_graph(random_graph(200, 3000))
    found = list(compare(graph, Plan(4), ["metis", "dbh"], resources))
    assert found[0].counts is None
    assert "estimate" in found[0].refusal
    assert found[1].counts is not None


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("method", ["dbh", "node-hash"])
@pytest.mark.parametrize("table", [True, False], ids=["table", "no_table"])
def test_written_assignment_equals_that_of_the_store(
    method: str, workers: int, table: bool, tmp_path: Path
) -> None:
    source = by_id(GRAPH)
    source = source if table else IdSource(None, source.edges)
    plan = Plan(3, method, undirected=True, self_loops=False)

    def work(comm: Communicator) -> None:
        write_assignment(source, tmp_path / "assigned", plan, Resources(comm))

    run_local(work, workers, timeout_s=60)
    built = build(source, plan)
    nodes = pq.read_table(tmp_path / "assigned" / "nodes.parquet")
    assert nodes.schema == pa.schema([("id", pa.string()), ("part", pa.int32())])
    of_node = dict(zip(nodes["id"].to_pylist(), nodes["part"].to_pylist(), strict=True))
    for index, part in built.parts.items():
        assert all(of_node[i] == index for i in part.masters_of()["original_id"].to_pylist())
    assert len(of_node) == built.manifest.num_nodes
    path = tmp_path / "assigned" / "edges.parquet"
    assert path.exists() == (method == "dbh")
    if method == "dbh":
        edges = pq.read_table(path)
        assert edges.schema == pa.schema([("edge_key", pa.int64()), ("part", pa.int32())])
        of_edge = dict(zip(edges["edge_key"].to_pylist(), edges["part"].to_pylist(), strict=True))
        for index, part in built.parts.items():
            assert all(of_edge[key] == index for key in part.in_edges["edge_key"].to_pylist())
        assert len(of_edge) == built.manifest.num_edges
    assert [entry.name for entry in tmp_path.iterdir()] == ["assigned"]
    with pytest.raises(StoreError, match="Remove it, or choose another"):
        write_assignment(source, tmp_path / "assigned", plan)


def test_failed_assignment_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    module = sys.modules[
        "graphtheta.partition.analysis.compare"
    ]  # the package has a function of that name
    monkeypatch.setattr(module, "_write_nodes", full)
    with pytest.raises(StoreError, match=r"No space left on device\. Choose a path"):
        write_assignment(GRAPH, tmp_path / "assigned", Plan(3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", sorted(PARTITIONERS))
def test_estimate_is_close_to_the_disk_space_used(method: str, tmp_path: Path) -> None:
    graph = to_graph(random_graph(2000, 8000))
    for undirected in (False, True):
        plan = Plan(4, method, undirected=undirected)
        found = estimate(graph, plan, Resources())
        assert found.num_edges >= 8000 * (1 + undirected)
        store = make_store(graph, tmp_path / f"store-{undirected}", plan)
        size = sum(file.stat().st_size for file in store.path.rglob("*.arrow"))
        assert 0.5 * found.store < size < 1.3 * found.store + 100_000


def test_estimate_counts_what_the_source_holds() -> None:
    number = 20_000
    features = matrix_column(np.ones((number, 100), np.float32))
    keys = np.arange(number)
    graph = Graph(
        pa.table({"id": keys, "features": features}), pa.table({"src": keys, "dst": keys})
    )
    assert graph.memory_bytes == number * (8 + 400 + 16)
    in_memory = estimate(graph, Plan(1), Resources())
    in_files = estimate(IdSource(graph.nodes, graph.edges, keyed=True), Plan(1), Resources())
    assert held_bytes(graph) - held_bytes(IdSource(None, graph.edges)) == graph.memory_bytes
    for found in (in_memory, in_files):  # one copy while a part is built, next to what is held
        assert found.memory > held_bytes(IdSource(None, graph.edges)) + 400 * number
    assert in_memory.memory > held_bytes(graph) + 400 * number
    assert in_memory.seconds < 10


def test_held_bytes_leave_less_of_the_memory_limit() -> None:
    resources = Resources(memory_limit=1000, held=600)
    assert resources.available == 400
    resources.check_memory(400, "it", "Use less.")
    with pytest.raises(PartitionError, match=r"limit of 1\.00 kB, got an estimate of 1\.00 kB"):
        resources.check_memory(401, "it", "Use less.")
    assert Resources(memory_limit=10, held=600).available == 1
    assert Resources(held=600).available is None


@pytest.mark.parametrize("wide", ["features", "attr"])
@pytest.mark.parametrize("others", [True, False])
def test_wide_columns_are_stored_in_the_order_of_their_part(wide: str, others: bool) -> None:
    number = 300
    keys = np.arange(number)
    values = matrix_column(np.stack([keys, keys + 0.5], axis=1))
    extra = {"label:y": pa.array(keys % 3)} if others else {}
    of_nodes = {"features": values, **extra} if wide == "features" else {}
    of_edges = {"attr": values, **extra} if wide == "attr" else {}
    src, dst = (keys * 7) % number, (keys * 11) % number
    graph = Graph(
        pa.table({"id": keys, **of_nodes}), pa.table({"src": src, "dst": dst, **of_edges})
    )
    for part in build(graph, Plan(3, "node-hash")).parts.values():
        table = part.masters_of() if wide == "features" else part.in_edges_of()
        key = "node_key" if wide == "features" else "edge_key"
        expected = graph.column(wide, of="nodes" if wide == "features" else "edges")
        rows = table[key].to_numpy()
        assert np.array_equal(as_numpy(table[wide]), expected[rows])
        if others:
            assert table["label:y"].to_numpy().tolist() == (rows % 3).tolist()


def test_nodes_are_estimated_from_a_sample_of_edges() -> None:
    edges = by_id(to_graph(random_graph(3000, 60_000))).edges
    found = estimate(IdSource(None, edges), Plan(4), Resources())
    assert 2900 < found.num_nodes < 3200


def test_limits_are_kept_or_refused_in_one_line() -> None:
    graph = to_graph(power_law(2000, 8000))
    limits = Balance(nodes=1.02, edges=1.3, train=1.05)
    built = build(graph, Plan(4, "ldg", balance=limits))
    split = [part.masters_of()["split:split"].to_numpy() == 1 for part in built.parts.values()]
    train = np.array([own.sum() for own in split])
    assert built.book.masters.max() <= np.ceil(1.02 * 2000 / 4)
    assert train.max() <= np.ceil(1.05 * train.sum() / 4)
    match = r"can balance nodes, got dbh\. Omit .* one of range, ldg, fennel, "
    with pytest.raises(PartitionError, match=match):
        build(graph, Plan(4, "dbh", balance=Balance(nodes=1.02)))
    with pytest.raises(ConfigError, match=r"^split to balance .*one of split, got 'other'"):
        build(graph, Plan(4, "ldg", balance=Balance(train=1.1), balance_split="other"))


def test_memory_limit_refuses_parts_that_do_not_fit() -> None:
    graph = to_graph(random_graph(3000, 60_000))
    with pytest.raises(PartitionError, match=r"the largest part to fit .* Use more parts\."):
        build(graph, Plan(1, "edge-hash"), Resources(memory_limit=2_000_000))
    build(graph, Plan(32, "edge-hash"), Resources(memory_limit=2_000_000))
