"""Cluster-batches: identities with other strategies, any number of workers, and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError
from graphtheta.nn import GAT, GCN, LOSSES, RGCN, GraphSAGE
from graphtheta.partition import Plan, make_store
from graphtheta.partition.store.communities import write_communities
from graphtheta.shard.shard import Shard
from graphtheta.strategy import STRATEGIES, Batch, ClusterBatch, GlobalBatch, NodeTargets
from graphtheta.strategy.dense_ids import dense_ids
from graphtheta.tgar import Neighbourhoods, View
from tests.graphs import random_graph, to_graph
from tests.nn.steps import assert_equal

N = 90
GRAPH = to_graph(random_graph(N, 400), dtype=np.float64)
OF_NODE = np.random.default_rng(1).integers(0, 12, N) * 3  # with gaps: most numbers are unused
SETUPS = [(2, "node-hash"), (3, "dbh"), (4, "node-hash"), (4, "dbh")]
MODELS: dict[str, Callable[..., nn.Module]] = {
    "gcn": lambda **o: GCN(3, 6, 4, seed=1, **o),
    "gat": lambda **o: GAT(3, 4, 4, heads=2, edge_dim=2, seed=1, **o),
    "rgcn": lambda **o: RGCN(3, 6, 4, num_relations=5, seed=1, **o),
    "sage": lambda **o: GraphSAGE(3, 6, 4, aggregator="max", seed=1, **o),
}


def losses(
    strategy: Any,
    model: str = "gcn",
    workers: int = 1,
    method: str = "node-hash",
    graph: Any = GRAPH,
    epochs: int = 3,
) -> list[float]:
    """Return the mean loss of every epoch, dropout on, by Adam in double precision."""

    def work(comm: Communicator) -> list[float]:
        shard = gt.open_shard(graph, comm, method=method)
        made = MODELS[model](dropout=0.4).double()
        trainer = gt.Trainer(made, shard, strategy=strategy, lr=0.02, seed=4, evaluate_every=100)
        trainer.fit(epochs)
        return trainer.history.loss

    return gt.run_local(work, workers=workers, timeout_s=60, check=True)


# -- identities -----------------------------------------------------------------------------------


class Exact:
    """Strategy with the targets of another one and their exact neighbourhoods."""

    def __init__(self, strategy: ClusterBatch) -> None:
        self.strategy = strategy

    def schedule(self, shard: Shard, *args: Any, layers: int, seed: int, **options: Any) -> Any:
        given = self.strategy.schedule(shard, *args, layers=layers, seed=seed, **options)
        neighbourhoods = Neighbourhoods(shard)

        def steps(epoch: int) -> Iterator[Callable[[], Batch]]:
            batches = [step() for step in given(epoch)]
            for number, batch in enumerate(batches):
                blocks = neighbourhoods.blocks(batch.step_targets.seeds, [None] * layers)
                view = View(shard, seed=seed, step=epoch * len(batches) + number, blocks=blocks)
                yield partial(Batch.of, view, batch.step_targets)

        return steps


@pytest.mark.parametrize(("workers", "method"), [(1, "node-hash"), (3, "dbh"), (2, "node-hash")])
@pytest.mark.parametrize("hops", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_as_many_hops_as_layers_is_exact(hops: int, workers: int, method: str) -> None:
    strategy = ClusterBatch(3, OF_NODE, boundary_hops=hops)
    want = losses(Exact(strategy), "gat", workers, method)
    assert_equal(losses(strategy, "gat", workers, method), want, 1e-12)
    fewer = losses(ClusterBatch(3, OF_NODE, boundary_hops=1), "gat", workers, method)
    assert np.abs(np.array(fewer) - want).max() > 1e-4


def induced(graph: Graph, keep: NDArray[np.bool_]) -> Graph:
    """Return the induced subgraph of some nodes."""
    new = np.cumsum(keep) - 1
    inside = keep[graph.src] & keep[graph.dst]
    edges = graph.edges.filter(pa.array(inside))
    for name, ends in (("src", graph.src), ("dst", graph.dst)):
        column = edges.column_names.index(name)
        edges = edges.set_column(column, name, pa.array(new[ends[inside]]))
    return Graph(graph.nodes.filter(pa.array(keep)), edges)


def flat_step(model: str, shard: Shard, batch: Batch) -> NDArray[Any]:
    """Return the loss and gradients of a step without dropout, of all workers."""
    made = MODELS[model](dropout=0.0).double()
    outputs = made(batch.view, batch.view.inputs())[batch.rows]
    loss, _ = batch.step_targets.loss(batch.view, outputs)
    with torch.autograd.set_multithreading_enabled(False):
        (loss + batch.view.token).backward()
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in made.parameters()]
    flat = torch.cat([loss.detach().reshape(1)] + [g.flatten() for g in grads])
    shard.comm.all_reduce(flat.numpy(), stage="test")
    return flat.numpy()


def train_nodes(shard: Shard) -> NodeTargets:
    y, known = shard.label("y")
    rows = torch.nonzero((shard.split("split") == 1) & known).flatten()
    return NodeTargets(shard, rows, lambda out, nodes: LOSSES["multiclass"](out, y[nodes]))


@pytest.mark.parametrize(("workers", "method"), [(1, "node-hash"), *SETUPS])
@pytest.mark.parametrize("model", MODELS)
def test_no_hops_is_the_induced_subgraph(model: str, workers: int, method: str) -> None:
    chosen = [0, 3, 9, 12, 15]
    strategy = ClusterBatch(5, OF_NODE, only=chosen, renormalise=True)

    def clustered(comm: Communicator) -> NDArray[Any]:
        shard = gt.open_shard(GRAPH, comm, method=method)
        (step,) = strategy.schedule(shard, train_nodes(shard), layers=2, seed=0)(0)
        return flat_step(model, shard, step())

    def single(comm: Communicator) -> NDArray[Any]:
        shard = gt.open_shard(induced(GRAPH, np.isin(OF_NODE, chosen)), comm)
        (step,) = GlobalBatch().schedule(shard, train_nodes(shard), layers=2, seed=0)(0)
        return flat_step(model, shard, step())

    want = gt.run_local(single, workers=1)
    assert np.abs(want[1:]).max() > 0
    assert_equal(gt.run_local(clustered, workers=workers, timeout_s=60, check=True), want, 1e-11)


def test_degrees_are_of_the_whole_graph_unless_renormalised() -> None:
    shard = gt.open_shard(GRAPH)
    targets = train_nodes(shard)
    for renormalise in (False, True):
        strategy = ClusterBatch(2, OF_NODE, renormalise=renormalise)
        for step in strategy.schedule(shard, targets, layers=2, seed=0)(0):
            view = step().view
            for layer in range(2):
                got = view[layer].node_column("in_degree", self_loops=False)
                whole = view[layer].block.of_inputs(shard.node_column("in_degree"))
                assert torch.equal(got, whole) != renormalise
                assert bool((got <= whole).all())
            upper = view[1].node_column("in_degree", self_loops=False)
            assert torch.equal(got, upper)


def test_all_communities_in_a_step_are_a_global_batch() -> None:
    want = losses(gt.GlobalBatch())
    strategy = ClusterBatch(100, np.zeros(N, np.int64))
    assert_equal(losses(strategy), want, 1e-12)
    assert_equal(losses(strategy, workers=3, method="dbh"), want, 1e-9)


# -- any number of workers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("gcn", {}),
        pytest.param("gcn", {"boundary_hops": 1}, marks=pytest.mark.slow),
        pytest.param("gat", {"renormalise": True}, marks=pytest.mark.slow),
        ("gat", {"boundary_hops": 1, "renormalise": True}),
        ("rgcn", {"boundary_hops": 2, "only": [0, 6, 9, 21]}),
        ("sage", {"boundary_hops": 1, "only": [3, 12, 15, 18, 27]}),
    ],
    ids=str,
)
def test_losses_are_the_same_on_any_number_of_workers(model: str, options: Any) -> None:
    strategy = ClusterBatch(2, OF_NODE, **options)
    want = losses(strategy, model)
    for workers, method in SETUPS:
        assert_equal(losses(strategy, model, workers, method), want, 1e-9)


def test_workers_may_have_no_target_and_no_node() -> None:
    graph = to_graph(random_graph(7, 16, seed=2), dtype=np.float64)
    graph = Graph(
        graph.nodes.set_column(
            graph.nodes.column_names.index("split:split"),
            "split:split",
            pa.array(np.array([1, 1, 0, 1, 1, 2, 0], np.int8)),
        ),
        graph.edges,
    )
    strategy = ClusterBatch(1, np.array([0, 0, 0, 1, 2, 2, 1]), boundary_hops=1, renormalise=True)
    want = losses(strategy, graph=graph)
    for workers, method in [(4, "dbh"), (7, "node-hash"), (7, "dbh")]:
        assert_equal(losses(strategy, "gcn", workers, method, graph), want, 1e-9)


@pytest.mark.parametrize("method", ["node-hash", "dbh"])
def test_communities_of_a_store(method: str, tmp_path: Path) -> None:
    store = make_store(GRAPH, tmp_path / "store", Plan(4, method))
    write_communities(store, "mine", OF_NODE)
    want = losses(ClusterBatch(2, OF_NODE, boundary_hops=1))
    for workers in (1, 2, 4):
        strategy = ClusterBatch(2, "mine", boundary_hops=1)
        assert_equal(losses(strategy, workers=workers, graph=store.path), want, 1e-9)


def test_communities_found_before_training() -> None:
    want = losses(ClusterBatch(2, "hanp"))
    for workers, method in SETUPS:
        assert_equal(losses(ClusterBatch(2, "hanp"), "gcn", workers, method), want, 1e-9)


# -- targets of a step ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_an_epoch_visits_each_training_node_once_with_its_community(workers: int) -> None:
    def work(comm: Communicator) -> list[tuple[list[int], list[int]]]:
        shard = gt.open_shard(GRAPH, comm, method="dbh")
        steps = ClusterBatch(4, OF_NODE).schedule(shard, train_nodes(shard), layers=2, seed=0)
        epochs = []
        for epoch in range(2):
            keys = [shard.node_key_L[step().step_targets.targets] for step in steps(epoch)]
            seen = [np.concatenate(comm.all_gather(k, stage="test")) for k in keys]
            epochs.append([sorted(s.tolist()) for s in seen])
        return epochs

    first, second = gt.run_local(work, workers=workers, timeout_s=60)
    split = GRAPH.nodes["split:split"].to_numpy() == 1
    known = GRAPH.nodes["label:y"].is_valid().to_numpy()
    want = np.flatnonzero(split & known).tolist()
    assert first != second
    for epoch in (first, second):
        assert sorted(key for step in epoch for key in step) == want
        communities = [set(OF_NODE[step].tolist()) for step in epoch]
        assert sum(map(len, communities)) == len(set().union(*communities))
        sizes = [len(c) for c in communities]
        assert len(sizes) == -(-sum(sizes) // 4)
        assert max(sizes) <= 4
        assert max(sizes) - min(sizes) <= 1


def test_dense_ids_of_repeated_and_uncounted_keys() -> None:
    keys = np.array([5, 900, 5, 7, 30, 900, 12])
    counted = np.array([False, True, True, False, True, False, False])

    def work(comm: Communicator) -> Any:
        mine = np.arange(comm.rank, len(keys), comm.size)
        ranks, number = dense_ids(keys[mine], 1000, comm, counted[mine])
        out = np.zeros(len(keys), np.int64)
        out[mine] = ranks
        comm.all_reduce(out, stage="test")
        return out.tolist(), number

    for workers in (1, 2, 4):
        assert gt.run_local(work, workers=workers) == ([0, 2, 0, -1, 1, 2, -1], 3)


# -- errors ---------------------------------------------------------------------------------------


def test_it_is_in_the_registry() -> None:
    assert STRATEGIES["cluster"] is gt.ClusterBatch is ClusterBatch


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClusterBatch(0), "expected clusters_per_batch >= 1, got 0"),
        (lambda: ClusterBatch(1, boundary_hops=-1), "expected boundary_hops >= 0, got -1"),
        (lambda: ClusterBatch(2.5), "clusters_per_batch >= 1, got 2.5. Give an int"),  # type: ignore
        (lambda: ClusterBatch(1, only=[]), "expected communities in only, got none"),
        (lambda: ClusterBatch(1, only=3), "expected communities in only, got 3"),  # type: ignore
        (lambda: ClusterBatch(1, only=["a"]), "in only, got .'a'."),  # type: ignore
        (lambda: ClusterBatch(1, only=np.array([0.5, 1])), r"in only, got \[0.5 1. \]"),
        (lambda: ClusterBatch(1, only=[10**20]), "expected communities in only, got"),
    ],
)
def test_wrong_options_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("communities", "only", "message"),
    [
        ("louvain", None, "expected a store with communities 'louvain'"),
        (OF_NODE[1:], None, r"expected \(90,\) integers from 0"),
        (OF_NODE - 1, None, r"expected \(90,\) integers from 0"),
        (OF_NODE * 1.0, None, r"got \(90,\) float64"),
        (OF_NODE, [0, 4], r"got \[4\], which have no node"),
        (np.where(np.arange(N) == 2, 99, 0), [99], "expected a training target in only"),
    ],
)
def test_what_does_not_fit_the_graph_is_refused(
    communities: Any, only: Any, message: str, workers: int
) -> None:
    assert GRAPH.nodes["split:split"][2].as_py() != 1
    with pytest.raises(ConfigError, match=message) as caught:
        losses(ClusterBatch(1, communities, only=only), workers=workers)
    assert "\n" not in str(caught.value)


def test_error_for_an_unknown_name_lists_the_communities(tmp_path: Path) -> None:
    store = make_store(GRAPH, tmp_path / "store", Plan(2))
    write_communities(store, "mine", OF_NODE)
    with pytest.raises(ConfigError, match="expected communities 'theirs', got 'mine'"):
        losses(ClusterBatch(1, "theirs"), workers=2, graph=store.path)
