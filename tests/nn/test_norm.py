from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.data.graph import Graph
from graphtheta.nn import BatchNorm
from graphtheta.tgar import View
from tests.graphs import random_graph, to_graph
from tests.nn.steps import assert_equal, cotangent, run_layer

NUM_NODES, COLUMNS = 90, 3


@pytest.fixture(scope="module")
def graph() -> Graph:
    return to_graph(random_graph(NUM_NODES, 200), dtype=np.float64)


def started(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))  # type: ignore[operator,union-attr]
        norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))  # type: ignore[operator,union-attr]
    return norm.double()


@pytest.mark.parametrize(("workers", "method"), [(1, "dbh"), (3, "node-hash"), (7, "dbh")])
def test_batch_norm_same_as_torch(workers: int, method: str, graph: Graph) -> None:
    x = torch.from_numpy(graph.features.copy()).requires_grad_()
    theirs = started(nn.BatchNorm1d(COLUMNS))
    out = theirs(x)
    out.backward(torch.from_numpy(cotangent(out.shape)))
    ours: list[nn.Module] = []

    def make() -> nn.Module:
        ours.append(started(BatchNorm(COLUMNS)))
        return ours[-1]

    run = run_layer(make, graph, workers, method)
    assert_equal(run.out_NO, out.detach(), 1e-12)
    assert x.grad is not None
    assert_equal(run.x_grad_NF, x.grad, 1e-12)
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        assert_equal(run.parameter_grads[name], parameter.grad, 1e-12)
    for norm in ours:  # the same running statistics on every rank, named as torch's
        state = theirs.state_dict()
        assert list(norm.state_dict()) == list(state)
        for name, value in norm.state_dict().items():
            assert_equal(value, state[name], 1e-12)


def test_batch_norm_uses_running_statistics_in_evaluation(graph: Graph) -> None:
    theirs, ours = started(nn.BatchNorm1d(COLUMNS)), started(BatchNorm(COLUMNS))
    x = torch.from_numpy(graph.features.copy())
    view = View(gt.open_shard(graph))
    for _ in range(3):
        theirs(x), ours(view[0], x)
    theirs.eval(), ours.eval()
    torch.testing.assert_close(ours(view[0], x), theirs(x))
    ours.load_state_dict(theirs.state_dict())


def many_steps(graph: Graph, workers: int, dtype: torch.dtype, steps: int) -> np.ndarray:
    """Normalise columns far from zero; return the output of the last step by node_key."""
    x_NF = graph.features.astype(np.float32) + 300

    def work(comm: Communicator) -> np.ndarray:
        shard = gt.open_shard(graph, comm, method="dbh")
        keys = torch.from_numpy(shard.node_key_L[: shard.num_masters].copy())
        x = torch.from_numpy(x_NF)[keys].to(dtype)
        norm = BatchNorm(COLUMNS).to(dtype)
        for _ in range(steps):
            out = norm(View(shard)[0], x)
        whole = np.zeros((NUM_NODES, COLUMNS))
        whole[keys] = out.detach()
        comm.all_reduce(whole, stage="test")
        return whole

    return gt.run_local(work, workers=workers, timeout_s=30)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("workers", [1, 3])
def test_batch_norm_does_not_cancel_far_from_zero(workers: int, steps: int, graph: Graph) -> None:
    # In the first step the shift is zero, so that float64 sums must suffice.
    precise = many_steps(graph, 1, torch.float64, steps)
    rough = many_steps(graph, workers, torch.float32, steps)
    assert np.abs(rough - precise).max() < 1e-5


def test_batch_norm_of_one_node_and_of_none() -> None:
    for num_nodes, workers in ((1, 1), (2, 2)):
        graph = to_graph(random_graph(num_nodes, 3), dtype=np.float64)
        run = run_layer(lambda: BatchNorm(COLUMNS), graph, workers)
        assert np.isfinite(run.out_NO).all()
        assert np.isfinite(run.x_grad_NF).all()


def test_batch_norm_has_a_readable_form() -> None:
    assert repr(BatchNorm(4)) == "BatchNorm(4, eps=1e-05, momentum=0.1)"
