"""Test accuracy of GCN and GAT on public splits, for GraphTheta and PyTorch Geometric (PyG).

    python benchmarks/accuracy.py --data ../shared/data --seeds 10

Both libraries train by the same rule: the published hyper-parameters, full-batch Adam, float32, and
features divided by their row sums. The reported accuracy is that on the test split at the epoch
with the best validation accuracy (the first one on ties). Seeds set the initial weights and
dropout. The two libraries draw different random numbers, so runs with the same seed do not
correspond, and only the means are comparable.

The Markdown table has one row per model and data set: mean and standard deviation of the test
accuracy over the seeds (in per cent) for both libraries, the difference of the means, and the mean
that GraphTheta should reach ("bar"). `--json` appends a record per case and library.

Source of the hyper-parameters: Kipf, Welling, ICLR 2017 (weight decay on the first layer only);
Velickovic et al., ICLR 2018 (early stopping with a patience of 100 epochs).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.bench.record import append, mean_and_deviation, provenance
from graphtheta.nn import Stack


@dataclass(frozen=True)
class Case:
    """One model on one data set.

    Attributes:
        data: Name of the Planetoid data set.
        model: "gcn" or "gat".
        lr: Learning rate of Adam.
        epochs: Maximum number of epochs.
        patience: Epochs without a better validation accuracy after which training ends. If None,
            it runs for all epochs.
        bar: Mean test accuracy over 10 seeds that GraphTheta should reach, in per cent.
    """

    data: str
    model: str
    lr: float
    epochs: int
    patience: int | None
    bar: float


WEIGHT_DECAY = 5e-4

CASES = {
    "gcn-cora": Case("cora", "gcn", lr=0.01, epochs=200, patience=None, bar=81.0),
    "gcn-pubmed": Case("pubmed", "gcn", lr=0.01, epochs=200, patience=None, bar=78.5),
    "gat-cora": Case("cora", "gat", lr=0.005, epochs=1000, patience=100, bar=82.0),
}


@dataclass(frozen=True)
class Outcome:
    """Result of training one model with one seed; accuracies are in [0, 1]."""

    seed: int
    test_accuracy: float
    val_accuracy: float
    best_epoch: int
    epochs: int
    seconds: float


def adam(case: Case, layers: nn.ModuleList) -> torch.optim.Adam:
    """Return Adam with the published weight decay: on the first layer of GCN, on all of GAT."""
    first, rest = layers[0].parameters(), [p for layer in layers[1:] for p in layer.parameters()]
    decay = 0.0 if case.model == "gcn" else WEIGHT_DECAY
    groups = [
        {"params": first, "weight_decay": WEIGHT_DECAY},
        {"params": rest, "weight_decay": decay},
    ]
    return torch.optim.Adam(groups, lr=case.lr)


# -- GraphTheta -----------------------------------------------------------------------------------


def graphtheta_model(case: Case, shard: gt.Shard, seed: int) -> Stack:
    """Build the GraphTheta model with the published sizes."""
    sizes = (shard.num_features, shard.num_outputs("y"))
    if case.model == "gcn":
        return gt.nn.GCN(sizes[0], 16, sizes[1], dropout=0.5, seed=seed)
    return gt.nn.GAT(sizes[0], 8, sizes[1], heads=8, dropout=0.6, seed=seed)


def train_graphtheta(case: Case, graph: gt.Graph, seed: int) -> Outcome:
    """Train the GraphTheta model; `Trainer` keeps the epoch with the best validation accuracy."""
    shard = gt.open_shard(graph)
    model = graphtheta_model(case, shard, seed)
    trainer = gt.Trainer(model, shard, lr=case.lr, seed=seed, patience=case.patience)
    trainer.optimizer = adam(case, model.convs)
    start = time.perf_counter()
    summary = trainer.fit(case.epochs)
    return Outcome(
        seed,
        summary["test_accuracy"],
        summary["val_accuracy"],
        summary["best_epoch"],
        summary["epochs"],
        time.perf_counter() - start,
    )


# -- PyTorch Geometric ----------------------------------------------------------------------------


class Peer(nn.Module):
    """Model of two PyG layers, composed as in PyG's own examples."""

    def __init__(self, case: Case, num_features: int, num_classes: int) -> None:
        super().__init__()
        if case.model == "gcn":
            self.dropout, self.activation = 0.5, F.relu
            layers = [pyg.GCNConv(num_features, 16), pyg.GCNConv(16, num_classes)]
        else:
            self.dropout, self.activation = 0.6, F.elu
            layers = [
                pyg.GATConv(num_features, 8, heads=8, dropout=0.6),
                pyg.GATConv(64, num_classes, heads=1, concat=False, dropout=0.6),
            ]
        self.convs = nn.ModuleList(layers)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return the logits of every node."""
        for conv in self.convs[:-1]:
            x = self.activation(conv(F.dropout(x, self.dropout, self.training), edge_index))
        return self.convs[-1](F.dropout(x, self.dropout, self.training), edge_index)


def train_peer(case: Case, graph: gt.Graph, seed: int) -> Outcome:
    """Train the PyG model by the same rule."""
    torch.manual_seed(seed)
    data = graph.to_pyg()
    model = Peer(case, graph.num_features, int(data.y.max()) + 1)
    optimizer = adam(case, model.convs)

    def accuracy(logits: Tensor, mask: Tensor) -> float:
        return float((logits.argmax(1) == data.y)[mask].float().mean())

    best, start, epoch = (-1.0, 0.0, -1), time.perf_counter(), -1
    for epoch in range(case.epochs):
        model.train()
        optimizer.zero_grad()
        out = model(data.x, data.edge_index)
        F.cross_entropy(out[data.train_mask], data.y[data.train_mask]).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            out = model(data.x, data.edge_index)
        val = accuracy(out, data.val_mask)
        if val > best[0]:
            best = (val, accuracy(out, data.test_mask), epoch)
        if case.patience is not None and epoch - best[2] >= case.patience:
            break
    val, test, best_epoch = best
    return Outcome(seed, test, val, best_epoch, epoch + 1, time.perf_counter() - start)


# -- the table ------------------------------------------------------------------------------------

LIBRARIES: dict[str, Callable[[Case, gt.Graph, int], Outcome]] = {
    "graphtheta": train_graphtheta,
    "pyg": train_peer,
}


def measure(name: str, data: Path, seeds: int) -> list[dict[str, Any]]:
    """Train one case with every seed, and return one record per library."""
    case = CASES[name]
    graph = gt.datasets.planetoid.read(str(data / f"planetoid-{case.data}"))
    records = []
    for library, train in LIBRARIES.items():
        outcomes = [train(case, graph, seed) for seed in range(seeds)]
        tests = [100 * outcome.test_accuracy for outcome in outcomes]
        mean, deviation = mean_and_deviation(tests)
        records.append(
            {
                "benchmark": "accuracy",
                "case": name,
                "library": library,
                "mean": mean,
                "std": deviation,
                "unit": "per cent",
                "config": {**asdict(case), "weight_decay": WEIGHT_DECAY},
                "graph": graph.digest(),
                "outcomes": [asdict(outcome) for outcome in outcomes],
                **provenance(torch.get_num_threads()),
            }
        )
    return records


def row(name: str, graphtheta: dict[str, Any], peer: dict[str, Any]) -> str:
    """Return one row of the table."""
    case, seeds = CASES[name], len(graphtheta["outcomes"])
    figures = [f"{r['mean']:.2f} ± {r['std']:.2f}" for r in (graphtheta, peer)]
    difference = graphtheta["mean"] - peer["mean"]
    return (
        f"| {case.model.upper()} | {case.data.capitalize()} | {figures[0]} | {figures[1]} "
        f"| {difference:+.2f} | {case.bar:.1f} | {seeds} |"
    )


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with planetoid-<name>/")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--only", choices=CASES, action="append", help="case to run (repeatable)")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    # Small graphs gain little from a second thread, and become slow when its core is busy.
    parser.add_argument("--threads", type=int, default=1, help="number of threads")
    options = parser.parse_args()
    gt.tune(threads=options.threads)
    print("| model | data | GraphTheta | PyG | difference | bar | seeds |")
    print("|---|---|---|---|---|---|---|")
    for name in options.only or CASES:
        records = measure(name, options.data, options.seeds)
        print(row(name, *records), flush=True)
        append(options.json, records)


if __name__ == "__main__":
    main()
