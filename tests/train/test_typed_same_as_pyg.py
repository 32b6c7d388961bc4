"""Training of typed layers: losses and gradients equal PyG's, on any workers and strategies.

One worker records the edges, the outputs and the dropout mask of each layer at each step, and PyG
computes with these. So dropout and sampling are compared, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.nn import Dropout
from graphtheta.strategy import ClusterBatch, GlobalBatch, MiniBatch, Strategy
from graphtheta.tgar import View, ViewModule
from tests.nn.steps import assert_equal, gradient
from tests.nn.typed_pairs import (
    COUNTS,
    EDGES,
    FIRST_EDGE,
    NUM_NODES,
    PAIRS,
    SETUPS,
    TOLERANCE,
    WIDTH,
    Pair,
    X,
    typed_graph_for_pyg,
)

pytestmark = pytest.mark.filterwarnings("ignore:There exist node types")

CLASSES, DROPOUT, LR, EPOCHS = 4, 0.3, 0.01, 50
TRAJECTORY = {torch.float64: 1e-8, torch.float32: 1e-4}
PAPERS = COUNTS["paper"]
IS_TRAINED = np.arange(NUM_NODES) < 16  # papers come first
LABELS = np.random.default_rng(5).integers(0, CLASSES, PAPERS)
COMMUNITIES = np.random.default_rng(1).integers(0, 4, NUM_NODES)
GRAPH = typed_graph_for_pyg(
    **{
        "label:y": LABELS,
        "split:split": pa.array(np.where(IS_TRAINED[:PAPERS], 1, 2).astype(np.int8)),
    }
)
TRAINED = ["rgcn", "rgcn_bases", "rgat", "hgt", "han", "sage_mean", "sage_max"]
WAYS: dict[str, Callable[[], Strategy]] = {
    "global": GlobalBatch,
    "mini": lambda: MiniBatch(8),
    "mini in total": lambda: MiniBatch(8, [4, 3]),
    "mini by relation": lambda: MiniBatch(8, {r: [2, 1 + n % 2] for n, r in enumerate(EDGES)}),
    "cluster": lambda: ClusterBatch(2, COMMUNITIES, renormalise=True),
}


@dataclass(frozen=True)
class Layer:
    """What one layer computes on in a step."""

    edges: NDArray[np.int64]  # keys
    outputs: NDArray[np.int64]  # keys
    mask_NF: Tensor  # of the inputs, by key


class Model(ViewModule):
    """Two layers with dropout, which records what it computes on."""

    takes = View

    def __init__(
        self, pair: Pair, weights: list[dict[str, Tensor]], dtype: torch.dtype, *, records: bool
    ) -> None:
        super().__init__()
        convs = pair.ours(WIDTH, WIDTH), pair.ours(WIDTH, CLASSES)
        self.convs = nn.ModuleList(convs).to(dtype)
        for conv, tensors in zip(self.convs, weights, strict=True):
            conv.load_state_dict(tensors)
        self.dropout = Dropout(DROPOUT)
        self.steps: list[list[Layer]] | None = [] if records else None

    def forward(self, view: View, _: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        h = torch.from_numpy(X[view[0].node_keys]).to(dtype)
        if self.training and self.steps is not None:
            self.steps.append([self.record(view, k, dtype) for k in (0, 1)])
        h = torch.tanh(self.convs[0](view[0], self.dropout(view[0], h)))
        out: Tensor = self.convs[1](view[1], self.dropout(view[1], h))
        return out

    def record(self, view: View, k: int, dtype: torch.dtype) -> Layer:
        twin = View(view.shard, blocks=view.blocks)  # its own draws do not change the view's
        twin.step_key = view.step_key
        block, ones = view[k].block, torch.ones(len(view[k].node_keys), WIDTH, dtype=dtype)
        mask = torch.zeros(NUM_NODES, WIDTH, dtype=dtype)
        mask[torch.from_numpy(block.node_key.copy())] = self.dropout(twin[k], ones)
        outputs = block.node_key[: block.num_outputs]
        return Layer(block.edge_key.copy(), outputs.copy(), mask)


@dataclass(frozen=True)
class Run:
    """Losses of epochs, gradients of the steps of the first epoch, and what was recorded."""

    losses: list[float]
    gradients: list[NDArray[Any]]
    steps: list[list[Layer]]


@cache
def layers(name: str) -> list[nn.Module]:
    torch.manual_seed(2)
    return [PAIRS[name].make_theirs(WIDTH, width) for width in (WIDTH, CLASSES)]


def flat(gradients: list[dict[str, Tensor]]) -> NDArray[Any]:
    return np.concatenate([one[n].flatten().numpy() for one in gradients for n in sorted(one)])


def train(
    name: str,
    way: str,
    dtype: torch.dtype,
    workers: int = 1,
    method: str = "node-hash",
    epochs: int = EPOCHS,
) -> Run:
    pair = PAIRS[name]
    weights = [pair.weights(layer) for layer in layers(name)]

    def work(comm: Communicator) -> Run:
        shard = gt.open_shard(GRAPH, comm, method=method)
        model = Model(pair, weights, dtype, records=comm.size == 1)
        trainer = gt.Trainer(model, shard, strategy=WAYS[way](), lr=LR, evaluate_every=epochs + 1)
        steps: list[NDArray[Any]] = []

        def keep(*_: Any) -> None:
            if not trainer.history.loss:
                convs = [dict(conv.named_parameters()) for conv in model.convs]
                steps.append(flat([{n: gradient(p) for n, p in c.items()} for c in convs]))

        trainer.optimizer.register_step_pre_hook(keep)
        trainer.fit(epochs)
        return Run(trainer.history.loss, steps, model.steps or [])

    return gt.run_local(work, workers=workers, timeout_s=120)


def train_theirs(name: str, dtype: torch.dtype, recorded: Run) -> Run:
    """Train PyG's layers on what one worker has recorded."""
    pair, convs = PAIRS[name], nn.ModuleList(layers(name))
    before = {n: tensor.clone() for n, tensor in convs.state_dict().items()}
    convs.to(dtype)
    optimizer = torch.optim.Adam(convs.parameters(), lr=LR)
    x, y = torch.from_numpy(X).to(dtype), torch.from_numpy(LABELS)
    num_steps, losses, gradients = len(recorded.gradients), [], []
    total, count = 0.0, 0
    for number, step in enumerate(recorded.steps):
        h = x
        for k, (conv, layer) in enumerate(zip(convs, step, strict=True)):
            edges = {
                relation: ends[:, keys[(keys >= 0) & (keys < ends.shape[1])]]
                for relation, ends in EDGES.items()
                for keys in [layer.edges - FIRST_EDGE[relation]]
            }
            active = torch.zeros(NUM_NODES, dtype=torch.bool)
            active[layer.outputs] = True
            h = pair.run_theirs(conv, h * layer.mask_NF, edges, active)
            h = torch.tanh(h) if k == 0 else h
        targets = layer.outputs[IS_TRAINED[layer.outputs]]
        loss = F.cross_entropy(h[targets], y[targets])
        optimizer.zero_grad()
        loss.backward()
        if number < num_steps:
            gradients.append(flat([pair.gradients(conv) for conv in convs]))
        optimizer.step()
        total, count = total + float(loss.detach()) * len(targets), count + len(targets)
        if (number + 1) % num_steps == 0:
            losses.append(total / count)
            total, count = 0.0, 0
    convs.double().load_state_dict(before)
    convs.zero_grad()
    return Run(losses, gradients, [])


