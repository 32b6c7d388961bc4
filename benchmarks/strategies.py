"""Test accuracy of every training strategy on four real graphs, for GraphTheta and PyG.

    python benchmarks/strategies.py --data ../shared/data --json benchmarks/results/strategies.jsonl

Models, hyper-parameters, splits, clusters (by METIS, from pymetis) and numbers of steps are the
same for both libraries. Each trains with Adam and is evaluated on the whole graph after each epoch;
the score is the test accuracy (ROC-AUC on Tolokers) at the epoch with the best validation score
(the first one on ties). A seed sets initial weights, dropout, batches and the split: Cora and
Pubmed have one split, Amazon Computers gets 20 training and 30 validation nodes per class, and
Tolokers has ten splits. Features are not normalised: nodes of Computers have hundreds of ones, and
with a learning rate of 0.01 some runs of both libraries collapse.

- `global`: the whole graph.
- `mini`: all in-edges over two layers; `drawn`: 10 in-edges per node (PyG: `NeighborLoader`).
- `cluster`: induced subgraphs of clusters (PyG: `ClusterLoader` on the same clusters; GraphTheta
  leaves out those without a training node).

PyG computes with `SparseTensor`, its faster form, which needs torch-sparse and torch-scatter. The
table has one row per case: mean and standard deviation of both libraries, and the difference of the
means. Cases that are already recorded in the `--json` file are not measured again, so an
interrupted run can be continued.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pymetis
import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.loader import ClusterData, ClusterLoader, NeighborLoader
from torch_geometric.transforms import GCNNorm, ToSparseTensor
from torchmetrics.functional import auroc

import graphtheta as gt
from graphtheta.bench.record import append, mean_and_deviation, provenance
from graphtheta.strategy import Strategy

SEEDED_SPLIT, ONE_SPLIT, TEN_SPLITS = "seeded", "one", "ten"


@dataclass(frozen=True)
class Data:
    """A graph and the hyper-parameters of all models on it.

    Attributes:
        folder: Folder of the data set, relative to `--data`.
        split: Source of a seed's split.
        hidden: Columns of the hidden layer. Attention has 8 heads of max(8, hidden / 8) columns.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of all parameters.
        batch_size: Training nodes per step of `mini` and `drawn`.
        clusters: Number of clusters; a step of `cluster` trains on an eighth of them.
        epochs: Epochs of `global`, and of the other strategies (on Cora for equally many steps).
        patience: Epochs without a better validation score after which a run ends, of `global` and
            of the other strategies.
    """

    folder: str
    split: str
    hidden: int
    lr: float
    weight_decay: float
    batch_size: int
    clusters: int
    epochs: tuple[int, int]
    patience: tuple[int, int]

    @property
    def clusters_per_batch(self) -> int:
        """Number of clusters per step."""
        return self.clusters // 8


DROPOUT, HEADS, FANOUT = 0.5, 8, 10

DATA = {
    "cora": Data("planetoid-cora", ONE_SPLIT, 16, 0.01, 5e-4, 35, 48, (400, 100), (160, 40)),
    "pubmed": Data("planetoid-pubmed", ONE_SPLIT, 16, 0.01, 5e-4, 15, 48, (200, 100), (40, 40)),
    "computers": Data(
        "amazon-computers", SEEDED_SPLIT, 64, 0.003, 5e-4, 100, 48, (100, 50), (40, 40)
    ),
    "tolokers": Data("tolokers", TEN_SPLITS, 64, 0.01, 0.0, 1024, 48, (100, 15), (40, 40)),
}
MODELS = ("gcn", "sage", "gat")
STRATEGIES = ("global", "mini", "drawn", "cluster")


def graph_of(name: str, folder: Path, seed: int) -> tuple[gt.Graph, str]:
    """Return the graph and the name of the split for a seed."""
    data = DATA[name]
    path = str(folder / data.folder)
    if data.split == SEEDED_SPLIT:
        return gt.datasets.npz.read(path, seed=seed), "split"
    graph = gt.datasets.read(path)
    assert isinstance(graph, gt.Graph)
    return graph, str(seed) if data.split == TEN_SPLITS else "split"


def clusters_of(graph: gt.Graph, count: int) -> np.ndarray:
    """Return the METIS cluster of each node: (N,) int64."""
    order = np.argsort(graph.src, kind="stable")
    starts = np.searchsorted(graph.src[order], np.arange(graph.num_nodes + 1))
    adjacency = pymetis.CSRAdjacency(starts, graph.dst[order])
    return np.asarray(pymetis.part_graph(count, adjacency=adjacency)[1], np.int64)


# -- GraphTheta -----------------------------------------------------------------------------------


def graphtheta_strategy(name: str, data: Data, clusters: np.ndarray) -> Strategy:
    """Return the GraphTheta strategy of that name."""
    if name == "global":
        return gt.GlobalBatch()
    if name == "cluster":
        return gt.ClusterBatch(data.clusters_per_batch, clusters, renormalise=True)
    return gt.MiniBatch(data.batch_size, [FANOUT, FANOUT] if name == "drawn" else None)


def train_graphtheta(
    model: str, strategy: str, data: Data, graph: gt.Graph, split: str, clusters: Any, seed: int
) -> tuple[float, int]:
    """Train with GraphTheta; return the test score in [0, 1] and the number of epochs."""
    shard = gt.open_shard(graph)
    trainer = gt.Trainer(
        gt.nn.model_for(
            model,
            shard,
            "y",
            hidden_channels=max(8, data.hidden // HEADS) if model == "gat" else data.hidden,
            num_layers=2,
            heads=HEADS,
            dropout=DROPOUT,
            seed=seed,
        ),
        shard,
        strategy=graphtheta_strategy(strategy, data, clusters),
        split=split,
        lr=data.lr,
        weight_decay=data.weight_decay,
        seed=seed,
        patience=data.patience[strategy != "global"],
    )
    summary = trainer.fit(data.epochs[strategy != "global"])
    score = summary["test_auroc" if "test_auroc" in summary else "test_accuracy"]
    return score, summary["epochs"]


# -- PyTorch Geometric ----------------------------------------------------------------------------


class Peer(nn.Module):
    """Model of two PyG layers, composed as in PyG's own examples."""

    def __init__(
        self, model: str, data: Data, num_features: int, num_outputs: int, *, normalize: bool
    ) -> None:
        super().__init__()
        self.activation = F.elu if model == "gat" else F.relu
        if model == "gat":
            width = max(8, data.hidden // HEADS)
            layers = [
                pyg.GATConv(num_features, width, heads=HEADS, dropout=DROPOUT),
                pyg.GATConv(HEADS * width, num_outputs, concat=False, dropout=DROPOUT),
            ]
        else:
            layer = {"gcn": pyg.GCNConv, "sage": pyg.SAGEConv}[model]
            given = {} if normalize else {"normalize": False}
            layers = [
                layer(num_features, data.hidden, **given),
                layer(data.hidden, num_outputs, **given),
            ]
        self.convs = nn.ModuleList(layers)

    def forward(self, x: Tensor, edges: Any) -> Tensor:
        """Return the logits of every node."""
        first, last = self.convs
        x = self.activation(first(F.dropout(x, DROPOUT, self.training), edges))
        return last(F.dropout(x, DROPOUT, self.training), edges)


def sparse(whole: Any) -> Any:
    """Return a copy of PyG's graph whose edges and weights are a `SparseTensor`."""
    attr = "edge_weight" if "edge_weight" in whole else None
    return ToSparseTensor(attr=attr)(copy(whole))


def peer_batches(name: str, data: Data, whole: Any, clusters: np.ndarray) -> Any:
    """Return PyG's loader for a strategy, an iterable over the batches of an epoch."""
    if name == "global":
        return [sparse(whole)]
    if name == "cluster":
        ClusterData._metis = lambda self, edge_index, num_nodes: torch.from_numpy(clusters)
        parts = ClusterData(whole, data.clusters, log=False)
        return ClusterLoader(parts, batch_size=data.clusters_per_batch, shuffle=True)
    return NeighborLoader(
        sparse(whole),
        num_neighbors=[FANOUT if name == "drawn" else -1] * 2,
        batch_size=data.batch_size,
        input_nodes=whole.train_mask,
        shuffle=True,
    )


def targets_of(name: str, batch: Any) -> Tensor:
    """Return the rows of a batch that enter the loss."""
    if name in ("mini", "drawn"):
        return torch.arange(batch.batch_size)
    return batch.train_mask.nonzero().flatten()


def train_peer(
    model: str,
    strategy: str,
    data: Data,
    graph: gt.Graph,
    split: str,
    clusters: Any,
    seed: int,
    *,
    whole_degrees: bool = True,
) -> tuple[float, int]:
    """Train with PyG by the same rule; return the test score and the number of epochs."""
    torch.manual_seed(seed)
    whole = graph.to_pyg(split=split)
    is_binary = whole.y.dtype == torch.bool or int(whole.y.max()) == 1
    whole.y = whole.y.float() if is_binary else whole.y.long()
    # PyG's GCN normalises by the degrees within a batch; GraphTheta does so only for clusters.
    # Weights computed in advance use the degrees of the whole graph.
    weighted = whole_degrees and model == "gcn" and strategy != "cluster"
    if weighted:
        whole = GCNNorm()(whole)
    num_outputs = 1 if is_binary else int(whole.y.max()) + 1
    net = Peer(model, data, graph.num_features, num_outputs, normalize=not weighted)
    optimizer = torch.optim.Adam(net.parameters(), lr=data.lr, weight_decay=data.weight_decay)
    batches = peer_batches(strategy, data, whole, clusters)
    adjacency = sparse(whole).adj_t

    def loss_of(logits: Tensor, y: Tensor) -> Tensor:
        if is_binary:
            return F.binary_cross_entropy_with_logits(logits[:, 0], y)
        return F.cross_entropy(logits, y)

    def score(logits: Tensor, mask: Tensor) -> float:
        if is_binary:
            return float(auroc(logits[mask, 0], whole.y[mask].long(), task="binary"))
        return float((logits.argmax(1) == whole.y)[mask].float().mean())

    best, epoch = (-1.0, 0.0, -1), -1
    for epoch in range(data.epochs[strategy != "global"]):
        net.train()
        for batch in batches:
            rows = targets_of(strategy, batch)
            if not len(rows):
                continue
            optimizer.zero_grad()
            edges = batch.edge_index if "edge_index" in batch else batch.adj_t
            loss_of(net(batch.x, edges)[rows], batch.y[rows]).backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            logits = net(whole.x, adjacency)
        val = score(logits, whole.val_mask)
        if val > best[0]:
            best = (val, score(logits, whole.test_mask), epoch)
        if epoch - best[2] >= data.patience[strategy != "global"]:
            break
    return best[1], epoch + 1


# -- the table ------------------------------------------------------------------------------------

LIBRARIES: dict[str, Callable[..., tuple[float, int]]] = {
    "graphtheta": train_graphtheta,
    "pyg": train_peer,
    "pyg, degrees of the batch": partial(train_peer, whole_degrees=False),
}


def measure(
    library: str, name: str, model: str, strategy: str, folder: Path, seeds: int
) -> dict[str, Any]:
    """Train one case with every seed, and return its record."""
    data, scores, epochs, start = DATA[name], [], [], time.perf_counter()
    for seed in range(seeds):
        graph, split = graph_of(name, folder, seed)
        clusters = clusters_of(graph, data.clusters) if strategy == "cluster" else None
        found = LIBRARIES[library](model, strategy, data, graph, split, clusters, seed)
        scores.append(100 * found[0])
        epochs.append(found[1])
    mean, deviation = mean_and_deviation(scores)
    return {
        "benchmark": "strategies",
        "case": {"library": library, "data": name, "model": model, "strategy": strategy},
        "seeds": seeds,
        "unit": "per cent",
        "mean": mean,
        "std": deviation,
        "scores": scores,
        "epochs": epochs,
        "seconds": time.perf_counter() - start,
        "config": asdict(data) | {"dropout": DROPOUT},
        **provenance(torch.get_num_threads()),
    }


def cases(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yield the data set, model and strategy of every row."""
    for name in options.only.split(","):
        for model in options.models.split(","):
            for strategy in options.strategies.split(","):
                yield name, model, strategy


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--only", default=",".join(DATA), help="data sets")
    parser.add_argument("--models", default=",".join(MODELS), help=", ".join(MODELS))
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="strategies")
    parser.add_argument("--json", type=Path, help="JSON Lines file to continue")
    parser.add_argument(
        "--peer", default="pyg", choices=list(LIBRARIES)[1:], help="peer to compare with"
    )
    parser.add_argument("--threads", type=int, default=1, help="number of threads")
    options = parser.parse_args()
    gt.tune(threads=options.threads)
    known = {}
    if options.json is not None and options.json.exists():
        for line in options.json.read_text().splitlines():
            record = json.loads(line)
            known[(*record["case"].values(), record["seeds"])] = record
    print("| data | model | strategy | GraphTheta | PyG | difference | seeds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for case in cases(options):
        pair = []
        for library in ("graphtheta", options.peer):
            key = (library, *case, options.seeds)
            if key not in known:
                known[key] = measure(library, *case, options.data, options.seeds)
                append(options.json, [known[key]])
            pair.append(known[key])
        means = [f"{r['mean']:.2f} ± {r['std']:.2f}" for r in pair]
        difference = pair[0]["mean"] - pair[1]["mean"]
        cells = (*case, *means, f"{difference:+.2f}", str(options.seeds))
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
