"""Test accuracy of R-GCN and HGT on Debian's packages, for GraphTheta and PyTorch Geometric (PyG).

    python benchmarks/typed_accuracy.py --data ../shared/data --seeds 3

A package's section (58 classes) is predicted from its relations: 11 of packages, sources,
maintainers and tags, and their reverses. There are no features; every node has a learned vector of
32 numbers. Both libraries train by the same rule: two layers of 32 columns (HGT: 4 heads, and a
linear map after them), dropout 0.5 of a layer's input, full-batch Adam, float32. `RULES` has the
learning rate, weight decay and epochs of each model, which were chosen by GraphTheta's validation
accuracy with seed 0. The reported accuracy is that on the test split at the epoch with the best
validation accuracy (the first one on ties), evaluated every second epoch.

PyG's HGTConv runs with `peers.pyg_typed.join_products`, which gives the same results in less time.

The two libraries draw different random numbers, so runs with the same seed do not correspond, and
only the means are comparable. `--json` appends a record per model and library.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch_geometric.nn as pyg
from peers.pyg_typed import join_products
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import HeteroData

import graphtheta as gt
from graphtheta.bench.record import append, mean_and_deviation, provenance

WIDTH, HEADS, DROPOUT, EVERY = 32, 4, 0.5, 2
LABEL, SPLIT = "package.section", "package.split"
BARS = {"rgcn": 83.0, "hgt": None}


@dataclass(frozen=True)
class Rule:
    """How both libraries train a model."""

    lr: float
    weight_decay: float
    epochs: int


RULES = {"rgcn": Rule(0.01, 0.0, 120), "hgt": Rule(0.1, 1e-4, 80)}


def train_graphtheta(name: str, graph: gt.Graph, seed: int, rule: Rule) -> dict[str, Any]:
    """Train GraphTheta's model; `Trainer` keeps the epoch with the best validation accuracy."""
    shard = gt.open_shard(graph)
    classes = shard.num_outputs(LABEL)
    encoder = (
        gt.nn.RGCN(
            WIDTH, WIDTH, classes, num_relations=shard.num_edge_types, dropout=DROPOUT, seed=seed
        )
        if name == "rgcn"
        else gt.nn.HGT(
            WIDTH, WIDTH // HEADS, classes, metadata=shard.metadata, heads=HEADS, dropout=DROPOUT,
            seed=seed,
        )
    )  # fmt: skip
    model = gt.nn.TypedInput(shard, WIDTH, encoder, seed=seed)
    trainer = gt.Trainer(
        model, shard, lr=rule.lr, weight_decay=rule.weight_decay, seed=seed, evaluate_every=EVERY
    )
    summary = trainer.fit(rule.epochs)
    return {name: summary[name] for name in ("test_accuracy", "val_accuracy", "best_epoch")}


class RGCN(nn.Module):
    """R-GCN of PyG on all nodes as one graph."""

    def __init__(self, data: HeteroData, classes: int) -> None:
        super().__init__()
        one = data.to_homogeneous(node_attrs=[], edge_attrs=[])
        self.edges, self.types = one.edge_index, one.edge_type
        types = data.node_types
        first = sum(data[name].num_nodes for name in types[: types.index("package")])
        self.packages = slice(first, first + data["package"].num_nodes)
        self.vectors = nn.Embedding(one.num_nodes, WIDTH)
        relations = len(data.edge_types)
        self.convs = nn.ModuleList(
            pyg.RGCNConv(WIDTH, out, num_relations=relations) for out in (WIDTH, classes)
        )
        start(self.vectors)

    def forward(self) -> Tensor:
        """Return the logits of the packages."""
        x = F.dropout(self.vectors.weight, DROPOUT, self.training)
        x = F.relu(self.convs[0](x, self.edges, self.types))
        x = self.convs[1](F.dropout(x, DROPOUT, self.training), self.edges, self.types)
        return x[self.packages]


