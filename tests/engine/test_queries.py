"""Queries return the content of the store, for any partitioning and number of servers."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import graphtheta as gt
from graphtheta import errors
from graphtheta.engine import AsyncGraph, RemoteGraph, connect
from graphtheta.engine.server import graph as server_graph
from graphtheta.engine.server.graph import ServerGraph
from graphtheta.engine.server.server import GraphServer
from graphtheta.engine.wire.protocol import Limits
from graphtheta.errors import ConfigError, GraphFormatError, UnknownNode
from graphtheta.partition import open_store
from graphtheta.tgar import Fanout, Neighbourhoods
from tests.engine.stores import Truth, make, serving, weighted

N = 90
CASES = [
    (method, servers, limits)
    for method in ("node-hash", "dbh")
    for servers, limits in ((1, Limits()), (2, Limits(max_ids=7)), (5, Limits()))
] + [("edge-hash", 2, Limits())]
SOME = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
nodes = st.lists(st.integers(0, N - 1), max_size=30)


@cache
def graph() -> gt.Graph:
    return weighted(N)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Truth]]:
    found = {}
    for method in ("node-hash", "dbh", "edge-hash"):
        path = tmp_path_factory.mktemp("engine") / method
        make(graph(), path, 5, method)
        found[method] = (path, Truth.of(path))
    return found


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def world(
    request: pytest.FixtureRequest, stores: dict[str, tuple[Path, Truth]]
) -> Iterator[tuple[RemoteGraph, Truth]]:
    method, servers, limits = request.param
    path, truth = stores[method]
    with serving(path, servers, limits) as remote:
        yield remote, truth


World = tuple[RemoteGraph, Truth]


def named(truth: Truth, keys: list[int], by: str) -> Any:
    return np.array(keys, np.int64) if by == "node_key" else [truth.nodes[by][k] for k in keys]


@SOME
@given(keys=nodes, by=st.sampled_from(["original_id", "node_key", "new_id"]))
def test_ids_degrees_and_columns(world: World, keys: list[int], by: Any) -> None:
    remote, truth = world
    ids = named(truth, keys, by)
    np.testing.assert_array_equal(remote.new_ids(ids, by), truth.new_id[keys])
    into, out = remote.degrees(ids, by)
    assert into.tolist() == [len(truth.in_edges(k)) for k in keys]
    assert out.tolist() == [len(truth.out_edges(k)) for k in keys]
    names = [
        "features",
        "label:y",
        "label:score",
        "label:flag",
        "split:split",
        "original_id",
        "row",
    ]
    found = remote.columns(ids, [*names, "node_key"], by)
    assert found["node_key"].tolist() == keys
    for name in names:
        wanted = [truth.nodes[name][k] for k in keys]
        same(found[name], [-1 if value is None else value for value in wanted])


def test_columns_of_all_nodes(world: World) -> None:
    remote, truth = world
    found = remote.columns(None, ["label:y", "features", "node_key"])
    assert found["node_key"].tolist() == list(range(N))
    same(found["features"], truth.nodes["features"])
    same(found["label:y"], [-1 if y is None else y for y in truth.nodes["label:y"]])


@SOME
@given(keys=nodes, direction=st.sampled_from(["in", "out"]))
def test_neighbours(world: World, keys: list[int], direction: Any) -> None:
    remote, truth = world
    columns = ["attr", "type", "weight", "rank"]
    found = remote.neighbours(keys, by="node_key", direction=direction, columns=columns)
    of = truth.in_edges if direction == "in" else truth.out_edges
    wanted = [of(k) for k in keys]
    assert np.diff(found.indptr).tolist() == [len(edges) for edges in wanted]
    flat = [e for edges in wanted for e in edges]
    assert found.edge_key.tolist() == flat
    others = [truth.edges["src" if direction == "in" else "dst"][e] for e in flat]
    assert found.node_key.tolist() == others
    np.testing.assert_array_equal(found.node, truth.new_id[others])
    for name in columns:
        same(found.columns[name], [truth.edges[name][e] for e in flat])


@SOME
@given(data=st.data(), with_dst=st.booleans())
def test_edge_columns(world: World, data: st.DataObject, with_dst: bool) -> None:
    remote, truth = world
    edges = data.draw(st.lists(st.integers(0, len(truth.edges["src"]) - 1), max_size=40))
    dst = [truth.edges["dst"][e] for e in edges] if with_dst else None
    found = remote.edge_columns(edges, ["attr", "weight"], dst=dst, by="node_key")
    for name in found:
        same(found[name], [truth.edges[name][e] for e in edges])


def test_edges_are_scanned_in_ranges(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    remote, truth = world
    monkeypatch.setattr(server_graph, "_SCANNED", 7)
    edges = np.arange(len(truth.edges["src"]))[::-3]
    found = remote.edge_columns(edges, ["weight"])["weight"]
    same(found, [truth.edges["weight"][e] for e in edges])


@SOME
@given(pairs=st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)), max_size=40))
def test_find_edges(world: World, pairs: list[tuple[int, int]]) -> None:
    remote, truth = world
    pairs = pairs + [(truth.edges["src"][e], truth.edges["dst"][e]) for e in range(0, 60, 5)]
    src, dst = [s for s, _ in pairs], [d for _, d in pairs]
    first: dict[tuple[int, int], int] = {}
    for e, pair in enumerate(zip(truth.edges["src"], truth.edges["dst"], strict=True)):
        first.setdefault(pair, e)
    found = remote.find_edges(src, dst, by="node_key")
    assert found.tolist() == [first.get(pair, -1) for pair in pairs]


DRAWS = [
    Fanout(3),
    Fanout(3, replace=True),
    Fanout(400),
    Fanout(4, weight="weight"),
    Fanout(3, replace=True, weight="weight"),
]


@cache
def trained(targets: tuple[int, ...], fanout: Fanout, seed: int, step: int) -> list[Any]:
    """Return the nodes and the edges that training draws for them at each of two layers."""
    shard = gt.open_shard(graph())
    rows = np.flatnonzero(np.isin(shard.node_key_L, targets))
    blocks = Neighbourhoods(shard).blocks(rows, [fanout, fanout], seed=seed, step=step)
    return [(b.node_key[: b.num_outputs], sorted(b.edge_key.tolist())) for b in blocks]


@pytest.mark.parametrize("fanout", DRAWS, ids=str)
@SOME
@given(keys=st.sets(st.integers(0, N - 1), max_size=20), seed=st.integers(0, 3))
def test_draws_are_those_of_training(
    world: World, fanout: Fanout, keys: set[int], seed: int
) -> None:
    remote, _ = world
    for layer, (outputs, wanted) in enumerate(trained(tuple(sorted(keys)), fanout, seed, 11)):
        found = remote.neighbours(
            outputs,
            by="node_key",
            fanout=fanout.size,
            replace=fanout.replace,
            weight=fanout.weight,
            seed=seed,
            step=11,
            layer=layer,
        )
        assert sorted(found.edge_key.tolist()) == wanted
        row = np.repeat(np.arange(len(outputs)), np.diff(found.indptr))
        assert (np.diff(row * 10**6 + found.edge_key) >= 0).all()


def test_statistics_are_those_of_the_store(world: World) -> None:
    remote, truth = world
    found = remote.statistics()
    assert found["num_nodes"] == N == sum(part["masters"] for part in found["parts"])
    assert found["num_edges"] == len(truth.edges["src"]) == sum(p["edges"] for p in found["parts"])
    assert remote.manifest.node_columns.keys() >= {"features", "label:y", "split:split"}


def test_repr_shows_sizes_and_servers(stores: dict[str, tuple[Path, Truth]]) -> None:
    with serving(stores["dbh"][0], 2) as remote:
        servers = [part["server"] for part in remote.statistics()["parts"]]
        sizes = f"90 nodes, {remote.num_edges:,} edges, 5 parts"
        assert repr(remote) == f"RemoteGraph({sizes} at {servers[0]}, {servers[1]})"
        assert repr(AsyncGraph(remote)) == repr(remote).replace("Remote", "Async")


def test_random_nodes_are_distinct_and_the_same_everywhere(world: World) -> None:
    remote, _ = world
    drawn = remote.random_nodes(50, seed=2)
    assert len(set(drawn.tolist())) == 50
    assert drawn.tolist() == remote.random_nodes(N, seed=2)[:50].tolist()
    assert sorted(remote.random_nodes(N).tolist()) == list(range(N))
    assert drawn.tolist() != remote.random_nodes(50, seed=2, step=1).tolist()


def test_a_server_needs_only_the_files_of_its_part(
    stores: dict[str, tuple[Path, Truth]], tmp_path: Path
) -> None:
    path, truth = stores["dbh"]
    with ExitStack() as stack:
        addresses = []
        for part in range(5):
            copy = tmp_path / str(part)
            for others in shutil.copytree(path, copy).glob("*/bucket-*"), copy.glob("part-*"):
                for folder in others:
                    if int(folder.name[-5:]) != part:
                        shutil.rmtree(folder)
            server = GraphServer(ServerGraph(open_store(copy, parts=()), [part]))
            stack.callback(server.close, 0.0)
            addresses.append(f"127.0.0.1:{server.port}")
        remote = stack.enter_context(connect(addresses))
        found = remote.neighbours(truth.nodes["original_id"])
        assert found.edge_key.tolist() == [e for k in range(N) for e in truth.in_edges(k)]
        same(remote.columns(None, ["features"])["features"], truth.nodes["features"])


def test_a_forked_client_is_an_error(
    stores: dict[str, tuple[Path, Truth]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(stores["dbh"][0], 1) as remote:
        monkeypatch.setattr("os.getpid", lambda: -1)
        with pytest.raises(ConfigError, match="spawn"):
            remote.degrees([0], "node_key")
        monkeypatch.undo()


def test_coroutines_return_the_same(stores: dict[str, tuple[Path, Truth]]) -> None:
    async def query(remote: RemoteGraph) -> list[Any]:
        graph = AsyncGraph(remote)
        return list(await asyncio.gather(*(graph.neighbours([k], by="node_key") for k in range(N))))

    path, truth = stores["dbh"]
    with serving(path, 2) as remote:
        found = asyncio.run(query(remote))
    assert [one.edge_key.tolist() for one in found] == [truth.in_edges(k) for k in range(N)]


@SOME
@given(keys=st.sets(st.integers(0, N - 1), min_size=1, max_size=10))
def test_subgraph_is_what_is_reached(world: World, keys: set[int]) -> None:
    remote, truth = world
    seeds = sorted(keys)
    found = remote.subgraph(seeds, [None, None], by="node_key", columns=["attr"])
    hop = [e for k in seeds for e in truth.in_edges(k)]
    more = {truth.edges["src"][e] for e in hop} - keys
    edges = sorted(hop + [e for k in more for e in truth.in_edges(k)])
    assert sorted(found.edge_key.tolist()) == edges
    order = found.edge_key
    assert found.node_key[found.src].tolist() == [truth.edges["src"][e] for e in order]
    assert found.node_key[found.dst].tolist() == [truth.edges["dst"][e] for e in order]
    assert found.num_nodes[:2] == [len(keys), len(more)]
    assert len(set(found.node_key.tolist())) == len(found.node_key) == sum(found.num_nodes)
    np.testing.assert_array_equal(found.new_id, truth.new_id[found.node_key])
    same(found.columns["attr"], [truth.edges["attr"][e] for e in order])


def test_subgraph_of_known_nodes_is_the_same(world: World) -> None:
    remote, truth = world
    keys = np.array([7, 0, 31])
    wanted = remote.subgraph(keys, [2, None], by="node_key", seed=1)
    ids = truth.new_id[keys]
    for known in (keys, None):
        found = remote.subgraph(ids, [2, None], by="new_id", seed=1, node_keys=known)
        for name in ("new_id", "node_key", "src", "dst", "edge_key"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    with pytest.raises(ConfigError, match="a node key for each of 3"):
        remote.subgraph(ids, [2], by="new_id", node_keys=keys[1:])
    with pytest.raises(GraphFormatError, match="node keys"):
        remote.subgraph(ids, [2], by="new_id", node_keys=keys + 0.5)


def test_results_belong_to_the_caller(world: World) -> None:
    """Writing into a subgraph does not change later results."""
    remote, truth = world
    found = remote.subgraph(np.array([1, 2]), [None], by="node_key")
    keys = found.node_key.copy()
    found.new_id[:] = 0
    found.node_key[:] = 0
    remote.new_ids(keys, "node_key")[:] = 0
    np.testing.assert_array_equal(remote.new_ids(keys, "node_key"), truth.new_id[keys])
    np.testing.assert_array_equal(
        remote.columns(keys[::-1].copy(), ["node_key"], "node_key")["node_key"], keys[::-1]
    )


WRONG = [
    (lambda g: g.new_ids([10**9], "node_key"), UnknownNode, "node keys"),
    (lambda g: g.new_ids(["missing"]), UnknownNode, "missing"),
    (lambda g: g.new_ids([3]), GraphFormatError, "type string"),
    (lambda g: g.new_ids(["a", None]), GraphFormatError, "type string"),
    (lambda g: g.new_ids([-1], "new_id"), UnknownNode, "-1"),
    (lambda g: g.new_ids([0.5], "new_id"), GraphFormatError, "integers"),
    (lambda g: g.new_ids([[1]], "node_key"), GraphFormatError, "shape"),
    (lambda g: g.new_ids([1], "name"), ConfigError, "by: expected"),
    (lambda g: g.columns([1], ["nothing"], "node_key"), ConfigError, "node columns: expected"),
    (lambda g: g.edge_columns([0], ["nothing"]), ConfigError, "edge columns: expected some of"),
    (lambda g: g.edge_columns([10**7], ["attr"]), GraphFormatError, "10000000"),
    (lambda g: g.edge_columns([-1], ["attr"], dst=[1], by="node_key"), GraphFormatError, "-1"),
    (lambda g: g.neighbours([1], by="node_key", fanout=0), ConfigError, "fanout >= 1"),
    (lambda g: g.neighbours([1], by="node_key", fanout=-1), ConfigError, "draw"),
    (lambda g: g.neighbours([1], by="node_key", fanout=10**6), errors.LimitExceeded, "fewer"),
    (lambda g: g.neighbours([1], by="node_key", fanout=1, layer=1 << 16), ConfigError, "layer"),
    (lambda g: g.neighbours([1], by="node_key", fanout=1, weight="x"), ConfigError, "draw"),
    (lambda g: g.neighbours([1], by="node_key", fanout=1, weight="attr"), ConfigError, "number"),
    (
        lambda g: g.neighbours([1], by="node_key", fanout=1, direction="out"),
        ConfigError,
        "out-edges",
    ),
    (lambda g: g.neighbours([1], by="node_key", direction="up"), ConfigError, "direction"),
    (lambda g: g.find_edges([1], [1, 2], by="node_key"), ConfigError, "as many"),
    (lambda g: g.random_nodes(N + 1), ConfigError, "count"),
    (lambda g: g.random_nodes("3"), ConfigError, "random nodes: expected an integer, got '3'"),
    (lambda g: g.random_nodes(1.5), ConfigError, "random nodes: expected an integer, got 1.5"),
    (lambda g: g.predict([1], "node_key"), ConfigError, "--run"),
    (lambda g: g.new_ids("abc"), GraphFormatError, "a list of values"),
    (lambda g: g.new_ids(2**70), GraphFormatError, "a list of values"),
    (lambda g: g.new_ids([2**70], "node_key"), GraphFormatError, "list of integers"),
    (lambda g: g.new_ids(np.array([2**63], np.uint64), "node_key"), GraphFormatError, "64 bits"),
    (lambda g: g.new_ids([True], "node_key"), GraphFormatError, "list of integers"),
    (lambda g: g.columns([1], None, "node_key"), ConfigError, "list of names, got None"),
    (lambda g: g.columns([1], [3], "node_key"), ConfigError, "names as texts, got 3"),
    (lambda g: g.columns([1], "label:y", "node_key"), ConfigError, r"Write \['label:y'\]"),
    (lambda g: g.edge_columns([0], "attr"), ConfigError, r"Write \['attr'\]"),
    (lambda g: g.neighbours([1], by="node_key", columns="attr"), ConfigError, "list of names"),
    (lambda g: g.subgraph([1], 10, by="node_key"), ConfigError, r"Write \[10\] for one layer"),
    (lambda g: g.subgraph([1], [1.5], by="node_key"), ConfigError, "fan-out: expected an integer"),
]


@pytest.mark.parametrize(("query", "error", "message"), WRONG)
def test_wrong_queries_are_errors(world: World, query: Any, error: Any, message: str) -> None:
    remote, truth = world
    with pytest.raises(error, match=message):
        query(remote)
    assert remote.degrees([0], "node_key")[0][0] == len(truth.in_edges(0))


def same(found: NDArray[Any], wanted: list[Any]) -> None:
    if found.dtype == object:
        assert found.tolist() == wanted
    else:
        shape = (0, *found.shape[1:]) if not wanted else np.shape(wanted)
        np.testing.assert_array_equal(found, np.array(wanted, found.dtype).reshape(shape))
