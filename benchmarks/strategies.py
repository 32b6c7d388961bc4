"""Every strategy beside PyTorch Geometric's loaders: accuracy on real graphs, trained by one rule.

    python benchmarks/strategies.py --data ../shared/data --json benchmarks/results/strategies.jsonl

Models, hyper-parameters, splits, clusters (by METIS, of pymetis) and numbers of steps are the same
for both. Each trains with Adam and is measured on the whole graph after each epoch; what counts is
test accuracy (ROC-AUC on Tolokers) at the epoch with the best validation, the first on ties. A seed
sets initial weights, dropout, batches, and the split: Cora and Pubmed have one, Amazon Computers
gets 20 training and 30 validation nodes a class, Tolokers has ten. Features are as they are: of
Computers a node has hundreds of ones, and with a rate of 0.01 some runs of both collapse.

`mini` takes all in-edges of two layers, `drawn` 10 of each node: PyG's `NeighborLoader`. `cluster`
takes the induced subgraphs of clusters: PyG's `ClusterLoader` on the same clusters, of which ours
leaves out those without a training node. PyG computes on `SparseTensor`s, its faster form, and
needs torch-sparse and torch-scatter for that. Records that a file has are not measured again, so
that a run can be continued.
"""

from __future__ import annotations

import argparse
import json
import statistics
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
from graphtheta.bench.record import append, provenance
from graphtheta.strategy import Strategy

SEEDED_SPLIT, ONE_SPLIT, TEN_SPLITS = "seeded", "one", "ten"


@dataclass(frozen=True)
class Data:
    """A graph, and how all models are trained on it.

    Attributes:
        folder: Under --data.
        split: Where a seed's split comes from.
        hidden: Columns of the hidden layer; attention has 8 heads of an eighth, or of 8 if less.
        lr: Of Adam.
        weight_decay: Of all parameters.
        batch_size: Training nodes of a step of `mini` and `drawn`.
        clusters: How many there are, an eighth of which make a step of `cluster`.
        epochs: Of the whole graph, and of the others; on Cora as many steps.
        patience: Epochs without a better validation score that end a run, of both alike.
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
        """Clusters of a step."""
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
    """Return the graph, and the name of the seed's split."""
    data = DATA[name]
    path = str(folder / data.folder)
    if data.split == SEEDED_SPLIT:
        return gt.datasets.npz.read(path, seed=seed), "split"
    graph = gt.datasets.read(path)
    assert isinstance(graph, gt.Graph)
    return graph, str(seed) if data.split == TEN_SPLITS else "split"


def clusters_of(graph: gt.Graph, count: int) -> np.ndarray:
    """Return the cluster of each node by METIS: (N,) int64."""
    order = np.argsort(graph.src, kind="stable")
    starts = np.searchsorted(graph.src[order], np.arange(graph.num_nodes + 1))
    adjacency = pymetis.CSRAdjacency(starts, graph.dst[order])
    return np.asarray(pymetis.part_graph(count, adjacency=adjacency)[1], np.int64)


# -- ours -----------------------------------------------------------------------------------------


def our_strategy(name: str, data: Data, clusters: np.ndarray) -> Strategy:
    """Return the strategy of that name."""
    if name == "global":
        return gt.GlobalBatch()
    if name == "cluster":
        return gt.ClusterBatch(data.clusters_per_batch, clusters, renormalise=True)
    return gt.MiniBatch(data.batch_size, [FANOUT, FANOUT] if name == "drawn" else None)


def train_ours(
    model: str, strategy: str, data: Data, graph: gt.Graph, split: str, clusters: Any, seed: int
) -> tuple[float, int]:
    """Return the test score in [0, 1], and the epochs that were trained."""
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
        strategy=our_strategy(strategy, data, clusters),
        split=split,
        lr=data.lr,
        weight_decay=data.weight_decay,
        seed=seed,
        patience=data.patience[strategy != "global"],
    )
    summary = trainer.fit(data.epochs[strategy != "global"])
    score = summary["test_auroc" if "test_auroc" in summary else "test_accuracy"]
    return score, summary["epochs"]


# -- PyTorch Geometric's --------------------------------------------------------------------------


class Peer(nn.Module):
    """PyG's layers put together as in its own examples."""

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
    """Return PyG's graph with a `SparseTensor` in the place of its edges, and of their weights."""
    attr = "edge_weight" if "edge_weight" in whole else None
    return ToSparseTensor(attr=attr)(copy(whole))


def peer_batches(name: str, data: Data, whole: Any, clusters: np.ndarray) -> Any:
    """Return PyG's loader of a strategy; iterating it gives the batches of an epoch."""
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
    """Return the rows of a batch that count in its loss."""
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
    """Train PyG's model by the same rule."""
    torch.manual_seed(seed)
    whole = graph.to_pyg(split=split)
    is_binary = whole.y.dtype == torch.bool or int(whole.y.max()) == 1
    whole.y = whole.y.float() if is_binary else whole.y.long()
    # Where batches are neighbourhoods, PyG's GCN would take their own degrees; ours does so in
    # clusters alone. Weights made beforehand are those of the whole graph, and made but once.
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
    "graphtheta": train_ours,
    "pyg": train_peer,
    "pyg, degrees of the batch": partial(train_peer, whole_degrees=False),
}


def measure(
    library: str, name: str, model: str, strategy: str, folder: Path, seeds: int
) -> dict[str, Any]:
    """Train with all seeds, and return the record."""
    data, scores, epochs, start = DATA[name], [], [], time.perf_counter()
    for seed in range(seeds):
        graph, split = graph_of(name, folder, seed)
        clusters = clusters_of(graph, data.clusters) if strategy == "cluster" else None
        found = LIBRARIES[library](model, strategy, data, graph, split, clusters, seed)
        scores.append(100 * found[0])
        epochs.append(found[1])
    return {
        "benchmark": "strategies",
        "case": {"library": library, "data": name, "model": model, "strategy": strategy},
        "seeds": seeds,
        "unit": "per cent",
        "mean": statistics.mean(scores),
        "std": statistics.stdev(scores) if seeds > 1 else 0.0,
        "scores": scores,
        "epochs": epochs,
        "seconds": time.perf_counter() - start,
        "config": asdict(data) | {"dropout": DROPOUT},
        **provenance(torch.get_num_threads()),
    }


def cases(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yield data, model and strategy of every row."""
    for name in options.only.split(","):
        for model in options.models.split(","):
            for strategy in options.strategies.split(","):
                yield name, model, strategy


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", default=",".join(DATA), help="data sets")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--json", type=Path, help="file to add records to, and to continue")
    parser.add_argument(
        "--peer", default="pyg", choices=list(LIBRARIES)[1:], help="what stands beside ours"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
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
