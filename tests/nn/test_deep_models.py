"""Connections between layers: a batch computes what the whole graph does, on any workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.nn import (
    APPNP,
    GAT,
    GCN,
    GCNII,
    HGT,
    LOSSES,
    SGC,
    SIGN,
    BatchNorm,
    Dropout,
    GATConv,
    GINConv,
    GraphSAGE,
    SimpleHGN,
    seeded,
)
from graphtheta.tgar import Neighbourhoods, View, count_layers
from tests.graphs import random_graph, to_graph
from tests.nn.steps import Make, assert_equal, gradient

SETUPS = [(1, "node-hash"), (3, "dbh")]


class Shared(nn.Module):
    """One layer with dropout on edges, used at three depths with residual connections."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(1):
            self.convs = nn.ModuleList([GATConv(3, 3, dropout=0.3)] * 3)
        self.dropout = Dropout(0.2)

    def forward(self, view: View, x: Tensor) -> Tensor:
        h = x
        for k, conv in enumerate(self.convs):
            h = conv(view[k], self.dropout(view[k], h)) + view[k].carry(h)
        last = view[len(self.convs) - 1]
        return torch.cat([h, last.carry(x)], 1)[:, :4]


# For graphs of `to_graph`: 3 features, 4 classes.
DEEP: dict[str, Make] = {
    "shared": Shared,
    "appnp": lambda: APPNP(3, 6, 4, num_layers=4),
    "gcnii": lambda: GCNII(3, 6, 4, num_layers=4),
    "sgc": lambda: SGC(3, 6, 4, num_layers=3, dropout=0.2),
    "sign": lambda: SIGN(3, 6, 4, num_layers=3),
    "residual": lambda: GCN(3, 6, 4, num_layers=3, residual=True, norm="layer"),
    "cat": lambda: GraphSAGE(3, 6, 4, num_layers=3, residual=True, jumping_knowledge="cat"),
    "max": lambda: GAT(3, 2, 4, heads=2, num_layers=3, jumping_knowledge="max"),
}


def step(
    make: Make, workers: int, method: str, *, is_batch: bool, training: bool = True
) -> NDArray[Any]:
    """Return the loss of every third node and all gradients, with dropout, on rank 0."""
    graph = to_graph(random_graph(40, 160), dtype=np.float64)

    def work(comm: Communicator) -> NDArray[Any]:
        shard = gt.open_shard(graph, comm, method=method)
        model = make().double().train(training)
        y, known = shard.label("y")
        keys = shard.node_key_L[: shard.num_masters]
        rows = np.flatnonzero((keys % 3 == 0) & known.numpy())
        blocks = Neighbourhoods(shard).blocks(rows, [None] * count_layers(model))
        view = View(shard, seed=3, step=5, blocks=blocks if is_batch else None)
        out = model(view, view.inputs())
        loss, _ = LOSSES["multiclass"](out if is_batch else out[rows], y[rows])
        (loss + view.token).backward()
        flat = [loss.detach().reshape(1), *(gradient(p).flatten() for p in model.parameters())]
        result = torch.cat(flat).numpy()
        comm.all_reduce(result, stage="test")
        return result

    return gt.run_local(work, workers=workers, timeout_s=30, check=True)


class DeepGIN(nn.Module):
    """GIN as it is usually made: with batch normalisation and dropout inside."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(1):
            sizes = [(3, 4), (4, 4), (4, 4)]
            self.convs = nn.ModuleList(
                GINConv(nn.Sequential(nn.Linear(*s), BatchNorm(4), nn.ReLU(), Dropout(0.2)))
                for s in sizes
            )

    def forward(self, view: View, x: Tensor) -> Tensor:
        for k, conv in enumerate(self.convs):
            x = conv(view[k], x)
        return x


STRATEGIES: dict[str, Callable[[], Any]] = {
    "global": gt.GlobalBatch,
    "mini": lambda: gt.MiniBatch(7, fanouts=[3, None, 2]),
    "cluster": lambda: gt.ClusterBatch(2, "hanp", boundary_hops=1, renormalise=True),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("make", [Shared, DeepGIN, lambda: GCNII(3, 6, 4, num_layers=3)])
def test_every_strategy_trains_alike_on_any_workers(make: Make, strategy: str) -> None:
    graph = to_graph(random_graph(40, 160), dtype=np.float64)

    def train(comm: Communicator) -> list[float]:
        shard = gt.open_shard(graph, comm, method="dbh" if comm.size > 1 else "node-hash")
        trainer = gt.Trainer(make().double(), shard, strategy=STRATEGIES[strategy](), lr=0.01)
        trainer.fit(2)
        return [*trainer.history.loss, float(trainer.evaluate()["val_accuracy"])]

    alone = gt.run_local(train, workers=1)
    assert_equal(gt.run_local(train, workers=3), alone, 1e-9)


@pytest.mark.parametrize("name", DEEP)
def test_batches_compute_what_the_whole_graph_does(name: str) -> None:
    want = step(DEEP[name], 1, "node-hash", is_batch=False)
    assert np.count_nonzero(want) > len(want) / 2
    for workers, method in SETUPS:
        assert_equal(step(DEEP[name], workers, method, is_batch=True), want, 1e-10)


def test_a_shared_layer_draws_other_numbers_at_each_depth() -> None:
    shard = gt.open_shard(to_graph(random_graph(20, 80)))
    view, x = View(shard), torch.ones(20, 3)
    dropout, conv = Dropout(0.5), GATConv(3, 64, dropout=0.5)
    assert not dropout(view[0], x).equal(dropout(view[1], x))
    assert not conv(view[0], x).equal(conv(view[1], x))
    assert count_layers(Shared()) == 3


def test_carry_refuses_rows_of_other_layers() -> None:
    shard = gt.open_shard(to_graph(random_graph(40, 160)))
    blocks = Neighbourhoods(shard).blocks(np.arange(2), [None] * 3)
    view = View(shard, blocks=blocks)
    x = view.inputs()
    for k in range(3):
        assert view[k].carry(x).equal(x[: blocks[k].num_outputs])
    assert view[0].carry(x).equal(view.of_inputs(shard.features)[: blocks[1].num_inputs])
    for rows in (1, len(x) + 1):
        with pytest.raises(ConfigError, match=rf"view\[2\].carry: expected rows .* got {rows} row"):
            view[2].carry(x.new_zeros(rows, 3))


def test_models_refuse_connections_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"norm \(--norm\): expected one of batch, layer, got"):
        GCN(3, 4, 2, norm="graph")
    with pytest.raises(ConfigError, match=r"expected batch with batch_norm"):
        GCN(3, 4, 2, batch_norm=True, norm="layer")
    with pytest.raises(ConfigError, match=r"jumping_knowledge .*: expected one of cat, last, max"):
        GCN(3, 4, 2, jumping_knowledge="sum")
    metadata = ["node"], [("node", "to", "node")]
    for make in (
        lambda: HGT(3, 4, 2, metadata=metadata, residual=True),
        lambda: SimpleHGN(3, 4, 2, num_relations=2, jumping_knowledge="cat"),
    ):
        with pytest.raises(ConfigError, match="since it has connections of its own"):
            make()
