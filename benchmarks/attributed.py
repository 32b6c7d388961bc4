"""Distributed training on graphs with edge attributes and edge types.

    mpiexec -n 2 python benchmarks/attributed.py --data ../shared/data

- `gat-e-bitcoin-otc`: GAT-E classifies users of Bitcoin OTC as fraudulent or not, from the rating
  and the time on each edge. The seed sets the random split, the initial weights and dropout; mean
  and standard deviation are over seeds.
- `rgcn-wordnet`: R-GCN predicts the lexicographer file (45 classes) of each WordNet synset from
  hashed words and 26 types of edges (pointers).

The reported test metric is that of the epoch with the best validation metric (the first one on
ties). Rank 0 prints a Markdown table with one row per case: the test metric, the median time per
epoch, the number of workers, the bytes that all workers send per epoch, and the peak memory of a
rank. `--json` appends a record per case.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import graphtheta as gt
from graphtheta.bench.record import append, mean_and_deviation, provenance
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.launch import guarded, threads_per_rank, tune_rank
from graphtheta.nn import Stack


@dataclass(frozen=True)
class Case:
    """One model on one data set.

    Attributes:
        layer: "gat-e" or "rgcn".
        folder: Folder of the data set, relative to `--data`.
        read: Function that reads the graph from a folder, with a seed for its split.
        metric: Reported metric.
        seeds: Number of runs.
        epochs: Epochs per run.
        lr: Learning rate of Adam.
        options: Further arguments of the model.
    """

    layer: str
    folder: str
    read: Callable[..., gt.Graph]
    metric: str
    seeds: int
    epochs: int
    lr: float
    options: dict[str, Any]

    def model(self, shard: gt.Shard, seed: int) -> Stack:
        """Build the model for the features, labels and edge columns of the graph."""
        sizes = {
            "in_channels": shard.num_features,
            "hidden_channels": 32,
            "out_channels": shard.num_outputs("y"),
            "seed": seed,
        }
        if self.layer == "gat-e":
            return gt.nn.GATE(**sizes, edge_dim=shard.edge_dim, **self.options)
        return gt.nn.RGCN(**sizes, num_relations=shard.num_edge_types, **self.options)


CASES = {
    "gat-e-bitcoin-otc": Case(
        layer="gat-e",
        folder="bitcoin-otc",
        read=gt.datasets.bitcoin_otc.read,
        metric="auroc",
        seeds=5,
        epochs=100,
        lr=0.01,
        options={"heads": 4, "dropout": 0.3},
    ),
    "rgcn-wordnet": Case(
        layer="rgcn",
        folder="wordnet30",
        read=gt.datasets.wordnet.read,
        metric="accuracy",
        seeds=1,
        epochs=40,
        lr=0.02,
        options={"num_bases": 4, "dropout": 0.2},
    ),
}

_KEPT = (
    *("epochs", "best_epoch", "epoch_seconds", "phase_seconds", "peak_rss_bytes"),
    *("workers", "threads", "seed", "store_checksum"),
)


def train(case: Case, data: Path, method: str, seed: int, comm: Communicator) -> dict[str, Any]:
    """Train with one seed, and return the part of the summary that is recorded; collective.

    `bytes_sent` is the total of all workers from the first epoch on, including evaluation.
    """
    shard = gt.open_shard(case.read(str(data / case.folder), seed=seed), comm, method=method)
    trainer = gt.Trainer(case.model(shard, seed), shard, lr=case.lr, seed=seed)
    before = comm.bytes_sent
    summary = trainer.fit(case.epochs)
    sent = comm.all_gather_int(comm.bytes_sent - before, stage="count bytes").sum()
    scores = {k: v for k, v in summary.items() if k.startswith(("test_", "val_"))}
    quality = shard.manifest.quality.model_dump()
    final_loss = summary["loss_history"][-1]
    kept = {key: summary[key] for key in _KEPT}
    return scores | kept | {"bytes_sent": int(sent), "final_loss": final_loss, "quality": quality}


def record(name: str, data: Path, method: str, comm: Communicator) -> dict[str, Any]:
    """Train a case with every seed, and return its record; collective."""
    case = CASES[name]
    runs = [train(case, data, method, seed, comm) for seed in range(case.seeds)]
    scores = [run[f"test_{case.metric}"] for run in runs]
    mean, deviation = mean_and_deviation(scores)
    config = asdict(case)
    del config["read"]
    return {
        "benchmark": "attributed",
        "case": name,
        "metric": f"test_{case.metric}",
        "mean": mean,
        "std": deviation,
        "config": config | {"method": method},
        "runs": runs,
        **provenance(threads_per_rank()),
    }


def row(result: dict[str, Any]) -> str:
    """Return one row of the table; times and bytes are those of the first seed."""
    run = result["runs"][0]
    spread = f" ± {result['std']:.3f}" if len(result["runs"]) > 1 else ""
    return (
        f"| {result['case']} | {result['metric']} {result['mean']:.3f}{spread} "
        f"| {1e3 * run['epoch_seconds']['median']:.0f} ms | {run['workers']} "
        f"| {run['bytes_sent'] / run['epochs'] / 2**20:.2f} MiB "
        f"| {run['peak_rss_bytes'] / 2**30:.2f} GiB |"
    )


def main() -> None:
    """Run the cases and print the table; collective."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--only", choices=CASES, action="append", help="case to run (repeatable)")
    parser.add_argument("--method", default="kaminpar", help="partitioner")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    options = parser.parse_args()
    comm = gt.communicator()
    tune_rank()
    if comm.rank == 0:
        print("| case | test | epoch (median) | workers | sent per epoch | peak memory of a rank |")
        print("|---|---|---|---|---|---|")
    for name in options.only or CASES:
        result = record(name, options.data, options.method, comm)
        if comm.rank != 0:
            continue
        print(row(result), flush=True)
        append(options.json, [result])


if __name__ == "__main__":
    sys.exit(guarded(main))
