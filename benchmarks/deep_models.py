"""Test accuracy of deep models on Cora: GCNII of 16 layers, and APPNP of GraphTheta and of PyG.

    python benchmarks/deep_models.py --json benchmarks/results/deep_models.jsonl

Hyper-parameters are those of the papers. As in the code of GCNII's authors, the score is the test
accuracy at the epoch with the lowest validation loss; training ends after 100 epochs without a
lower one. A seed sets initial weights and dropout. Cases that are already recorded in the `--json`
file are not measured again, so an interrupted run can be continued.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.bench.record import append, mean_and_deviation, provenance
from graphtheta.inference.whole import infer
from graphtheta.shard.shard import Shard

PATIENCE, EPOCHS = 100, 1500


class Lowest:
    """Test accuracy at the epoch with the lowest validation loss."""

    def __init__(self, y: Tensor, split: np.ndarray) -> None:
        self.y, self.masks = y, [torch.from_numpy(split == part) for part in (2, 3)]
        self.loss, self.accuracy, self.since = float("inf"), 0.0, 0

    def is_over(self, outputs: Tensor) -> bool:
        """Take the outputs of an epoch into account; return whether training should end."""
        validation, test = self.masks
        loss = float(F.cross_entropy(outputs[validation], self.y[validation]))
        self.since += 1
        if loss < self.loss:
            right = outputs[test].argmax(1) == self.y[test]
            self.loss, self.accuracy, self.since = loss, float(right.float().mean()), 0
        return self.since >= PATIENCE

    def on_epoch_end(self, trainer: gt.Trainer, epoch: int, metrics: dict[str, float]) -> None:
        """Evaluate after an epoch of GraphTheta."""
        if self.is_over(infer(trainer.model, trainer.shard)):
            trainer.stop()


def gcnii(shard: Shard, graph: gt.Graph, seed: int) -> float:
    """Train GCNII of 16 layers; return the test accuracy."""
    model = gt.nn.GCNII(
        shard.num_features, 64, shard.num_outputs("y"), num_layers=16, dropout=0.6, seed=seed
    )
    groups = [
        {"params": list(model.convs.parameters()), "weight_decay": 0.01},
        {"params": list(model.lins.parameters()), "weight_decay": 5e-4},
    ]
    return ours(model, shard, graph, seed, parameter_groups=lambda _: groups)


def appnp(shard: Shard, graph: gt.Graph, seed: int) -> float:
    """Train APPNP; return the test accuracy."""
    sizes = shard.num_features, 64, shard.num_outputs("y")
    model = gt.nn.APPNP(*sizes, num_layers=10, seed=seed)
    return ours(model, shard, graph, seed, weight_decay=5e-4)


def ours(model: nn.Module, shard: Shard, graph: gt.Graph, seed: int, **options: Any) -> float:
    """Train a model of GraphTheta; return the test accuracy."""
    lowest = Lowest(shard.label("y")[0], graph.split("split")[shard.node_key_L])
    options |= {"evaluate_every": EPOCHS, "callbacks": [lowest]}
    gt.Trainer(model, shard, lr=0.01, seed=seed, **options).fit(epochs=EPOCHS)
    return lowest.accuracy


class PygAPPNP(nn.Module):
    """APPNP with PyG, with the same dropout."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lins = nn.ModuleList([nn.Linear(in_channels, 64), nn.Linear(64, out_channels)])
        self.propagate = pyg.APPNP(10, 0.1, cached=True)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return the logits of all nodes."""
        h = self.lins[0](F.dropout(x, 0.5, self.training)).relu()
        h = self.lins[1](F.dropout(h, 0.5, self.training))
        result: Tensor = self.propagate(h, edge_index)
        return result


def pyg_appnp(shard: Shard, graph: gt.Graph, seed: int) -> float:
    """Train APPNP with PyG; return the test accuracy."""
    torch.manual_seed(seed)
    x = torch.from_numpy(np.array(graph.features, np.float32))
    y = torch.from_numpy(graph.label("y").astype(np.int64))
    lowest = Lowest(y, graph.split("split"))
    known = torch.from_numpy(graph.split("split") == 1)
    edge_index = torch.from_numpy(np.stack([graph.src, graph.dst]).astype(np.int64))
    model = PygAPPNP(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
    for _ in range(EPOCHS):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(x, edge_index)[known], y[known]).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            if lowest.is_over(model(x, edge_index)):
                break
    return lowest.accuracy


CASES: dict[str, Callable[[Shard, gt.Graph, int], float]] = {
    "gcnii-16": gcnii,
    "appnp": appnp,
    "appnp-pyg": pyg_appnp,
}


def main() -> None:
    """Measure what is not recorded yet, and print means and standard deviations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    options = parser.parse_args()
    lines = options.json.read_text().splitlines() if options.json.exists() else []
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    for record in map(json.loads, lines):
        scores[record["case"]][record["seed"]] = record["accuracy"]
    graph = gt.datasets.load("cora")
    shard = gt.open_shard(graph)
    for seed in range(options.seeds):
        for case in options.cases:
            if seed not in scores[case]:
                accuracy = scores[case][seed] = CASES[case](shard, graph, seed)
                record = {"benchmark": "deep_models", "case": case, "seed": seed}
                append(options.json, [{**record, "accuracy": accuracy, **provenance(1)}])
                print(f"{case} seed {seed}: {accuracy:.4f}", flush=True)
    for case, found in scores.items():
        values = list(found.values())
        mean, deviation = mean_and_deviation(values)
        print(f"{case}: {mean:.4f} +- {deviation:.4f} ({len(values)} seeds)")


if __name__ == "__main__":
    main()
