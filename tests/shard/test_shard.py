"""The shards of any number of workers together hold the input graph, each node and edge once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError
from graphtheta.exchange.plan import Role
from graphtheta.partition import Plan, Store, make_store
from graphtheta.shard import merged_edges
from graphtheta.shard.columns import as_tensor
from graphtheta.shard.shard import Shard
from tests.graphs import CORNER_GRAPHS, random_graph, to_graph

METHODS = ["node-hash", "dbh"]
Source = Graph | Store


@pytest.fixture(scope="module")
def graph() -> Graph:
    num_nodes, src, dst = random_graph(50, 300)
    return to_graph((num_nodes + 4, src, dst), text_ids=True, dtype=np.float64)


@pytest.fixture(scope="module", params=METHODS)
def store(request: pytest.FixtureRequest, graph: Graph, tmp_path_factory: Any) -> Store:
    path: Path = tmp_path_factory.mktemp("stores") / request.param
    return make_store(graph, path, Plan(6, request.param))


def on_all(source: Source, workers: int, work: Callable[[Shard], Any], method: str) -> list[Any]:
    """Return work(shard) of every rank, in rank order."""
    results: dict[int, Any] = {}

    def run(comm: Communicator) -> None:
        results[comm.rank] = work(gt.open_shard(source, comm, method=method))

    gt.run_local(run, workers=workers, timeout_s=30)
    return [results[rank] for rank in range(workers)]


def by_key(
    source: Source, workers: int, column: Callable[[Shard], Tensor], method: str = "node-hash"
) -> NDArray[Any]:
    """Return a column of the masters of all ranks, in the order of node_key."""

    def work(shard: Shard) -> tuple[NDArray[np.int64], NDArray[Any]]:
        rows = column(shard)
        assert len(rows) == shard.num_masters
        return shard.node_key_L[: shard.num_masters].copy(), rows.numpy().copy()

    keys, rows = zip(*on_all(source, workers, work, method), strict=True)
    order = np.concatenate(keys)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(order)))  # one master per node
    return np.concatenate(rows)[np.argsort(order)]


PARTITIONS = [(1, "node-hash"), (2, "node-hash"), (3, "dbh"), (7, "edge-hash")]


@pytest.mark.parametrize(("workers", "method"), PARTITIONS)
def test_masters_hold_the_columns_of_the_input(workers: int, method: str, graph: Graph) -> None:
    def column(read: Callable[[Shard], Tensor]) -> NDArray[Any]:
        return by_key(graph, workers, read, method)

    np.testing.assert_array_equal(column(lambda s: s.features), graph.features)
    np.testing.assert_array_equal(column(lambda s: s.split("split")), graph.split("split"))
    known = ~np.asarray(graph.nodes["label:y"].is_null())
    np.testing.assert_array_equal(column(lambda s: s.label("y")[1]), known)
    values = np.asarray(graph.nodes["label:y"].fill_null(0))
    np.testing.assert_array_equal(column(lambda s: s.label("y")[0])[known], values[known])
    in_degree = np.bincount(graph.dst, minlength=graph.num_nodes)
    np.testing.assert_array_equal(column(lambda s: s.node_column("in_degree")), in_degree)


def edges_of(shard: Shard) -> NDArray[np.int64]:
    """Return (edge_key, src, dst) of the edges held, in node keys."""
    topology = shard.topology
    row_E = np.repeat(np.arange(len(topology.indptr) - 1), np.diff(topology.indptr))
    src = shard.node_key_L[topology.src.numpy()]
    return np.stack([topology.edge_key.numpy(), src, shard.node_key_L[row_E]], axis=1)


@pytest.mark.parametrize(("workers", "method"), PARTITIONS)
def test_every_edge_is_held_once(workers: int, method: str, graph: Graph) -> None:
    def work(shard: Shard) -> tuple[NDArray[np.int64], NDArray[Any]]:
        edges = edges_of(shard)
        rows = shard.topology.indptr
        assert shard.num_edges == len(edges) == rows[-1]
        for first, last in itertools.pairwise(rows):
            assert (np.diff(edges[first:last, 0]) > 0).all()  # sorted by edge_key
        return edges, shard.edge_columns["attr"].numpy().copy()

    edges, attr = map(np.concatenate, zip(*on_all(graph, workers, work, method), strict=True))
    order = np.argsort(edges[:, 0])
    want = np.stack([np.arange(graph.num_edges), graph.src, graph.dst], axis=1)
    np.testing.assert_array_equal(edges[order], want)
    np.testing.assert_array_equal(attr[order], graph.column("attr"))


@pytest.mark.parametrize(("workers", "method"), PARTITIONS)
def test_degrees_and_means_are_those_of_the_whole_graph(
    workers: int, method: str, graph: Graph
) -> None:
    N, proper = graph.num_nodes, graph.src != graph.dst
    degree = np.bincount(graph.dst[proper], minlength=N)
    np.testing.assert_array_equal(
        by_key(graph, workers, lambda s: s.loopless_in_degree, method), degree
    )
    by_type = np.zeros((N, 5), np.int64)
    np.add.at(by_type, (graph.dst, graph.column("type")), 1)
    np.testing.assert_array_equal(
        by_key(graph, workers, lambda s: s.in_degree_by_type, method), by_type
    )
    total = np.zeros((N, 2))
    np.add.at(total, graph.dst[proper], graph.column("attr")[proper])
    np.testing.assert_allclose(
        by_key(graph, workers, lambda s: s.loop_column("attr"), method),
        total / np.maximum(degree, 1)[:, None],
        rtol=1e-12,
    )


@pytest.mark.parametrize(("workers", "method"), PARTITIONS)
def test_loopless_topology_leaves_self_loops_out(workers: int, method: str, graph: Graph) -> None:
    def work(shard: Shard) -> NDArray[np.int64]:
        whole, topology = edges_of(shard), shard.loopless_topology
        position = np.arange(len(whole)) if topology.position is None else topology.position
        kept = whole[np.asarray(position)]
        row_E = np.repeat(np.arange(len(topology.indptr) - 1), np.diff(topology.indptr))
        np.testing.assert_array_equal(shard.node_key_L[row_E], kept[:, 2])
        np.testing.assert_array_equal(shard.node_key_L[topology.src.numpy()], kept[:, 1])
        return kept

    kept = np.concatenate(on_all(graph, workers, work, method))
    proper = np.flatnonzero(graph.src != graph.dst)
    np.testing.assert_array_equal(np.sort(kept[:, 0]), proper)


@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_merged_parts_are_one_shard(workers: int, store: Store, graph: Graph) -> None:
    method = store.manifest.method
    np.testing.assert_array_equal(by_key(store, workers, lambda s: s.features), graph.features)
    edges = np.concatenate(on_all(store, workers, edges_of, method))
    want = np.stack([np.arange(graph.num_edges), graph.src, graph.dst], axis=1)
    np.testing.assert_array_equal(edges[np.argsort(edges[:, 0])], want)
    degree = np.bincount(graph.dst[graph.src != graph.dst], minlength=graph.num_nodes)
    np.testing.assert_array_equal(by_key(store, workers, lambda s: s.loopless_in_degree), degree)
    ids = on_all(store, workers, lambda s: s.original_ids.to_pylist(), method)
    assert sorted(itertools.chain.from_iterable(ids)) == sorted(graph.nodes["id"].to_pylist())


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(("edges", "rows"), [(1, 1), (7, 1 << 20), (1 << 21, 5)])
def test_parts_are_merged_some_rows_at_a_time(
    workers: int,
    edges: int,
    rows: int,
    store: Store,
    graph: Graph,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merged_edges, "_CHUNK_EDGES", edges)
    monkeypatch.setattr(merged_edges, "_CHUNK_ROWS", rows)

    def check(shard: Shard) -> int:
        edge, indptr = shard.edge_key, shard.in_edges.indptr
        row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        assert (np.diff(edge) > 0)[np.diff(row) == 0].all(), "a row's edges are in order"
        np.testing.assert_array_equal(shard.node_key_L[row], graph.dst[edge])
        np.testing.assert_array_equal(shard.node_key_L[shard.in_edges.other], graph.src[edge])
        for name in ("attr", "type"):
            np.testing.assert_array_equal(shard.edge_columns[name], graph.column(name)[edge])
        back = shard.out_edges
        source = np.repeat(np.arange(back.num_rows), np.diff(back.indptr))
        np.testing.assert_array_equal(shard.in_edges.other[back.position], source)
        np.testing.assert_array_equal(row[back.position], back.other)
        return len(edge)

    counts = on_all(store, workers, check, store.manifest.method)
    assert sum(counts) == graph.num_edges


@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_plans_of_two_ranks_agree(workers: int, store: Store) -> None:
    shards = on_all(store, workers, lambda shard: shard, store.manifest.method)
    for shard in shards:
        plan, M = shard.plan, shard.num_masters
        mirror_keys = shard.node_key_L[M:]
        assert (plan.owner_H != shard.comm.rank).all()
        assert (np.diff(plan.owner_H) >= 0).all()
        assert plan.num_mirrors == shard.num_mirrors == len(mirror_keys)
        used = np.zeros(M + len(mirror_keys), np.bool_)
        used[shard.topology.src.numpy()] = True
        np.testing.assert_array_equal((plan.role_H & Role.SOURCE) > 0, used[M:])
        for other in shards:
            mine = plan.owner_H == other.comm.rank
            theirs = other.plan.peer_X == shard.comm.rank
            # The n-th row that one sends is the n-th that the other expects, in the same role.
            np.testing.assert_array_equal(
                other.node_key_L[other.plan.master_X[theirs]], mirror_keys[mine]
            )
            np.testing.assert_array_equal(other.plan.peer_role_X[theirs], plan.role_H[mine])


def test_edge_cut_has_no_in_edges_at_mirrors(graph: Graph) -> None:
    for method, is_vertex_cut in (("node-hash", False), ("dbh", True)):
        for shard in on_all(graph, 3, lambda shard: shard, method):
            assert shard.is_vertex_cut == is_vertex_cut
            rows = shard.num_masters + is_vertex_cut * shard.num_mirrors
            assert len(shard.topology.indptr) == rows + 1
            assert bool(len(shard.plan.destinations.mirror_R)) == is_vertex_cut
    assert not gt.open_shard(graph, method="dbh").is_vertex_cut


def test_shard_knows_sizes_of_the_whole_graph(graph: Graph) -> None:
    def work(shard: Shard) -> tuple[int, ...]:
        return (
            shard.num_features,
            shard.num_classes,
            shard.num_edge_types,
            shard.edge_dim,
            shard.num_outputs("score"),
        )

    assert on_all(graph, 7, work, "dbh") == [(3, 4, 5, 2, 1)] * 7


@pytest.mark.parametrize("workers", [1, 2])
def test_repr_shows_sizes_and_reads_no_column(
    workers: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(shard: Shard) -> tuple[str, Shard]:
        with monkeypatch.context() as patch:
            patch.setattr("graphtheta.shard.columns.as_numpy", None)
            patch.setattr(merged_edges.MergedColumns, "__getitem__", None)
            return repr(shard), shard

    for rank, (text, shard) in enumerate(on_all(store, workers, show, store.manifest.method)):
        assert text == (
            f"Shard(rank={rank}/{workers}, masters={shard.num_masters}, "
            f"mirrors={shard.num_mirrors}, edges={shard.num_edges}, features=3, "
            "labels=['y', 'score'], device='cpu')"
        )
        assert shard.num_features == shard.features.shape[1]
        assert shard.edge_dim == shard.edge_columns["attr"].shape[1]


def bare(labels: dict[str, Any]) -> Shard:
    nodes = pa.table({"id": pa.array(range(3)), **labels})
    return gt.open_shard(Graph.from_arrow(nodes, pa.table({"src": [0, 1], "dst": [1, 2]})))


def test_graph_without_columns_opens() -> None:
    shard = bare({})
    assert shard.features.shape == (3, 0)
    assert shard.edge_columns == {}


def test_default_label_is_y_or_the_only_one() -> None:
    classes = pa.array([0, 1, 2])
    assert bare({"label:kind": classes}).default_label == "kind"
    assert bare({"label:kind": classes, "label:y": classes}).default_label == "y"
    assert bare({"label:yes": pa.array([True, False, True])}).num_outputs("yes") == 1


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (
            lambda s: s.default_label,
            "a label of nodes, got none. Name a column",
        ),
        (
            lambda s: s.label("y"),
            "label of nodes .*: expected none, as the graph has none",
        ),
        (lambda s: s.split("split"), "split of nodes .*: expected none, as the graph has none"),
        (lambda s: s.num_edge_types, "no 'type' column. Partition it with --edge-type"),
        (lambda s: s.edge_dim, "no 'attr' column. Partition it with --edge-features"),
        (lambda s: s.node_column("x"), "node column: expected one of .*got 'x'"),
        (lambda s: s.in_degree_by_type, "no 'type' column"),
    ],
)
def test_shard_raises_config_error_when_it_is_not_there(
    read: Callable[[Shard], Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(bare({}))


def test_loop_column_raises_config_error_when_it_has_no_mean(graph: Graph) -> None:
    with pytest.raises(ConfigError, match=r"a self-loop has no 'type', which is torch\.int64"):
        gt.open_shard(graph).loop_column("type")


def test_open_shard_raises_config_error_when_workers_do_not_divide_parts(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"4 workers do not divide the 6 parts.*--parts 4"):
        on_all(store, 4, lambda shard: None, "node-hash")


def test_open_shard_takes_a_path(store: Store, graph: Graph) -> None:
    for path in (store.path, str(store.path)):
        assert gt.open_shard(path).num_masters == graph.num_nodes


def test_open_shard_adds_reverses() -> None:
    graph = to_graph(CORNER_GRAPHS["path"])
    shard = gt.open_shard(graph, undirected=True)
    assert shard.num_edges == 2 * graph.num_edges


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8, np.bool_])
def test_as_tensor_shares_memory(dtype: type) -> None:
    for rows in (0, 5):
        array = np.ones((rows, 2), dtype)
        tensor = as_tensor(array)
        assert tensor.shape == array.shape
        array.flags.writeable = False
        frozen = as_tensor(array)
        if rows:
            assert tensor.data_ptr() == frozen.data_ptr() == array.ctypes.data
    kept = as_tensor(frozen.numpy())
    del array, frozen, tensor
    assert kept.sum() == 10  # the memory lives as long as the tensor


def test_single_part_is_mapped_not_copied(graph: Graph, tmp_path: Path) -> None:
    store = make_store(graph, tmp_path / "store", Plan(1, "node-hash"))
    shard = gt.open_shard(store)
    assert shard.edge_columns["attr"].dtype == torch.float64
    x = shard.features
    x[0] = 7.0  # private pages: the file stays as it is
    assert (gt.open_shard(tmp_path / "store").features[0] != 7.0).all()
