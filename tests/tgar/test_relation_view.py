"""Layers by relation in batches: exact ones equal the whole graph, sampled ones any workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.nn import GCNConv, HeteroConv, SAGEConv, seeded
from graphtheta.tgar import Fanout, Neighbourhoods, View
from tests.graphs import power_law, to_graph
from tests.nn.steps import assert_equal
from tests.nn.typed_pairs import (
    COUNTS,
    EDGES,
    NUM_NODES,
    RELATIONS,
    WIDTH,
    X,
    typed_graph_for_pyg,
)

SETUPS = [(1, "node-hash"), (2, "node-hash"), (3, "dbh")]
SEEDS = np.arange(0, COUNTS["paper"], 3)  # node keys of papers


@pytest.fixture(scope="module")
def graph() -> gt.Graph:
    return typed_graph_for_pyg()


def layers() -> nn.ModuleList:
    with seeded(3):
        return nn.ModuleList(
            HeteroConv(
                {
                    relation: SAGEConv(WIDTH, WIDTH)
                    if relation[0] != relation[2]
                    else GCNConv(WIDTH, WIDTH)
                    for relation in RELATIONS
                }
            )
            for _ in range(2)
        ).double()


def outputs(
    graph: Any, workers: int, method: str, fanouts: list[Fanout | None] | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the outputs of some papers, by node key, and the gradient of the inputs."""

    def work(comm: Communicator) -> tuple[NDArray[Any], NDArray[Any]]:
        shard = gt.open_shard(graph, comm, method=method)
        keys = shard.node_key_L[: shard.num_masters]
        mine = np.flatnonzero(np.isin(keys, SEEDS))
        blocks = None
        if fanouts is not None:
            _ = shard.in_degree_by_type
            blocks = Neighbourhoods(shard).blocks(mine, fanouts, seed=1, step=2)
        view = View(shard, seed=1, step=2, blocks=blocks)
        x = torch.from_numpy(X[keys]).requires_grad_()
        h = view.of_inputs(x)
        for number, layer in enumerate(layers()):
            h = layer(view[number], h).sin()
        h = h if blocks else h[mine]
        scale = torch.from_numpy(np.cos(keys[mine] + 1.0))[:, None]
        ((h * scale).sum() + view.token).backward()
        out = np.zeros((NUM_NODES, WIDTH))
        grad = np.zeros_like(out)
        out[keys[mine]], grad[keys] = h.detach().numpy(), x.grad
        for array in (out, grad):
            comm.all_reduce(array, stage="test")
        return out, grad

    return gt.run_local(work, workers=workers, timeout_s=60)


@pytest.mark.parametrize(("workers", "method"), SETUPS)
def test_exact_batch_is_a_part_of_the_whole(graph: Any, workers: int, method: str) -> None:
    want = outputs(graph, 1, "node-hash", None)
    got = outputs(graph, workers, method, [None, None])
    for ours, theirs in zip(got, want, strict=True):
        assert_equal(ours, theirs, 1e-12)


@pytest.mark.parametrize("replace", [False, True])
def test_fanouts_by_relation_do_not_depend_on_workers(graph: Any, replace: bool) -> None:
    sizes: tuple[int | None, ...] = (2, 1, None, 1, 0, 3)
    fanouts = [Fanout(sizes, replace), Fanout(sizes[::-1], replace)]
    want, *others = (outputs(graph, *setup, fanouts) for setup in SETUPS)
    for got in others:
        for ours, theirs in zip(got, want, strict=True):
            assert_equal(ours, theirs, 1e-12)


def test_fanouts_by_relation_draw_that_many(graph: Any) -> None:
    sizes = (2, 1, None, 1, 0, 3)
    shard = gt.open_shard(graph)
    rows = np.arange(shard.num_masters)
    (block,) = Neighbourhoods(shard).blocks(rows, [Fanout(sizes)])
    row = np.repeat(rows, np.diff(block.in_edges.indptr))
    relation = np.searchsorted(shard.manifest.first_edge_keys, block.edge_key, "right") - 1
    for number, (ends, size) in enumerate(zip(EDGES.values(), sizes, strict=True)):
        all_of_node = shard.in_degree_by_type[:, number].numpy()
        drawn = np.bincount(row[relation == number], minlength=len(rows))
        limit = all_of_node if size is None else np.minimum(all_of_node, size)
        np.testing.assert_array_equal(drawn, limit)
        assert all_of_node.sum() == ends.shape[1]
    assert len(np.unique(block.edge_key)) == block.num_edges
    assert (np.diff(block.edge_key)[np.diff(row) == 0] > 0).all()


@pytest.mark.parametrize(("workers", "method"), SETUPS)
def test_fanouts_of_the_only_relation_are_those_in_total(workers: int, method: str) -> None:
    untyped = to_graph(power_law(40, 200))

    def train(fanouts: Any) -> list[float]:
        def work(comm: Communicator) -> list[float]:
            shard = gt.open_shard(untyped, comm, method=method)
            model = gt.nn.GraphSAGE(shard.num_features, 4, shard.num_outputs("y"))
            strategy = gt.MiniBatch(8, fanouts)
            trainer = gt.Trainer(model, shard, label="y", strategy=strategy)
            trainer.fit(epochs=2)
            return list(trainer.history.loss)

        return gt.run_local(work, workers=workers, timeout_s=60)

    assert train({"node-to-node": [2, 3]}) == train([2, 3])
