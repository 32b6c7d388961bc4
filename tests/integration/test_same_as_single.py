"""The number of workers is not a hyper-parameter: loss and gradients are those of one worker."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.data.graph import Graph
from graphtheta.errors import CollectiveMismatch, PartitionError
from graphtheta.nn import GATConv, GCNConv, SAGEConv
from graphtheta.partition import PARTITIONERS, Plan, make_store
from graphtheta.tgar import View
from tests.graphs import CORNER_GRAPHS, random_graph, to_graph
from tests.nn.steps import CASES, assert_equal, gradient, loss_and_gradients, step

METHODS = ["node-hash", "kaminpar", "edge-hash", "dbh"]
WORKERS = [2, 3, 4, 7]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@cache
def graph_of(dtype: torch.dtype) -> Graph:
    """Return a graph with self-loops, parallel edges, isolated nodes and missing labels."""
    num_nodes, src, dst = random_graph(57, 300)
    precision = np.float64 if dtype == torch.float64 else np.float32
    return to_graph((num_nodes + 3, src, dst), dtype=precision)


@cache
def alone(name: str, dtype: torch.dtype) -> NDArray[Any]:
    return step(CASES[name], graph_of(dtype), dtype=dtype)


def assert_same(name: str, workers: int, method: str, dtype: torch.dtype) -> None:
    got = step(CASES[name], graph_of(dtype), workers, method, dtype)
    assert_equal(got, alone(name, dtype), TOLERANCE[dtype])


# Latin squares: every model meets every method, every number of workers and both types, and every
# method every number of workers.
COVER = [
    pytest.param(
        *(name, WORKERS[(i + j) % 4], method, (torch.float64, torch.float32)[(i + j // 2) % 2]),
        marks=pytest.mark.slow if (i + j) % 2 else (),  # half of them in make test
    )
    for i, name in enumerate(CASES)
    for j, method in enumerate(METHODS)
]


@pytest.mark.parametrize(("name", "workers", "method", "dtype"), COVER)
def test_step_same_as_single(name: str, workers: int, method: str, dtype: torch.dtype) -> None:
    assert_same(name, workers, method, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("method", sorted(PARTITIONERS))
@pytest.mark.parametrize("name", CASES)
def test_step_same_as_single_in_full(
    name: str, workers: int, method: str, dtype: torch.dtype
) -> None:
    assert_same(name, workers, method, dtype)


# In a complete graph GCN makes all nodes alike, so that batch norm leaves the signs of rounding
# errors for ReLU.
ROUNDING = ("complete", "gcn_batch_norm")


@pytest.mark.parametrize("name", CORNER_GRAPHS)
def test_step_same_as_single_on_corner_graphs(name: str) -> None:
    graph = to_graph(CORNER_GRAPHS[name], dtype=np.float64)
    for i, case in enumerate(["gat-e", "sage_max", "gcn_batch_norm", "rgcn_bases"]):
        if (name, case) == ROUNDING:
            continue
        want = step(CASES[case], graph)
        assert np.isfinite(want).all()
        workers = min(WORKERS[i], graph.num_nodes)
        for method in METHODS[::3] if workers > 1 else ():
            assert_equal(step(CASES[case], graph, workers, method), want, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CORNER_GRAPHS)
def test_step_same_as_single_on_corner_graphs_in_full(name: str, method: str) -> None:
    graph = to_graph(CORNER_GRAPHS[name], dtype=np.float64)
    for case in CASES.keys() - {ROUNDING[1] if name == ROUNDING[0] else None}:
        want = step(CASES[case], graph)
        for workers in [w for w in WORKERS if w <= graph.num_nodes]:
            assert_equal(step(CASES[case], graph, workers, method), want, 1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_more_workers_than_nodes_raises_partition_error(method: str) -> None:
    graph = to_graph(CORNER_GRAPHS["parallel_edges"])
    with pytest.raises(PartitionError, match="4"):
        gt.run_local(
            lambda comm: gt.open_shard(graph, comm, method=method), workers=4, timeout_s=30
        )


@pytest.mark.parametrize("method", METHODS)
def test_merged_parts_same_as_single(method: str, tmp_path: Path) -> None:
    graph = graph_of(torch.float64)
    store = make_store(graph, tmp_path / "store", Plan(4, method))
    for name in ("gat_edges", "sage_max", "rgcn"):
        for workers in (1, 2, 4):
            assert_equal(step(CASES[name], store, workers), alone(name, torch.float64), 1e-10)


def test_cover_placement_same_as_single(tmp_path: Path) -> None:
    graph = graph_of(torch.float64)
    store = make_store(graph, tmp_path / "store", Plan(3, "node-hash", placement="cover"))
    for name in ("gat_edges", "sage_max", "rgcn"):
        for workers in (1, 3):
            assert_equal(step(CASES[name], store, workers), alone(name, torch.float64), 1e-10)


# Ranks with little to do.


def unlabelled(graph: Graph, workers: int, method: str) -> Graph:
    """Take the labels from all nodes of the last two ranks."""
    last: list[NDArray[np.int64]] = []

    def masters(comm: Communicator) -> None:
        shard = gt.open_shard(graph, comm, method=method)
        if comm.rank >= workers - 2:
            last.append(shard.node_key_L[: shard.num_masters].copy())

    gt.run_local(masters, workers=workers, timeout_s=30)
    without = np.isin(np.arange(graph.num_nodes), np.concatenate(last))
    labels = pc.if_else(pa.array(without), None, graph.nodes["label:y"])
    at = graph.nodes.column_names.index("label:y")
    return Graph(graph.nodes.set_column(at, "label:y", labels), graph.edges)


@pytest.mark.parametrize("method", METHODS)
def test_rank_without_targets_same_as_single(method: str) -> None:
    graph = unlabelled(graph_of(torch.float64), 4, method)
    for name in ("gat-e", "gcn_batch_norm"):
        want = step(CASES[name], graph)
        assert_equal(step(CASES[name], graph, 4, method), want, 1e-10)


def test_frozen_layers_same_as_single() -> None:
    def make(frozen: int) -> nn.Module:
        model = CASES["gat_edges"](num_layers=3)
        for parameter in model.convs[frozen].parameters():
            parameter.requires_grad_(False)
        return model

    graph = graph_of(torch.float64)
    for frozen in (0, 1, 2):
        want = step(partial(make, frozen), graph)
        assert (want != 0).any()
        for workers, method in ((3, "node-hash"), (4, "dbh")):
            assert_equal(step(partial(make, frozen), graph, workers, method), want, 1e-10)


class Residual(nn.Module):
    """Two branches that meet, a skip past them, and a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        with gt.nn.seeded(1):
            self.first = nn.Linear(3, 6)
            self.left, self.right = GCNConv(6, 6), GATConv(6, 3, heads=2, dropout=0.3)
            self.twice = SAGEConv(6, 6, aggregator="max")
            self.last = nn.Linear(6, 4)
        self.dropout = gt.nn.Dropout(0.3)

    def forward(self, view: View, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h + self.left(view[0], h) + self.right(view[1], self.dropout(view[1], h))
        for k in (2, 3):
            h = h + torch.tanh(self.twice(view[k], h))
        return self.last(h)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("workers", "method"), [(3, "node-hash"), (7, "dbh")])
