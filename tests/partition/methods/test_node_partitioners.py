"""Edge-cut methods: properties that all of them share, balance, memory and quality."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.errors import ConfigError, PartitionError
from graphtheta.partition.core.capacity import node_capacities
from graphtheta.partition.core.neighbour_lists import build_neighbour_lists
from graphtheta.partition.core.node_blocks import NodeBlocks
from graphtheta.partition.core.partitioner import Balance, NodePartitioner, PartitionJob
from graphtheta.partition.core.rebalance import rebalance
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgesInMemory, EdgeStream
from graphtheta.partition.methods.balanced_lpa import BalancedLabelPropagation
from graphtheta.partition.methods.kaminpar import KaMinPar
from graphtheta.partition.methods.ldg_fennel import Fennel, LinearDeterministicGreedy
from graphtheta.partition.methods.metis import Metis
from graphtheta.partition.methods.node_hash import NodeHash
from graphtheta.partition.methods.range import Range
from graphtheta.rng.philox import Purpose, hash_keys
from tests.graphs import CORNER_GRAPHS, CornerGraph, power_law, random_graph

SMALL = NodeBlocks(block_size=8, max_blocks=4, growth=2)  # many batches on small graphs
GREEDY = {
    "ldg": LinearDeterministicGreedy,
    "fennel": Fennel,
    "lpa": BalancedLabelPropagation,
}
METHODS: dict[str, NodePartitioner] = {
    "node-hash": NodeHash(),
    "range": Range(),
    "ldg": LinearDeterministicGreedy(blocks=SMALL),
    "fennel": Fennel(blocks=SMALL),
    "lpa": BalancedLabelPropagation(blocks=SMALL),
    "kaminpar": KaMinPar(),
    "metis": Metis(),
}


def stream_of(corner: CornerGraph) -> EdgesInMemory:
    num_nodes, src, dst = corner
    return EdgesInMemory(num_nodes, src.astype(np.int32), dst.astype(np.int32))


def place(
    method: NodePartitioner,
    corner: CornerGraph,
    num_parts: int,
    *,
    seed: int = 0,
    balance: Balance | None = None,
    workers: int = 1,
    threads: int = 1,
    memory_limit: int | None = None,
) -> NDArray[np.int32]:
    """Return the parts of all nodes; check that every rank returns the same."""
    stream = stream_of(corner)
    results: list[NDArray[np.int32]] = []
    lock = threading.Lock()

    def work(comm: Communicator) -> None:
        resources = Resources(comm, threads, memory_limit)
        parts = method(PartitionJob(stream, num_parts, seed, balance or Balance(), resources))
        with lock:
            results.append(parts)

    run_local(work, workers, timeout_s=60)
    for parts in results:
        np.testing.assert_array_equal(parts, results[0])
    return results[0]


def communities(num_groups: int, size: int, degree: int, seed: int = 0) -> CornerGraph:
    """Return a graph with 80 % of the edges inside groups and shuffled node keys."""
    rng = np.random.default_rng(seed)
    num_nodes = num_groups * size
    src = rng.integers(0, num_nodes, num_nodes * degree)
    dst = rng.integers(0, num_nodes, src.shape[0])
    inside = rng.random(src.shape[0]) < 0.8
    dst[inside] = src[inside] // size * size + rng.integers(0, size, inside.sum())
    key = rng.permutation(num_nodes)
    return num_nodes, key[src], key[dst]


def cut(corner: CornerGraph, parts: NDArray[np.int32]) -> float:
    return float(np.mean(parts[corner[1]] != parts[corner[2]]))


def keeps(
    limit: float, parts: NDArray[np.int32], num_parts: int, weights: NDArray[Any] | None = None
) -> bool:
    """Return whether the largest part is within limit times the mean, rounded up."""
    weights = np.ones(parts.shape[0]) if weights is None else weights
    most = np.ceil(limit * weights.sum() / num_parts - 1e-9)
    return bool(np.bincount(parts, weights, num_parts).max() <= most)


def in_degree(corner: CornerGraph) -> NDArray[np.int64]:
    return np.bincount(corner[2], minlength=corner[0])


# -- all methods ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_name_is_the_key_in_the_registry(method: str) -> None:
    partitioner = METHODS[method]
    assert partitioner.name == method
    assert partitioner.cut == "edge"
    assert partitioner.memory(1000, 9000, 4) >= 4000


@pytest.mark.parametrize("name", CORNER_GRAPHS)
@pytest.mark.parametrize("method", METHODS)
def test_ranks_and_threads_do_not_change_the_result(method: str, name: str) -> None:
    corner = CORNER_GRAPHS[name]
    for num_parts in {1, min(2, corner[0]), corner[0]}:
        alone = place(METHODS[method], corner, num_parts)
        assert alone.dtype == np.int32
        assert alone.shape == (corner[0],)
        assert ((alone >= 0) & (alone < num_parts)).all()
        for workers, threads in ((1, 2), (2, 1), (3, 2)):
            together = place(METHODS[method], corner, num_parts, workers=workers, threads=threads)
            np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("method", ["range", *GREEDY])
def test_ranks_and_threads_do_not_change_the_result_with_limits(method: str) -> None:
    corner = power_law(400, 3000)
    limits = {"edges": 3.0}
    if method != "range":
        limits |= {"nodes": 1.1, "train": 1.2, "types": 1.1}
    counts = {"a": 100, "b": 300}
    balance = Balance(**limits, is_train=np.arange(400) % 3 == 0, type_counts=counts)
    alone = place(METHODS[method], corner, 3, balance=balance)
    for workers, threads in ((1, 3), (2, 2), (3, 1), (7, 1)):
        together = place(
            METHODS[method], corner, 3, balance=balance, workers=workers, threads=threads
        )
        np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("method", METHODS)
def test_seed_decides_the_result(method: str) -> None:
    corner = random_graph(300, 1500)
    first, again, other = (place(METHODS[method], corner, 4, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() == (method != "range")


@pytest.mark.parametrize("method", METHODS)
def test_accepts_64_bit_keys_and_read_only_edges(method: str) -> None:
    num_nodes, src, dst = random_graph(60, 300)
    src.flags.writeable = dst.flags.writeable = False
    wide: EdgeStream = EdgesInMemory(num_nodes, src, dst)
    parts = METHODS[method](PartitionJob(wide, 3))
    np.testing.assert_array_equal(parts, place(METHODS[method], (num_nodes, src, dst), 3))


def test_node_hash_is_a_hash_of_the_key() -> None:
    hashes = hash_keys(np.arange(50), 7, Purpose.PLACEMENT)
    parts = place(NodeHash(), random_graph(50, 10), 6, seed=7)
    np.testing.assert_array_equal(parts, hashes % np.uint64(6))


# -- balance --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["range", *GREEDY, "kaminpar", "metis"])
@pytest.mark.parametrize("what", ["nodes", "edges", "train"])
def test_keeps_one_limit(method: str, what: Any) -> None:
    if what not in METHODS[method].balances:
        pytest.skip(f"{method} does not balance {what}")
    corner = random_graph(2000, 16000, seed=3)
    is_train = np.arange(2000) % 7 == 0
    balance = Balance(**{what: 1.01}, is_train=is_train)
    parts = place(METHODS[method], corner, 5, balance=balance)
    weights = {"nodes": None, "edges": in_degree(corner), "train": is_train}[what]
    assert keeps(1.01, parts, 5, weights)


@pytest.mark.parametrize("method", GREEDY)
@pytest.mark.parametrize("blocks", [SMALL, NodeBlocks()])
def test_keeps_all_limits_together(method: str, blocks: NodeBlocks) -> None:
    corner = power_law(3000, 24000, seed=1)
    is_train = hash_keys(np.arange(3000), 0, Purpose.SPLIT) % np.uint64(10) < 2
    balance = Balance(1.05, 1.1, 1.05, is_train)
    parts = place(GREEDY[method](blocks=blocks), corner, 3, balance=balance)
    assert keeps(1.05, parts, 3)
    assert keeps(1.1, parts, 3, in_degree(corner))
    assert keeps(1.05, parts, 3, is_train)


@pytest.mark.parametrize("limit", [0.5, float("nan")])
@pytest.mark.parametrize("what", ["nodes", "train"])
def test_limits_below_1_are_refused(what: str, limit: float) -> None:
    with pytest.raises(ConfigError, match=f"--balance-{what}.: expected a limit from 1"):
        Balance(**{what: limit})


@pytest.mark.parametrize("method", GREEDY)
def test_nodes_are_balanced_by_default_and_loosely_with_other_limits(method: str) -> None:
    corner = power_law(3000, 24000)
    assert keeps(1.05, place(METHODS[method], corner, 4), 4)
    parts = place(METHODS[method], corner, 3, balance=Balance(edges=1.1))
    assert keeps(1.5, parts, 3)
    parts = place(METHODS[method], corner, 3, balance=Balance(nodes=1.0))
    assert np.bincount(parts).tolist() == [1000, 1000, 1000]


@pytest.mark.parametrize("method", [*GREEDY, "kaminpar", "metis"])
def test_a_node_too_heavy_for_any_part_is_an_error(method: str) -> None:
    with pytest.raises(PartitionError, match=r"key 0, which an edge-cut.*Raise edges to 4,"):
        place(METHODS[method], CORNER_GRAPHS["star_in"], 4, balance=Balance(edges=1.5))
    parts = place(METHODS[method], CORNER_GRAPHS["star_in"], 4, balance=Balance(edges=4))
    assert parts.shape == (9,)


def test_ranges_that_cannot_keep_a_limit_are_an_error() -> None:
    with pytest.raises(PartitionError, match=r"edges=1.5 for 4 parts, got 4 at best"):
        place(Range(), CORNER_GRAPHS["star_in"], 4, balance=Balance(edges=1.5))


@pytest.mark.parametrize("method", ["range", "kaminpar", "metis"])
def test_methods_that_support_one_limit_refuse_several(method: str) -> None:
    with pytest.raises(PartitionError, match=f"one balance limit for {method}, got 2"):
        place(METHODS[method], random_graph(9, 9), 2, balance=Balance(nodes=1.1, edges=1.1))


def test_ranges_are_consecutive_and_follow_what_is_balanced() -> None:
    corner = (6, np.array([1, 2, 3, 4]), np.array([0, 0, 0, 5]))
    is_train = np.array([0, 0, 0, 0, 1, 1], np.bool_)
    for balance, expected in (
        (Balance(), [0, 0, 0, 1, 1, 1]),
        (Balance(edges=2.0), [0, 1, 1, 1, 1, 1]),
        (Balance(train=1.0, is_train=is_train), [0, 0, 0, 0, 0, 1]),
    ):
        assert place(Range(), corner, 2, balance=balance).tolist() == expected


def test_ranges_fill_up_where_equal_sums_break_the_limit() -> None:
    # In-degrees 3 5 5 3: cuts at thirds make a part of 10.
    dst = np.repeat([0, 1, 2, 3], [3, 5, 5, 3])
    parts = place(Range(), (4, np.zeros(16, np.int64), dst), 3, balance=Balance(edges=1.5))
    assert keeps(1.5, parts, 3, np.array([3, 5, 5, 3]))


def test_rebalance_moves_nodes_of_high_key_out_of_full_parts() -> None:
    stream = stream_of(random_graph(40, 100))
    capacities = node_capacities(PartitionJob(stream, 4, 0, Balance(nodes=1.0), Resources()))
    parts = np.zeros(40, np.int32)
    rebalance(parts, 4, capacities)
    assert np.bincount(parts).tolist() == [10, 10, 10, 10]
    assert (parts[:10] == 0).all()


def test_a_limit_that_cannot_be_kept_is_an_error() -> None:
    corner = (4, np.zeros(8, np.int64), np.repeat([0, 1, 2], [3, 3, 2]))
    with pytest.raises(PartitionError, match=r"limit edges=1, got 1.25"):
        place(METHODS["ldg"], corner, 2, balance=Balance(edges=1.0))


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*GREEDY, "kaminpar", "metis"])
@pytest.mark.parametrize("workers", [1, 2])
def test_state_above_the_memory_limit_is_refused_with_a_remedy(method: str, workers: int) -> None:
    corner = random_graph(1000, 8000)
    with pytest.raises(PartitionError, match=r"memory limit of .* estimate of .*node-hash or dbh"):
        place(METHODS[method], corner, 2, memory_limit=30_000, workers=workers)
    place(METHODS["node-hash"], corner, 2, memory_limit=30_000)


def test_work_space_of_multilevel_methods_is_counted() -> None:
    corner = random_graph(1000, 8000)
    with pytest.raises(PartitionError, match=r"metis with .* pairs of neighbours"):
        place(Metis(), corner, 2, memory_limit=1_000_000, workers=2)
    place(KaMinPar(), corner, 2, memory_limit=1_000_000)


def test_ranks_share_the_neighbour_lists_of_greedy_methods() -> None:
    blocks = NodeBlocks(block_size=10, max_blocks=4, growth=1)
    rows: list[NDArray[np.bool_]] = []
    lock = threading.Lock()

    def work(comm: Communicator) -> None:
        mine = blocks.nodes_of_rank(1000, 0, comm)
        assert mine is not None
        with lock:
            rows.append(mine)

    run_local(work, 3)
    assert (np.sum(rows, axis=0) == 1).all()
    assert max(each.sum() for each in rows) < 600


def test_neighbour_lists_are_undirected_and_simple_on_request() -> None:
    stream = stream_of(CORNER_GRAPHS["parallel_edges"])
    every = build_neighbour_lists(stream, Resources())
    assert every.indptr.tolist() == [0, 4, 10, 12]
    for threads in (1, 2):
        simple = build_neighbour_lists(stream, Resources(threads=threads), simple=True)
        assert simple.indptr.tolist() == [0, 1, 3, 4]
        assert simple.neighbours.tolist() == [1, 0, 2, 1]
        assert simple.neighbours.dtype == np.int32
    some = build_neighbour_lists(stream, Resources(), nodes_N=np.array([True, False, True]))
    assert some.indptr.tolist() == [0, 4, 4, 6]


# -- quality --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*GREEDY, "kaminpar", "metis"])
def test_two_cliques_are_separated(method: str) -> None:
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    edges = np.array([*pairs, *((i + 12, j + 12) for i, j in pairs), (0, 12)], np.int64)
    parts = place(METHODS[method], (24, edges[:, 0], edges[:, 1]), 2)
    crossing = np.count_nonzero(parts[edges[:, 0]] != parts[edges[:, 1]])
    # A streaming method does not know the second clique when it assigns the first.
    assert crossing == 1 if method in ("kaminpar", "metis") else crossing < len(edges) / 2


@pytest.mark.parametrize("method", GREEDY)
def test_communities_are_kept_together(method: str) -> None:
    corner = communities(64, 32, 10)
    parts = place(METHODS[method], corner, 8)
    assert cut(corner, place(NodeHash(), corner, 8)) > 0.85
    assert cut(corner, parts) < 0.4  # 0.175 is the least


@pytest.mark.parametrize("method", GREEDY)
def test_blocks_cut_about_as_few_edges_as_sequential_decisions(method: str) -> None:
    corner = communities(64, 64, 10, seed=1)
    blocks = NodeBlocks(block_size=64, max_blocks=8)
    one_by_one = NodeBlocks(block_size=corner[0], max_blocks=1)
    alike = [cut(corner, place(GREEDY[method](blocks=x), corner, 8)) for x in (blocks, one_by_one)]
    assert alike[0] < alike[1] + 0.05


@pytest.mark.parametrize("method", ["ldg", "fennel"])
def test_more_passes_cut_fewer_edges(method: str) -> None:
    corner = communities(64, 32, 10)
    once, often = (cut(corner, place(GREEDY[method](passes=n), corner, 8)) for n in (1, 3))
    assert often < 0.8 * once


def test_batches_grow_and_cover_all_nodes_once() -> None:
    batches = list(NodeBlocks(block_size=4, max_blocks=8, growth=2).batches(500, seed=5))
    covered = np.concatenate([np.arange(*batch) for batch in batches])
    assert sorted(covered.tolist()) == list(range(500))
    assert batches[0][1] - batches[0][0] == 4
    assert max(last - first for first, last in batches) == 32
