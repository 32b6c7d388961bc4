"""Layers that are linear in their messages give the same result for both orders of products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphtheta as gt
from graphtheta.nn import GCNConv, SAGEConv
from graphtheta.nn.conv import gcn, sage
from graphtheta.nn.conv.order import projects_first
from graphtheta.tgar import Fanout, Neighbourhoods, View
from tests.graphs import power_law, to_graph
from tests.nn.steps import assert_equal

GRAPH = to_graph(power_law(300, 6_000))
LAYERS: dict[str, Any] = {
    "gcn": lambda: GCNConv(12, 8),
    "sage": lambda: SAGEConv(12, 8),
    "sage-sum": lambda: SAGEConv(12, 8, aggregator="sum"),
}
H = torch.empty(0, 0)  # dense: only sparse rows decide the order


def sampled(shard: gt.Shard, outputs: int) -> View:
    """Return a batch of one layer with about four inputs for each output."""
    rows = np.arange(min(outputs, shard.num_masters))
    return View(shard, blocks=Neighbourhoods(shard).blocks(rows, [Fanout(4)]))


def inputs(view: View, *, requires_grad: bool = False) -> Tensor:
    keys = torch.from_numpy(view[0].node_keys.copy())
    h = torch.sin(keys[:, None].double() + torch.arange(12))
    return h.requires_grad_(requires_grad)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_both_orders_give_the_same(
    name: str, requires_grad: bool, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, results = gt.open_shard(GRAPH), []
    for first in (False, True):
        for module in (gcn, sage):
            monkeypatch.setattr(module, "projects_first", lambda *_, first=first: first)
        torch.manual_seed(0)
        layer = LAYERS[name]().double()
        view = View(shard) if whole else sampled(shard, 20)
        h = inputs(view, requires_grad=requires_grad)
        out = layer(view[0], h)
        weights = torch.cos(torch.arange(out.numel(), dtype=out.dtype)).view_as(out)
        torch.autograd.backward((out * weights).sum() + view.token)
        leaves = [*layer.parameters(), *([h] if requires_grad else [])]
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for one, other in zip(*results, strict=True):
        assert_equal(one, other, 1e-12)


def test_projects_the_fewer_rows() -> None:
    shard = gt.open_shard(GRAPH)
    whole, few = View(shard)[0], sampled(shard, 20)[0]
    assert few.block.active.inputs > 2 * few.block.active.outputs
    # With all nodes both orders multiply as much, so the smaller width is gathered and sent.
    assert projects_first(whole, H, 128, 64)
    assert projects_first(whole, H, 65, 64)
    assert not projects_first(whole, H, 64, 64)
    # With sampled edges there are fewer products after the sum.
    assert not projects_first(few, H, 128, 64)
    assert not projects_first(few, H, 128, 128)
    assert projects_first(few, H, 1024, 4)


@pytest.mark.parametrize("method", ["node-hash", "dbh"])
def test_all_workers_choose_the_same_order(method: str) -> None:
    def job(comm: gt.Communicator) -> Any:
        shard = gt.open_shard(GRAPH, comm, method=method)
        view = sampled(shard, 20 if comm.rank == 0 else 0)
        widths = [(1024, n) for n in range(1, 64)]
        chosen = [int(projects_first(view[0], H, *width)) for width in widths]
        assert 0 < sum(chosen) < len(widths)
        theirs = np.stack(comm.all_gather(np.array([chosen]), stage="choices"))
        return bool((theirs == theirs[0]).all())

    assert gt.run_local(job, workers=3, timeout_s=60)
