"""Community detection: results, numbering, repeatability and error messages."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.errors import ConfigError, PartitionError
from graphtheta.partition.analysis.detect_communities import COMMUNITIES, detect
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.core.stream import EdgesInMemory
from tests.graphs import CORNER_GRAPHS, CornerGraph, power_law

METHODS = sorted(COMMUNITIES)


@pytest.fixture(autouse=True)
def _library() -> None:
    pytest.importorskip("networkit")


def find(
    corner: CornerGraph,
    method: str,
    *,
    value: float | None = None,
    seed: int = 0,
    workers: int = 1,
    threads: int = 1,
    memory_limit: int | None = None,
) -> NDArray[np.int32]:
    num_nodes, src, dst = corner
    stream = EdgesInMemory(num_nodes, src.astype(np.int32), dst.astype(np.int32))
    if value is None:
        value = 1.0 if COMMUNITIES[method].parameter == "resolution" else min(num_nodes, 4)
    argument: dict[str, Any] = {COMMUNITIES[method].parameter: value}
    found: list[NDArray[np.int32]] = []
    lock = threading.Lock()

    def work(comm: Communicator) -> None:
        resources = Resources(comm, threads, memory_limit)
        labels = detect(stream, method, **argument, seed=seed, resources=resources)
        with lock:
            found.append(labels)

    run_local(work, workers, timeout_s=60)
    for labels in found:
        np.testing.assert_array_equal(labels, found[0])
    return found[0]


def groups(num_groups: int, size: int) -> tuple[CornerGraph, NDArray[np.int64]]:
    """Return a graph of groups with shuffled keys, and the group of each node."""
    rng = np.random.default_rng(0)
    num_nodes = num_groups * size
    src = rng.integers(0, num_nodes, 12 * num_nodes)
    dst = src // size * size + rng.integers(0, size, src.shape[0])
    dst[::10] = rng.integers(0, num_nodes, dst[::10].shape[0])
    key = rng.permutation(num_nodes)
    group = np.empty(num_nodes, np.int64)
    group[key] = np.arange(num_nodes) // size
    return (num_nodes, key[src], key[dst]), group


@pytest.mark.parametrize("name", CORNER_GRAPHS)
@pytest.mark.parametrize("method", METHODS)
def test_labels_every_node_in_order_of_first_nodes(method: str, name: str) -> None:
    labels = find(CORNER_GRAPHS[name], method)
    assert labels.dtype == np.int32
    assert labels.shape == (CORNER_GRAPHS[name][0],)
    first = [int(np.flatnonzero(labels == label)[0]) for label in range(labels.max() + 1)]
    assert first == sorted(first)


@pytest.mark.parametrize("method", METHODS)
def test_planted_groups_are_found(method: str) -> None:
    corner, group = groups(8, 50)
    labels = find(corner, method, value=8 if method == "multilevel" else None)
    assert len(np.unique(np.stack([labels, group]), axis=1).T) == 8


@pytest.mark.parametrize("method", METHODS)
def test_ranks_threads_and_earlier_runs_do_not_change_the_result(method: str) -> None:
    corner = power_law(500, 3000)
    alone = find(corner, method, seed=3)
    find(corner, method, seed=4)
    for workers, threads in ((1, 1), (1, 2), (3, 1)):
        again = find(corner, method, seed=3, workers=workers, threads=threads)
        np.testing.assert_array_equal(again, alone)


@pytest.mark.parametrize("method", ["leiden", "multilevel"])
def test_seed_changes_the_result(method: str) -> None:
    corner = power_law(500, 3000)
    assert (find(corner, method, seed=1) != find(corner, method, seed=2)).any()


@pytest.mark.parametrize("method", ["louvain", "leiden"])
def test_more_resolution_makes_more_communities(method: str) -> None:
    corner, _ = groups(8, 50)
    coarse, fine = (find(corner, method, value=value).max() for value in (0.05, 20.0))
    assert coarse < 7 < fine


@pytest.mark.parametrize("method", ["louvain", "leiden"])
def test_nodes_without_edges_are_communities_of_their_own(method: str) -> None:
    assert find(CORNER_GRAPHS["edgeless"], method).tolist() == [0, 1, 2, 3, 4]
    labels = find(CORNER_GRAPHS["isolated_nodes"], method)
    assert labels[1] == labels[4] == labels[6]
    assert len(np.unique(labels)) == 6


def test_multilevel_makes_the_requested_number() -> None:
    labels = find(groups(8, 50)[0], "multilevel", value=16)
    assert np.bincount(labels).shape == (16,)
    assert np.bincount(labels).max() <= 1.03 * 25 + 1


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("metis", {}, "one of leiden, louvain, multilevel, got 'metis'"),
        ("leiden", {"num_communities": 4}, "resolution for leiden, got num_communities=4"),
        ("multilevel", {}, "num_communities for multilevel, got none"),
        ("multilevel", {"num_communities": 0}, "num_communities above 0 to 9 nodes, got 0"),
        ("multilevel", {"num_communities": 10}, "num_communities above 0 to 9 nodes, got 10"),
        ("louvain", {"resolution": -1.0}, "resolution above 0, got -1"),
    ],
)
def test_wrong_arguments_are_one_line(method: str, arguments: Any, message: str) -> None:
    num_nodes, src, dst = CORNER_GRAPHS["star_in"]
    with pytest.raises(ConfigError, match=message):
        detect(
            EdgesInMemory(num_nodes, src, dst), method, **arguments, seed=0, resources=Resources()
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("limit", [20_000, 60_000])
def test_state_above_the_memory_limit_is_refused(method: str, limit: int) -> None:
    with pytest.raises(PartitionError, match=f"{method}.* memory limit .* for example by lpa"):
        find(power_law(500, 3000), method, memory_limit=limit, workers=2)


def test_missing_library_error_has_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "networkit", None)
    with pytest.raises(ConfigError, match=r"pip install 'graphtheta\[communities\]'"):
        find(CORNER_GRAPHS["cycle"], "louvain")