def assert_same(got: Run, want: Run, dtype: torch.dtype) -> None:
    assert len(got.gradients) == len(want.gradients)
    # After the first step, Adam has amplified rounding.
    assert_equal(got.gradients[0], want.gradients[0], TOLERANCE[dtype])
    np.testing.assert_allclose(got.losses, want.losses, rtol=TRAJECTORY[dtype])


@cache
def single(name: str, way: str, dtype: torch.dtype, epochs: int = EPOCHS) -> Run:
    """Return one worker's run, which equals PyG's."""
    run = train(name, way, dtype, epochs=epochs)
    assert_same(run, train_theirs(name, dtype, run), dtype)
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "method"), SETUPS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TRAINED)
def test_trajectory(name: str, way: str, dtype: torch.dtype, workers: int, method: str) -> None:
    want = single(name, way, dtype)
    assert min(want.losses) < 0.98 * want.losses[0]
    if workers > 1:
        assert_same(train(name, way, dtype, workers, method), want, dtype)


@pytest.mark.parametrize(
    ("name", "way", "dtype", "workers", "method"),
    [
        ("rgcn", "global", torch.float32, 2, "dbh"),
        ("rgat", "mini by relation", torch.float64, 4, "dbh"),
        ("hgt", "cluster", torch.float64, 3, "node-hash"),
        ("han", "mini in total", torch.float64, 2, "dbh"),
        ("sage_mean", "mini", torch.float32, 4, "node-hash"),
    ],
)
def test_steps(name: str, way: str, dtype: torch.dtype, workers: int, method: str) -> None:
    want = single(name, way, dtype, 2)
    assert_same(train(name, way, dtype, workers, method, 2), want, dtype)
