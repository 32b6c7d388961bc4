"""What every entry of `PARTITIONERS` keeps to."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.partition import PARTITIONERS, EdgeStream
from tests.graphs import CORNER_GRAPHS, CornerGraph, random_graph

METHODS = sorted(PARTITIONERS)


def assign(
    corner: CornerGraph,
    num_parts: int,
    method: str,
    *,
    workers: int = 1,
    seed: int = 0,
    cuts: int = 1,
) -> NDArray[np.int32]:
    """Return the parts of all nodes or edges, in order of their keys."""
    num_nodes, src, dst = corner
    parts: dict[int, NDArray[np.int32]] = {}
    lock = threading.Lock()

    def work(comm: Communicator) -> None:
        rows = slice(len(src) * comm.rank // workers, len(src) * (comm.rank + 1) // workers)
        chunks = list(
            zip(np.array_split(src[rows], cuts), np.array_split(dst[rows], cuts), strict=True)
        )
        stream = EdgeStream(num_nodes, len(src), chunks)
        mine = PARTITIONERS[method](stream, num_parts, seed=seed, comm=comm)
        if PARTITIONERS[method].cut == "edge":
            first, last = (num_nodes * (comm.rank + i) // workers for i in (0, 1))
            assert len(mine) == last - first
        else:
            assert len(mine) == len(src[rows])
        with lock:
            parts[comm.rank] = mine

    run_local(work, workers, timeout_s=60)
    return np.concatenate([parts[rank] for rank in range(workers)])


@pytest.mark.parametrize("method", METHODS)
def test_partitioner_name_is_its_key(method: str) -> None:
    assert PARTITIONERS[method].name == method
    assert PARTITIONERS[method].cut in ("edge", "vertex")


@pytest.mark.parametrize("name", CORNER_GRAPHS)
@pytest.mark.parametrize("method", METHODS)
def test_partitioner_places_everything_alike_on_any_number_of_ranks(method: str, name: str) -> None:
    corner = CORNER_GRAPHS[name]
    for num_parts in {1, min(2, corner[0]), corner[0]}:
        alone = assign(corner, num_parts, method)
        assert alone.dtype == np.int32
        assert alone.shape == (corner[0] if PARTITIONERS[method].cut == "edge" else len(corner[1]),)
        assert ((alone >= 0) & (alone < num_parts)).all()
        for workers in (2, 3):
            together = assign(corner, num_parts, method, workers=workers)
            np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("method", METHODS)
def test_partitioner_does_not_see_chunks(method: str) -> None:
    corner = random_graph(50, 300)
    np.testing.assert_array_equal(assign(corner, 4, method, cuts=5), assign(corner, 4, method))


@pytest.mark.parametrize("method", METHODS)
def test_partitioner_is_repeatable_and_heeds_the_seed(method: str) -> None:
    corner = random_graph(300, 1500)
    first, again, other = (assign(corner, 4, method, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("method", METHODS)
def test_partitioner_is_balanced(method: str) -> None:
    parts = assign(random_graph(4000, 16000), 4, method)
    assert np.bincount(parts, minlength=4).max() < 1.1 * len(parts) / 4


def test_dbh_follows_the_endpoint_of_lower_degree() -> None:
    # Each edge goes where its leaf's hash says, in whichever direction it points.
    star = CORNER_GRAPHS["star_in"]
    parts = assign(star, 3, "dbh")
    turned = assign((star[0], star[2], star[1]), 3, "dbh")
    np.testing.assert_array_equal(parts, turned)


def test_multilevel_partitioners_cut_few_edges() -> None:
    # Two cliques joined by one edge: any sensible cut is that edge.
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    edges = np.array([*pairs, *((i + 12, j + 12) for i, j in pairs), (0, 12)], np.int64)
    for method in ("kaminpar", "metis"):
        parts = assign((24, edges[:, 0], edges[:, 1]), 2, method)
        assert np.count_nonzero(parts[edges[:, 0]] != parts[edges[:, 1]]) == 1
