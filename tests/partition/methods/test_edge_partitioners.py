"""Vertex-cut methods: properties that all of them share, and those of each method."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.errors import PartitionError
from graphtheta.partition.core.edge_blocks import NO_CAP, EdgeBlocks, edge_cap, part_order
from graphtheta.partition.core.partitioner import Balance, EdgePartitioner, PartitionJob
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgesInMemory
from graphtheta.partition.core.stream_clusters import pack
from graphtheta.partition.methods.dbh import DegreeBasedHashing
from graphtheta.partition.methods.edge_hash import EdgeHash
from graphtheta.partition.methods.grid import Grid
from graphtheta.partition.methods.hdrf import HighDegreeReplicatedFirst
from graphtheta.partition.methods.hep import HybridEdgePartitioner
from graphtheta.partition.methods.two_phase import TwoPhaseStreaming
from graphtheta.rng.philox import Purpose, hash_keys
from tests.graphs import CORNER_GRAPHS, CornerGraph, power_law, random_graph

Parts = NDArray[np.int32]

SMALL = EdgeBlocks(batch_size=32, num_blocks=4)  # many batches on small graphs
LARGE = EdgeBlocks(batch_size=8192, num_blocks=6)
GREEDY: dict[str, Callable[[], EdgePartitioner]] = {
    "hdrf": lambda: HighDegreeReplicatedFirst(blocks=SMALL),
    "2ps-l": lambda: TwoPhaseStreaming(blocks=SMALL),
    "hep": lambda: HybridEdgePartitioner(tau=1.0, blocks=SMALL),
}
METHODS: dict[str, Callable[[], EdgePartitioner]] = {
    "edge-hash": EdgeHash,
    "dbh": DegreeBasedHashing,
    "grid": Grid,
    **GREEDY,
}
CLIQUES = np.array(
    [(i + a, j + a) for i in range(12) for j in range(i) for a in (0, 12)] + [(0, 12)], np.int32
)


def place(
    corner: CornerGraph,
    num_parts: int,
    method: EdgePartitioner,
    *,
    ranks: int = 1,
    threads: int = 1,
    seed: int = 0,
    limit: float | None = None,
    dtype: type[np.signedinteger] = np.int32,
) -> Parts:
    """Return the part of every edge; check that each edge gets exactly one."""
    num_nodes, src, dst = corner
    ends = src.astype(dtype), dst.astype(dtype)
    for end in ends:
        end.flags.writeable = False  # as a memory map is
    stream = EdgesInMemory(num_nodes, *ends)
    parts = np.full(len(src), -1, np.int32)
    times = np.zeros(len(src), np.int64)
    lock = threading.Lock()

    def work(comm: Communicator) -> None:
        resources = Resources(comm=comm, threads=threads)
        balance = Balance(edges=limit)
        for first, some in method(PartitionJob(stream, num_parts, seed, balance, resources)):
            assert some.dtype == np.int32
            with lock:
                parts[first : first + len(some)] = some
                times[first : first + len(some)] += 1

    run_local(work, ranks, timeout_s=60)
    assert (times == 1).all()
    assert ((parts >= 0) & (parts < num_parts)).all()
    return parts


def replication_factor(corner: CornerGraph, parts: Parts) -> float:
    """Return the number of replicas per node with an edge."""
    num_nodes, src, dst = corner
    keys = np.concatenate([src, dst]) + num_nodes * np.concatenate([parts, parts]).astype(np.int64)
    return len(np.unique(keys)) / len(np.unique(keys % num_nodes))


# -- all methods ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_name_is_the_key_in_the_registry(name: str) -> None:
    method = METHODS[name]()
    assert method.name == name
    assert method.cut == "vertex"
    assert method.balances == ({"edges"} if name in GREEDY else frozenset())
    assert 0 <= method.memory(1000, 5000, 4) <= method.memory(1000, 5000, 400)


@pytest.mark.parametrize("graph", CORNER_GRAPHS)
@pytest.mark.parametrize("name", METHODS)
def test_ranks_do_not_change_the_result_on_corner_graphs(name: str, graph: str) -> None:
    corner = CORNER_GRAPHS[graph]
    for num_parts in (1, 2, 7, 70):
        alone = place(corner, num_parts, METHODS[name]())
        for ranks in (2, 3):
            together = place(corner, num_parts, METHODS[name](), ranks=ranks)
            np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    "method",
    [
        EdgeHash(),
        DegreeBasedHashing(),
        Grid(),
        HighDegreeReplicatedFirst(blocks=LARGE),
        TwoPhaseStreaming(blocks=LARGE),
        HybridEdgePartitioner(tau=2.0, blocks=LARGE),
    ],
    ids=lambda method: str(method.name),
)
def test_ranks_and_threads_do_not_change_the_result(method: EdgePartitioner) -> None:
    corner = power_law(3000, 150_000)  # threads share batches of 4096 edges or more
    alone = place(corner, 33, method)
    for ranks, threads in ((1, 2), (1, 5), (3, 2)):
        together = place(corner, 33, method, ranks=ranks, threads=threads)
        np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("name", METHODS)
def test_dtype_of_keys_does_not_change_the_result(name: str) -> None:
    corner = random_graph(50, 400)
    narrow, wide = (place(corner, 5, METHODS[name](), dtype=kind) for kind in (np.int32, np.int64))
    np.testing.assert_array_equal(narrow, wide)


@pytest.mark.parametrize("name", METHODS)
def test_seed_changes_the_result(name: str) -> None:
    corner = random_graph(300, 1500)
    first, again, other = (place(corner, 4, METHODS[name](), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("name", METHODS)
def test_edges_are_balanced(name: str) -> None:
    counts = np.bincount(place(random_graph(4000, 16000), 7, METHODS[name](), limit=None))
    assert counts.max() < 1.1 * 16000 / 7


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"edge-hash"}))
def test_state_above_the_memory_limit_is_refused(name: str) -> None:
    stream = EdgesInMemory(1000, *np.zeros((2, 10), np.int32))
    resources = Resources(memory_limit=100)
    with pytest.raises(PartitionError, match=r"memory limit .* Use the method"):
        list(METHODS[name]()(PartitionJob(stream, 2, resources=resources)))


@pytest.mark.parametrize("name", METHODS)
def test_fewer_replicas_than_a_random_assignment(name: str) -> None:
    corner = power_law(5000, 50_000)
    replicas = replication_factor(corner, place(corner, 16, METHODS[name]()))
    at_random = replication_factor(corner, place(corner, 16, EdgeHash()))
    share = {"edge-hash": 1.0, "grid": 0.8, "dbh": 0.75, "2ps-l": 0.75, "hdrf": 0.6, "hep": 0.6}
    assert replicas <= share[name] * at_random


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [*CORNER_GRAPHS, "hub"])
@pytest.mark.parametrize("name", GREEDY)
def test_limit_of_edges_is_kept(name: str, graph: str) -> None:
    hub = 2000, np.zeros(5000, np.int64), np.arange(5000) % 2000
    corner = hub if graph == "hub" else CORNER_GRAPHS[graph]
    for num_parts in (2, 7):
        for limit in (1.0, 1.1):
            parts = place(corner, num_parts, METHODS[name](), limit=limit)
            assert np.bincount(parts, minlength=1).max() <= edge_cap(limit, len(parts), num_parts)


def test_clusters_without_room_fall_back() -> None:
    # All edges join the same two nodes, which are in one cluster and therefore in one part.
    corner = 2, np.zeros(1000, np.int64), np.ones(1000, np.int64)
    counts = np.bincount(place(corner, 4, TwoPhaseStreaming(cluster_volume=9.0)))
    assert counts.max() <= 263  # 1.05 of the mean, rounded up
    assert counts.sum() == 1000


def test_cap_is_exact() -> None:
    assert edge_cap(1.1, 10, 1) == 11  # and not 12, by the rounding of 1.1 * 10
    assert edge_cap(1.0, 10, 3) == 4
    assert edge_cap(0.5, 10, 3) == 4
    assert edge_cap(1.05, 1000, 4) == Fraction("262.5") + Fraction(1, 2)
    assert edge_cap(None, 10, 3) == NO_CAP


# -- hashes ----------------------------------------------------------------------------------------


def test_edge_hash_is_the_hash_of_both_endpoints() -> None:
    num_nodes, src, dst = random_graph(30, 200)
    pair = hash_keys(src, 5, Purpose.PLACEMENT) + dst.astype(np.uint64)
    expected = hash_keys(pair.view(np.int64), 5, Purpose.PLACEMENT) % np.uint64(6)
    np.testing.assert_array_equal(place((num_nodes, src, dst), 6, EdgeHash(), seed=5), expected)


def test_dbh_uses_the_lower_degree_then_the_lower_key() -> None:
    # Degrees: 0 has 3, 1 and 2 have 2, 3 has 3 by its self-loop.
    edges = np.array([(0, 1), (2, 0), (2, 1), (0, 3), (3, 3)])
    deciding = np.array([1, 2, 1, 0, 3])
    expected = hash_keys(deciding, 0, Purpose.PLACEMENT) % np.uint64(50)
    found = place((4, edges[:, 0], edges[:, 1]), 50, DegreeBasedHashing())
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("num_parts", "most"), [(1, 1), (2, 2), (4, 3), (5, 4), (7, 5), (12, 6), (13, 7), (16, 7)]
)
def test_grid_bounds_the_replicas_of_a_node(num_parts: int, most: int) -> None:
    corner = random_graph(60, 20_000)
    parts = place(corner, num_parts, Grid())
    for node in range(60):
        assert len(np.unique(parts[(corner[1] == node) | (corner[2] == node)])) <= most
    spread = random_graph(20_000, 40_000)
    counts = np.bincount(place(spread, num_parts, Grid()), minlength=num_parts)
    assert counts.max() < 1.1 * 40_000 / num_parts


# -- greedy methods --------------------------------------------------------------------------------


def sequential_hdrf(corner: CornerGraph, num_parts: int, weight: float) -> list[int]:
    """Score every part for every edge, one edge after another."""
    num_nodes, src, dst = corner
    degree = np.bincount(np.concatenate([src, dst]), minlength=num_nodes)
    held: list[set[int]] = [set() for _ in range(num_nodes)]
    loads, chosen = [0] * num_parts, []
    for u, v in zip(src.tolist(), dst.tolist(), strict=True):
        total = float(degree[u] + degree[v])
        unit = weight / (1.0 + max(loads) - min(loads))

        def score(part: int, u: int = u, v: int = v, total: float = total) -> float:
            if part in held[u] and part in held[v]:
                return 3.0
            return (part in held[u]) * (1.0 + float(degree[v]) / total) + (part in held[v]) * (
                1.0 + float(degree[u]) / total
            )

        scores = [score(part) + unit * (max(loads) - loads[part]) for part in range(num_parts)]
        best = min(range(num_parts), key=lambda part: (-scores[part], loads[part], part))
        chosen.append(best)
        loads[best] += 1
        held[u].add(best)
        held[v].add(best)
    return chosen


@pytest.mark.parametrize(("num_parts", "weight"), [(3, 1.1), (9, 1.1), (9, 0.3), (70, 4.0)])
def test_hdrf_in_batches_of_one_edge_equals_the_paper(num_parts: int, weight: float) -> None:
    corner = power_law(150, 900)
    method = HighDegreeReplicatedFirst(balance_weight=weight, blocks=EdgeBlocks(batch_size=1))
    expected = part_order(num_parts, 0)[sequential_hdrf(corner, num_parts, weight)]
    np.testing.assert_array_equal(place(corner, num_parts, method), expected)


def test_hdrf_in_blocks_makes_few_more_replicas() -> None:
    corner = power_law(4000, 40_000)
    one_by_one, in_blocks = (
        replication_factor(corner, place(corner, 16, HighDegreeReplicatedFirst(blocks=blocks)))
        for blocks in (EdgeBlocks(batch_size=1), EdgeBlocks())
    )
    assert in_blocks < 1.03 * one_by_one


@pytest.mark.parametrize(
    "method", [TwoPhaseStreaming(cluster_volume=1.0), HybridEdgePartitioner(tau=10.0)]
)
def test_cliques_stay_whole(method: EdgePartitioner) -> None:
    cliques = 24, *CLIQUES.T.astype(np.int64)
    assert replication_factor(cliques, place(cliques, 2, method)) <= 25 / 24


def test_hep_without_hubs_grows_parts_over_all_edges() -> None:
    corner = random_graph(2000, 10_000)
    counts = np.bincount(place(corner, 7, HybridEdgePartitioner(tau=1e9)), minlength=7)
    assert counts.max() <= -(-10_000 // 7)


def test_hep_without_room_for_edges_advises_a_lower_tau() -> None:
    _, src, dst = random_graph(50, 5000)
    stream = EdgesInMemory(50, src.astype(np.int32), dst.astype(np.int32))
    resources = Resources(memory_limit=20_000)
    with pytest.raises(PartitionError, match="Lower tau, which is 10"):
        list(HybridEdgePartitioner()(PartitionJob(stream, 2, resources=resources)))


def test_clusters_are_packed_by_descending_volume() -> None:
    parts = pack(np.array([0, 5, 3, 9, 3, 0, 4]), 2)
    np.testing.assert_array_equal(parts, [0, 1, 0, 0, 1, 0, 1])