def test_residual_model_same_as_single(workers: int, method: str) -> None:
    graph = graph_of(torch.float64)
    assert_equal(step(Residual, graph, workers, method), step(Residual, graph), 1e-10)


Loss = Callable[[Tensor, int], Tensor]

# What one rank may do with its outputs without stopping the others: they must still get its
# mirrors' gradients, which are zeros.
ODD_LOSSES: dict[str, Loss] = {
    "constant": lambda out, rank: torch.zeros((), dtype=out.dtype),
    "ignored": lambda out, rank: torch.ones((), dtype=out.dtype, requires_grad=True) * 2,
    "detached": lambda out, rank: out.detach().sum(),
    "no_rows": lambda out, rank: out[:0].sum(),
}


@pytest.mark.parametrize("method", ["node-hash", "dbh"])
@pytest.mark.parametrize("odd", ODD_LOSSES)
def test_rank_with_an_odd_loss_same_as_single(odd: str, method: str) -> None:
    graph, workers = graph_of(torch.float64), 4
    counted: list[NDArray[np.int64]] = []

    def gradients(comm: Communicator, keys: NDArray[np.int64] | None) -> NDArray[Any]:
        shard = gt.open_shard(graph, comm, method=method)
        model = CASES["gat_edges"]().double()
        view = View(shard, seed=3, step=5)
        out = model(view, view.inputs())
        mine = shard.node_key_L[: shard.num_masters]
        if keys is not None:  # one worker: sum the outputs of the nodes that counted
            loss = out[torch.from_numpy(np.isin(mine, keys))].square().sum()
        elif comm.rank == 1:
            loss = ODD_LOSSES[odd](out, comm.rank)
        else:
            loss = out.square().sum()
            counted.append(mine.copy())
        (loss + view.token).backward()
        flat = torch.cat([gradient(p).flatten() for p in model.parameters()]).numpy()
        comm.all_reduce(flat, stage="gradients")
        return flat

    got = gt.run_local(lambda comm: gradients(comm, None), workers=workers, timeout_s=30)
    keys = np.concatenate(counted)
    assert 0 < len(keys) < graph.num_nodes
    want = gt.run_local(lambda comm: gradients(comm, keys), workers=1)
    assert_equal(got, want, 1e-10)


