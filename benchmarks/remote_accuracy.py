"""Test accuracy of PyG's `HeteroConv` on Debian's packages, from sampled batches of the engine.

    python benchmarks/remote_accuracy.py --data ../shared/data --seeds 2

A package's section (58 classes) is predicted from its relations, as in `typed_accuracy.py`. The
model is PyG's: a learned vector of 32 numbers for each node, two layers `HeteroConv` of `SAGEConv`,
and a linear map. It is trained with the same fan-outs by two kinds of loaders:

- `local`: PyG's `NeighborLoader` on `HeteroData` in memory, which needs torch-sparse or pyg-lib;
- `engine`: `RemoteNodeLoader` on a store of two parts, each served by a process of its own.

The reported accuracy is that of the test split after the last epoch, computed on the whole graph.
The loaders draw different edges, so that only means are comparable. CPU time is that of the
training process and of the servers. `--json` appends a record per loader.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import HeteroData
from torch_geometric.loader import NeighborLoader

import graphtheta as gt
from graphtheta.bench.record import append, mean_and_deviation, provenance
from graphtheta.engine import connect
from graphtheta.engine.pyg import RemoteFeatureStore, RemoteGraphStore, RemoteNodeLoader
from graphtheta.partition import Plan, make_store

WIDTH, DROPOUT, LR, BATCH = 32, 0.3, 0.01, 1024
TARGET, LABEL, SPLIT = "package", "package.section", "package.split"


class Model(nn.Module):
    """Two layers of PyG's `HeteroConv` with `SAGEConv` on learned vectors."""

    def __init__(self, data: HeteroData, classes: int) -> None:
        super().__init__()
        self.vectors = nn.ModuleDict(
            {name: nn.Embedding(data[name].num_nodes, WIDTH) for name in data.node_types}
        )
        for vectors in self.vectors.values():
            nn.init.uniform_(vectors.weight, -((3 * WIDTH) ** -0.5), (3 * WIDTH) ** -0.5)
        self.convs = nn.ModuleList(
            pyg.HeteroConv(
                {relation: pyg.SAGEConv(WIDTH, WIDTH) for relation in data.edge_types}, "mean"
            )
            for _ in range(2)
        )
        self.lin = nn.Linear(WIDTH, classes)

    def forward(self, n_id: Mapping[str, Tensor], edges: Mapping[Any, Tensor]) -> Tensor:
        """Return the logits of the packages of a batch, given the numbers of its nodes."""
        x = {name: self.vectors[name](rows) for name, rows in n_id.items()}
        for conv in self.convs:
            dropped = {name: F.dropout(h, DROPOUT, self.training) for name, h in x.items()}
            x |= {name: F.relu(h) for name, h in conv(dropped, edges).items()}
        out: Tensor = self.lin(x[TARGET])
        return out


def train(loader: Iterable[HeteroData], data: HeteroData, seed: int, epochs: int) -> float:
    """Train on batches, and return the test accuracy on the whole graph."""
    torch.manual_seed(seed)
    labels = data[TARGET].y
    model = Model(data, int(labels.max()) + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            n_id = {name: batch[name].n_id for name in batch.node_types}
            size = batch[TARGET].batch_size
            out = model(n_id, batch.edge_index_dict)[:size]
            F.cross_entropy(out, batch[TARGET].y[:size]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        every = {name: torch.arange(data[name].num_nodes) for name in data.node_types}
        found = model(every, data.edge_index_dict).argmax(1)
    return float((found == labels)[data[TARGET].test_mask].float().mean())


@contextmanager
def local(data: HeteroData, graph: gt.Graph, fanouts: list[int]) -> Iterator[Any]:
    """Yield a loader of PyG on the graph in memory, and no servers."""
    mask = (TARGET, data[TARGET].train_mask)
    for store in [*data.node_stores, *data.edge_stores]:
        for text in [key for key, value in store.items() if isinstance(value, list)]:
            del store[text]  # PyG's loader cannot select rows of these
    yield NeighborLoader(data, fanouts, mask, batch_size=BATCH, shuffle=True), []


@contextmanager
def engine(data: HeteroData, graph: gt.Graph, fanouts: list[int]) -> Iterator[Any]:
    """Yield a loader of the engine on two served parts, and the processes of the servers."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        make_store(graph, store, Plan(2, "dbh"))
        command = [sys.executable, "-m", "graphtheta", "serve", str(store), "--part"]
        servers = [
            subprocess.Popen([*command, part], stdout=subprocess.PIPE, text=True) for part in "01"
        ]
        try:
            # "serving parts 0 of STORE at 127.0.0.1:PORT"
            remote = connect([server.stdout.readline().split()[-1] for server in servers])  # type: ignore[union-attr]
            features = RemoteFeatureStore(remote, {TARGET: {"y": "label:section"}})
            nodes = (TARGET, features.split("train", node_type=TARGET))
            stores = (features, RemoteGraphStore(remote))
            yield (
                RemoteNodeLoader(stores, fanouts, nodes, batch_size=BATCH, shuffle=True),
                [psutil.Process(server.pid) for server in servers],
            )
            remote.close()
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.communicate()


LOADERS: dict[str, Callable[[HeteroData, gt.Graph, list[int]], Any]] = {
    "local": local,
    "engine": engine,
}


def cpu_seconds(servers: list[psutil.Process]) -> float:
    """Return the CPU time of this process and of the servers."""
    return time.process_time() + sum(sum(server.cpu_times()[:2]) for server in servers)


def main() -> None:
    """Train with all loaders and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with debian/")
    parser.add_argument("--loaders", default="local,engine", help="loaders to train with")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--epochs", type=int, default=5, help="number of epochs")
    parser.add_argument("--fanouts", default="5,5", help="edges of each relation, for each layer")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    parser.add_argument("--threads", type=int, default=2, help="number of threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fanouts = [int(number) for number in options.fanouts.split(",")]
    source = gt.datasets.read(
        str(options.data / "debian"), labels=LABEL, splits=SPLIT, add_reverse=True
    )
    graph = gt.Graph.from_source(source)
    data = graph.to_pyg()
    print("| loader | test accuracy | seeds | seconds a seed | CPU seconds a seed |")
    print("|---|---|---|---|---|", flush=True)
    for name in options.loaders.split(","):
        accuracies, wall, cpu = [], [], []
        with LOADERS[name](data, graph, fanouts) as (loader, servers):
            for seed in range(options.seeds):
                began, used = time.perf_counter(), cpu_seconds(servers)
                accuracies.append(100 * train(loader, data, seed, options.epochs))
                wall.append(time.perf_counter() - began)
                cpu.append(cpu_seconds(servers) - used)
        mean, deviation = mean_and_deviation(accuracies)
        print(
            f"| {name} | {mean:.2f} ± {deviation:.2f} | {options.seeds} "
            f"| {statistics.mean(wall):.0f} | {statistics.mean(cpu):.0f} |",
            flush=True,
        )
        if options.json:
            config = {"width": WIDTH, "dropout": DROPOUT, "lr": LR, "batch": BATCH}
            record = {
                "benchmark": "remote accuracy",
                "case": "heteroconv",
                "library": name,
                "mean": mean,
                "std": deviation,
                "unit": "per cent",
                "config": {**config, "epochs": options.epochs, "fanouts": fanouts},
                "graph": graph.digest(),
                "outcomes": accuracies,
                "wall_seconds": wall,
                "cpu_seconds": cpu,
                **provenance(options.threads),
            }
            append(options.json, [record])


if __name__ == "__main__":
    main()
