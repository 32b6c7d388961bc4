"""Label propagation, and correct and smooth, equal PyG's on any number of workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.inference.whole import gather_rows
from graphtheta.shard.shard import Shard

pyg = pytest.importorskip("torch_geometric.nn")

RNG = np.random.default_rng(5)
N, E, CLASSES = 40, 160, 3
Y, SPLIT = RNG.integers(0, CLASSES, N), RNG.integers(0, 4, N).astype(np.int8)
SRC, DST = RNG.integers(0, N - 2, (2, E))  # two nodes have no edge
GRAPH = gt.Graph(
    {"id": np.arange(N), "label:y": Y, "label:x": RNG.random(N, np.float32), "split:split": SPLIT},
    {"src": SRC, "dst": DST},
)
PROBABILITIES = torch.from_numpy(RNG.random((N, CLASSES))).softmax(1)
EDGE_INDEX = torch.from_numpy(np.stack([SRC, DST]))
MASK = torch.from_numpy(SPLIT == 1)


def propagate() -> Tensor:
    one_hot = F.one_hot(torch.from_numpy(Y)).float()
    result: Tensor = pyg.LabelPropagation(5, 0.7)(one_hot, EDGE_INDEX, MASK)
    return result


def smooth(**options: Any) -> Tensor:
    theirs = pyg.CorrectAndSmooth(5, 0.9, 4, 0.8, **options)
    y = torch.from_numpy(Y)[MASK]
    corrected = theirs.correct(PROBABILITIES, y, MASK, EDGE_INDEX)
    result: Tensor = theirs.smooth(corrected, y, MASK, EDGE_INDEX)
    return result


def own_smooth(shard: Shard, **options: Any) -> Tensor:
    rows = PROBABILITIES[shard.node_key_L[: shard.num_masters].copy()]
    layers = {"correction_layers": 5, "smoothing_layers": 4}
    return gt.correct_and_smooth(shard, rows, **layers, **options)


CASES: dict[str, tuple[Callable[[], Tensor], Callable[[Shard], Tensor]]] = {
    "propagation": (
        propagate,
        lambda shard: gt.label_propagation(shard, "y", num_layers=5, alpha=0.7),
    ),
    "autoscale": (smooth, own_smooth),
    "scale": (
        lambda: smooth(autoscale=False, scale=0.8),
        lambda shard: own_smooth(shard, autoscale=False, scale=0.8),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_same_as_pyg(name: str) -> None:
    theirs, ours = CASES[name]

    def work(comm: Communicator) -> Tensor | None:
        shard = gt.open_shard(GRAPH, comm, method="dbh" if comm.size > 1 else "node-hash")
        return gather_rows(ours(shard), shard)

    for workers in (1, 3):
        torch.testing.assert_close(gt.run_local(work, workers=workers), theirs())


def test_numbers_and_other_shapes_are_refused() -> None:
    shard = gt.open_shard(GRAPH)
    with pytest.raises(ConfigError, match=r"expected a label of classes, got 'x', .* regression"):
        gt.label_propagation(shard, "x")
    with pytest.raises(ConfigError, match=r"alpha \(--alpha\) in \[0, 1\], got 50 and 2"):
        gt.label_propagation(shard, "y", alpha=2)
    with pytest.raises(ConfigError, match=r"expected probabilities of shape \(40, 3\), got"):
        gt.correct_and_smooth(shard, torch.ones(40, 2))
