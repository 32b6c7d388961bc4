"""The nodes and edges that a batch needs are the same on any number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.tgar import Fanout, Neighbourhoods, View
from tests.graphs import CORNER_GRAPHS, random_graph, to_graph

WORKERS = [(1, "node-hash"), (2, "dbh"), (3, "node-hash"), (4, "edge-hash")]
Found = list[tuple[set[int], set[int], list[int]]]


def neighbourhood(
    graph: gt.Graph,
    targets: Sequence[int],
    fanouts: Sequence[Fanout | None],
    workers: int,
    method: str,
    *,
    step: int = 0,
) -> Found:
    """Return for each layer the keys of its inputs and outputs, and of its edges, sorted."""

    def job(comm: Communicator) -> Any:
        shard = gt.open_shard(graph, comm, method=method)
        rows = np.flatnonzero(np.isin(shard.node_key_L[: shard.num_masters], targets))
        found = []
        for block in Neighbourhoods(shard).blocks(rows, fanouts, step=step):
            check(block)
            mine = [block.node_key, block.node_key[: block.num_outputs], block.edge_key]
            found.append([np.concatenate(comm.all_gather(k, stage="keys")) for k in mine])
            assert block.active == tuple(len(keys) for keys in found[-1])
        return found

    layers = gt.run_local(job, workers=workers, timeout_s=60)
    for inputs, outputs, _ in layers:  # every node has one master
        assert len(set(inputs)) == len(inputs)
        assert len(set(outputs)) == len(outputs)
    return [(set(i), set(o), sorted(e)) for i, o, e in layers]


def check(block: Any) -> None:
    """Check that the arrays of a block agree with the shard."""
    shard, route = block.shard, block.sources
    num_replicas = block.num_inputs + route.num_mirrors
    assert (block.in_edges.other < num_replicas).all()
    mirrors = np.unique(block.in_edges.other[block.in_edges.other >= block.num_inputs])
    np.testing.assert_array_equal(np.sort(route.mirror_R) + block.num_inputs, mirrors)
    whole = shard.topology
    row_E = np.repeat(np.arange(len(whole.indptr) - 1), np.diff(whole.indptr))[block.edges]
    mine = np.repeat(np.arange(block.in_edges.num_rows), np.diff(block.in_edges.indptr))
    leading = mine < block.num_outputs
    np.testing.assert_array_equal(block.rows[mine[leading]], row_E[leading])
    own = whole.src.numpy()[block.edges] == row_E
    np.testing.assert_array_equal(block.in_edges.node_of(mine) == block.in_edges.other, own)
    out = block.out_edges
    np.testing.assert_array_equal(out.other, mine[out.position])
    src = np.repeat(np.arange(out.num_rows), np.diff(out.indptr))
    np.testing.assert_array_equal(src, block.in_edges.other[out.position])


def by_hand(graph: gt.Graph, targets: Sequence[int], layers: int) -> Found:
    src, dst = ends(graph)
    found, outputs = [], set(targets)
    for _ in range(layers):
        edges = np.flatnonzero(np.isin(dst, list(outputs)))
        inputs = outputs | set(src[edges].tolist())
        found.append((inputs, outputs, sorted(edges.tolist())))
        outputs = inputs
    return found[::-1]


def ends(graph: gt.Graph) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return graph.edges["src"].to_numpy(), graph.edges["dst"].to_numpy()


@pytest.fixture(scope="module")
def graph() -> gt.Graph:
    num_nodes, src, dst = random_graph(60, 400)
    return to_graph((num_nodes + 2, src, dst))


@pytest.mark.parametrize(("workers", "method"), WORKERS)
def test_exact_neighbourhood_is_all_that_is_reached(
    workers: int, method: str, graph: gt.Graph
) -> None:
    for targets in ([3], [0, 7, 20, 61], range(62), []):
        got = neighbourhood(graph, targets, [None] * 3, workers, method)
        assert got == by_hand(graph, targets, 3)


@pytest.mark.parametrize("name", CORNER_GRAPHS)
def test_exact_neighbourhood_on_corner_graphs(name: str) -> None:
    corner = to_graph(CORNER_GRAPHS[name])
    targets = range(0, corner.num_nodes, 2)
    for workers, method in WORKERS:
        if workers <= max(1, corner.num_nodes):
            got = neighbourhood(corner, targets, [None, None], workers, method)
            assert got == by_hand(corner, targets, 2)


FANOUTS = [
    Fanout(3),
    Fanout(3, replace=True),
    Fanout(40),
    Fanout(3, weight="weight"),
    Fanout(3, replace=True, weight="weight"),
]


@pytest.mark.parametrize("fanout", FANOUTS, ids=str)
def test_sampled_edges_do_not_depend_on_workers(fanout: Fanout, graph: gt.Graph) -> None:
    weighted = with_weights(graph)
    targets = range(0, 60, 3)
    single = neighbourhood(weighted, targets, [fanout] * 2, 1, "node-hash", step=5)
    other_step = neighbourhood(weighted, targets, [fanout] * 2, 1, "node-hash", step=6)
    assert fanout.size == 40 or single != other_step
    for workers, method in WORKERS[1:]:
        got = neighbourhood(weighted, targets, [fanout] * 2, workers, method, step=5)
        assert got == single


@pytest.mark.parametrize("fanout", FANOUTS, ids=str)
def test_fanout_is_the_number_of_sampled_edges(fanout: Fanout, graph: gt.Graph) -> None:
    weighted = with_weights(graph)
    src, dst = ends(graph)
    ((inputs, outputs, edges),) = neighbourhood(weighted, range(62), [fanout], 3, "dbh")
    counts = np.bincount(dst[edges], minlength=62)
    choice = weighted.edges["weight"].to_numpy() > 0 if fanout.weight else np.full(len(dst), True)
    there = np.bincount(dst[choice], minlength=62)
    wanted = np.where(there > 0, fanout.size, 0) if fanout.replace else there.clip(max=fanout.size)
    np.testing.assert_array_equal(counts, wanted)
    assert choice[edges].all()
    assert fanout.replace or len(set(edges)) == len(edges)
    assert inputs == outputs | set(src[edges].tolist())


def with_weights(graph: gt.Graph) -> gt.Graph:
    weight = np.random.default_rng(0).random(graph.num_edges).astype(np.float32)
    weight[::7] = 0
    return gt.Graph(graph.nodes, graph.edges.append_column("weight", pa.array(weight)))


def star(weights: NDArray[np.float64]) -> gt.Graph:
    """Return a graph in which every other node has an edge to node 0."""
    leaves = len(weights)
    corner = (leaves + 1, np.arange(1, leaves + 1), np.zeros(leaves, np.int64))
    graph = to_graph(corner)
    return gt.Graph(graph.nodes, graph.edges.append_column("weight", pa.array(weights)))


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("weight", [None, "weight"])
def test_shares_of_sampled_edges(replace: bool, weight: str | None) -> None:
    weights = np.array([1.0, 2.0, 4.0, 1.0, 8.0, 0.5])
    shard = gt.open_shard(star(weights))
    hub = np.flatnonzero(shard.node_key_L == 0)
    found, steps = Neighbourhoods(shard), 4000
    size = 2 if replace else 1
    counts = np.zeros(len(weights))
    for step in range(steps):
        (block,) = found.blocks(hub, [Fanout(size, replace, weight)], step=step)
        np.add.at(counts, block.edge_key, 1)
    share = weights / weights.sum() if weight else np.full(len(weights), 1 / len(weights))
    deviation = np.sqrt(steps * size * share * (1 - share))
    assert (np.abs(counts - steps * size * share) < 4.5 * deviation).all()


def test_without_replacement_every_pair_is_as_likely() -> None:
    shard = gt.open_shard(star(np.ones(5)))
    hub = np.flatnonzero(shard.node_key_L == 0)
    found, counts = Neighbourhoods(shard), np.zeros((5, 5))
    for step in range(5000):
        (block,) = found.blocks(hub, [Fanout(2)], step=step)
        counts[tuple(block.edge_key)] += 1
    pairs = counts[np.triu_indices(5, 1)]
    assert counts.sum() == pairs.sum() == 5000
    assert (np.abs(pairs - 500) < 4.5 * np.sqrt(5000 * 0.1 * 0.9)).all()


def test_wrong_weights_raise_config_error(graph: gt.Graph) -> None:
    found = Neighbourhoods(gt.open_shard(graph))
    for name in ("nothing", "attr"):
        with pytest.raises(ConfigError, match=name):
            found.weight(name)


def test_the_array_of_rows_is_cleared(graph: gt.Graph) -> None:
    shard = gt.open_shard(graph)
    found = Neighbourhoods(shard)
    for _ in range(2):
        found.blocks(np.arange(5), [None, Fanout(2)])
        assert (found._block_row == -1).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_repr_shows_active_nodes_and_edges(workers: int, graph: gt.Graph) -> None:
    def job(comm: Communicator) -> tuple[str, list[str], str]:
        shard = gt.open_shard(graph, comm)
        masters = np.arange(shard.num_masters)
        view = View(shard, blocks=Neighbourhoods(shard).blocks(masters[:3], [None, Fanout(2)]))
        mine = [
            f"inputs={b.num_inputs}/{b.active.inputs}, outputs={b.num_outputs}/{b.active.outputs}, "
            f"edges={b.num_edges}/{b.active.edges}"
            for b in view.blocks or ()
        ]
        return repr(view), mine, repr(view[1])

    text, (first, second), layer = gt.run_local(job, workers=workers)
    assert text == f"View(2 layers)\n  0: Block({first})\n  1: Block({second})"
    assert layer == f"LayerView(layer=1, Block({second}))"
    shard = gt.open_shard(graph)
    assert repr(View(shard)) == "View(all 62 nodes and 400 edges)"
    assert repr(View(shard)[0].block) == "Block(inputs=62/62, outputs=62/62, edges=400/400)"