class HGT(nn.Module):
    """HGT of PyG."""

    def __init__(self, data: HeteroData, classes: int) -> None:
        super().__init__()
        self.edges = data.edge_index_dict
        self.vectors = nn.ModuleDict(
            {name: nn.Embedding(data[name].num_nodes, WIDTH) for name in data.node_types}
        )
        self.convs = nn.ModuleList(
            pyg.HGTConv(WIDTH, WIDTH, data.metadata(), heads=HEADS) for _ in range(2)
        )
        self.lin = nn.Linear(WIDTH, classes)
        for vectors in self.vectors.values():
            start(vectors)

    def forward(self) -> Tensor:
        """Return the logits of the packages."""
        x: Mapping[str, Tensor] = {name: v.weight for name, v in self.vectors.items()}
        for conv in self.convs:
            dropped = {name: F.dropout(h, DROPOUT, self.training) for name, h in x.items()}
            x = conv(dropped, self.edges)
        return self.lin(x["package"])


def start(vectors: nn.Embedding) -> None:
    """Give the learned vectors GraphTheta's distribution of first values."""
    nn.init.uniform_(vectors.weight, -((3 * WIDTH) ** -0.5), (3 * WIDTH) ** -0.5)


PEERS: dict[str, type[nn.Module]] = {"rgcn": RGCN, "hgt": HGT}


def train_peer(name: str, graph: gt.Graph, seed: int, rule: Rule) -> dict[str, Any]:
    """Train PyG's model by the same rule."""
    torch.manual_seed(seed)
    join_products()
    data = graph.to_pyg()
    package = data["package"]
    model = PEERS[name](data, int(package.y.max()) + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=rule.lr, weight_decay=rule.weight_decay)

    def accuracy(logits: Tensor, mask: Tensor) -> float:
        return float((logits.argmax(1) == package.y)[mask].float().mean())

    best = {"test_accuracy": 0.0, "val_accuracy": -1.0, "best_epoch": -1}
    for epoch in range(rule.epochs):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model()[package.train_mask], package.y[package.train_mask]).backward()
        optimizer.step()
        if (epoch + 1) % EVERY:
            continue
        model.eval()
        with torch.no_grad():
            out = model()
        val = accuracy(out, package.val_mask)
        if val > best["val_accuracy"]:
            test = accuracy(out, package.test_mask)
            best = {"test_accuracy": test, "val_accuracy": val, "best_epoch": epoch}
    return best


LIBRARIES: dict[str, Callable[[str, gt.Graph, int, Rule], dict[str, Any]]] = {
    "graphtheta": train_graphtheta,
    "pyg": train_peer,
}


def main() -> None:
    """Train all models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with debian/")
    parser.add_argument("--models", default="rgcn,hgt", help="models to train")
    parser.add_argument("--libraries", default="graphtheta,pyg", help="libraries to train with")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--epochs", type=int, help="number of epochs (default: the model's rule)")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    parser.add_argument("--threads", type=int, default=2, help="number of threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = gt.datasets.read(
        str(options.data / "debian"), labels=LABEL, splits=SPLIT, add_reverse=True
    )
    graph = gt.Graph.from_source(source)
    print("| model | library | test accuracy | bar | seeds | seconds a seed |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in options.models.split(","):
        rule = RULES[name]
        if options.epochs:
            rule = replace(rule, epochs=options.epochs)
        for library in options.libraries.split(","):
            begin = time.perf_counter()
            outcomes = [
                LIBRARIES[library](name, graph, seed, rule) for seed in range(options.seeds)
            ]
            seconds = (time.perf_counter() - begin) / options.seeds
            tests = [100 * outcome["test_accuracy"] for outcome in outcomes]
            mean, deviation = mean_and_deviation(tests)
            bar = f"{BARS[name]:.1f}" if BARS[name] and library == "graphtheta" else "-"
            print(
                f"| {name} | {library} | {mean:.2f} ± {deviation:.2f} | {bar} | {options.seeds} "
                f"| {seconds:.0f} |",
                flush=True,
            )
            if options.json:
                config = {"width": WIDTH, "heads": HEADS, "dropout": DROPOUT}
                record = {
                    "benchmark": "typed accuracy",
                    "case": name,
                    "library": library,
                    "mean": mean,
                    "std": deviation,
                    "unit": "per cent",
                    "config": {**config, **asdict(rule)},
                    "graph": graph.digest(),
                    "outcomes": outcomes,
                    **provenance(options.threads),
                }
                append(options.json, [record])


if __name__ == "__main__":
    main()
