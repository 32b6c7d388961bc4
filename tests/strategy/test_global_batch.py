"""Global batches: nodes that no target reaches can be pruned, on any number of workers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.run.build import strategy_of
from graphtheta.run.config import RunConfig
from graphtheta.strategy import GlobalBatch
from tests.graphs import to_graph
from tests.nn.steps import CASES, assert_equal


def line(num_train: int) -> gt.Graph:
    """Return a line of 60 nodes, of which the first are training nodes and reach few others."""
    at = np.arange(59)
    made = to_graph((60, np.append(at + 1, at), np.append(at, at + 1)), dtype=np.float64)
    nodes = made.nodes
    for name, column in {
        "label:y": pa.array(np.arange(60) % 4),
        "split:split": pa.array((np.arange(60) < num_train).astype(np.int8)),
    }.items():
        nodes = nodes.set_column(nodes.column_names.index(name), name, column)
    return gt.Graph(nodes, made.edges)


@cache
def train(
    name: str, prune: bool, workers: int = 1, method: str = "node-hash", num_train: int = 5
) -> tuple[list[float], Any, list[int] | None]:
    """Return losses, last weights and the first worker's active edges of each layer."""

    def job(comm: Communicator) -> Any:
        shard = gt.open_shard(line(num_train), comm, method=method)
        model = CASES[name](dropout=0.3).double()
        seen: list[Any] = []
        model.register_forward_pre_hook(lambda module, given: seen.append(given[0].blocks))
        trainer = gt.Trainer(
            model, shard, strategy=GlobalBatch(prune=prune), optimizer="sgd", evaluate_every=99
        )
        trainer.fit(2)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()]).numpy()
        first, second = seen[:2]
        assert first is second
        edges = None if first is None else [block.num_edges for block in first]
        return trainer.history.loss, weights, edges

    found: tuple[list[float], Any, list[int] | None] = gt.run_local(
        job, workers=workers, timeout_s=60
    )
    return found


@pytest.mark.parametrize(("workers", "method"), [(1, "node-hash"), (3, "dbh"), (7, "range")])
@pytest.mark.parametrize("name", ["gcn", "gat", "sage_max"])
def test_nodes_that_no_target_reaches_are_pruned(name: str, workers: int, method: str) -> None:
    losses, weights, edges = train(name, True, workers, method)
    expected, expected_weights, all_edges = train(name, False)
    assert all_edges is None
    assert edges is not None
    assert_equal(losses, expected, 1e-9)
    assert_equal(weights, expected_weights, 1e-8)


def test_one_worker_computes_only_in_edges_of_targets() -> None:
    edges = train("gcn", True)[2]
    assert edges is not None
    assert edges[-1] == 9  # of 5 nodes at the end of a line
    assert edges == sorted(edges, reverse=True)


def test_nothing_is_pruned_if_it_saves_little() -> None:
    assert train("gcn", True, num_train=60)[2] is None


def test_command_line_prunes_unless_statistics_are_over_all_nodes() -> None:
    def prunes(**options: Any) -> bool:
        strategy = strategy_of(RunConfig(input="cora", run_dir="run", **options))
        assert isinstance(strategy, GlobalBatch)
        return strategy.prune

    assert prunes()
    assert not prunes(batch_norm=True)
    assert not prunes(task="link")