# Many steps.


def trajectory(
    name: str, workers: int, method: str, dtype: torch.dtype, epochs: int = 50
) -> NDArray[Any]:
    graph = graph_of(dtype)

    def work(comm: Communicator) -> NDArray[Any]:
        shard = gt.open_shard(graph, comm, method=method)
        model = CASES[name]().to(dtype)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
        losses = []
        for epoch in range(epochs):
            view = View(shard, seed=3, step=epoch)
            losses.append(loss_and_gradients(model, shard, view, graph.num_nodes)[0].item())
            optimizer.step()
        return np.array(losses)

    return gt.run_local(work, workers=workers, timeout_s=60, check=True)


def assert_same_trajectory(name: str, workers: int, method: str, dtype: torch.dtype) -> None:
    want = trajectory(name, 1, "node-hash", dtype)
    assert want[-1] < 0.98 * want[0]
    got = trajectory(name, workers, method, dtype)
    tolerance = 1e-8 if dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(got, want, rtol=tolerance)


@pytest.mark.parametrize(
    ("name", "workers", "method", "dtype"),
    [
        ("gcn", 3, "node-hash", torch.float32),
        ("gat", 4, "dbh", torch.float64),
        ("gcn_batch_norm", 2, "edge-hash", torch.float64),
    ],
)
def test_trajectory_same_as_single(
    name: str, workers: int, method: str, dtype: torch.dtype
) -> None:
    assert_same_trajectory(name, workers, method, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("workers", "method"), list(zip(WORKERS, METHODS, strict=True)))
@pytest.mark.parametrize("name", CASES)
def test_trajectory_same_as_single_in_full(
    name: str, workers: int, method: str, dtype: torch.dtype
) -> None:
    assert_same_trajectory(name, workers, method, dtype)


# What must not pass.


class Branches(nn.Module):
    """Two layers side by side, of one shape; `swapped` runs them in the other order."""

    def __init__(self, swapped: bool) -> None:
        super().__init__()
        with gt.nn.seeded(1):
            self.layers = nn.ModuleList([GCNConv(3, 4), GCNConv(3, 4)])
        self.order = [1, 0] if swapped else [0, 1]

    def forward(self, view: View, x: Tensor) -> Tensor:
        outs = {k: self.layers[k](view[k], x) for k in self.order}
        return outs[0] + 2 * outs[1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("method", ["node-hash", "dbh"])
def test_swapped_branches_raise_collective_mismatch(method: str, check: bool) -> None:
    graph = graph_of(torch.float64)

    def work(comm: Communicator) -> None:
        shard = gt.open_shard(graph, comm, method=method)
        model = Branches(swapped=comm.rank == 1).double()
        loss_and_gradients(model, shard, View(shard))

    with pytest.raises(CollectiveMismatch, match=r"rank . .*'forward layer . sync.* rank . "):
        gt.run_local(work, workers=3, timeout_s=30, check=check)


@pytest.mark.parametrize("method", ["node-hash", "dbh"])
def test_gradient_wanted_on_one_rank_only_raises_collective_mismatch(method: str) -> None:
    graph = graph_of(torch.float64)

    def work(comm: Communicator) -> None:
        shard = gt.open_shard(graph, comm, method=method)
        layer = SAGEConv(3, 4, aggregator="max").double()
        view = View(shard)
        x = view.inputs().clone().requires_grad_(comm.rank == 0)
        (layer(view[0], x).sum() + view.token).backward()

    with pytest.raises(CollectiveMismatch, match=r"torch.float64; (no )?grad.* rank . "):
        gt.run_local(work, workers=3, timeout_s=30, check=True)


# A hub.


@pytest.mark.parametrize("method", ["edge-hash", "dbh"])
def test_star_is_shared_out(method: str) -> None:
    num_nodes = 800
    leaves = np.arange(1, num_nodes)
    graph = to_graph((num_nodes, leaves, np.zeros_like(leaves)), dtype=np.float64)
    held: dict[int, int] = {}

    def work(comm: Communicator) -> None:
        shard = gt.open_shard(graph, comm, method=method)
        held[comm.rank] = shard.num_edges
        # No worker has arrays of the whole graph, either.
        assert len(shard.node_key_L) < 0.35 * num_nodes

    gt.run_local(work, workers=4, timeout_s=30)
    assert sum(held.values()) == num_nodes - 1
    assert max(held.values()) <= 0.3 * (num_nodes - 1)
    for name in ("gat-e", "sage_max", "gcn"):
        want = step(CASES[name], graph)
        assert_equal(step(CASES[name], graph, 4, method), want, 1e-10)
