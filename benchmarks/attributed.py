"""Graphs with attributes and types on their edges, trained by several processes.

    mpiexec -n 2 python benchmarks/attributed.py --data ../shared/data

- `gat-e-bitcoin-otc`: GAT-E finds fraudulent users of Bitcoin OTC by the rating and the time on
  each edge. The split is random, so mean and standard deviation over seeds, which set the split,
  the initial weights and dropout.
- `rgcn-wordnet`: R-GCN names the lexicographer file of each synset of WordNet, 45 classes, by 26
  types of pointer and hashed words.

The metric of the test split is that of the epoch with the best validation metric, the first on
ties. Rank 0 prints a Markdown table and adds a line of JSON a case to the file `--json` names.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import graphtheta as gt
from graphtheta.bench.record import append, provenance
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.launch import guarded, threads_per_rank, tune_rank
from graphtheta.nn import Stack


@dataclass(frozen=True)
class Case:
    """One model on one data set.

    Attributes:
        layer: "gat-e" or "rgcn".
        folder: Of the data.
        read: Makes the graph of a folder and a seed of its split.
        metric: Which one is reported.
        seeds: How many runs.
        epochs: Of each run.
        lr: Learning rate of Adam.
        options: Of the model.
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
        """Build the model that the graph's edge columns ask for."""
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
    """Train once; return what the record keeps of the summary.

    `bytes_sent` is what all workers sent from the first epoch on, evaluation included.
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
    """Train a case with every seed."""
    case = CASES[name]
    runs = [train(case, data, method, seed, comm) for seed in range(case.seeds)]
    scores = [run[f"test_{case.metric}"] for run in runs]
    config = asdict(case)
    del config["read"]
    return {
        "benchmark": "attributed",
        "case": name,
        "metric": f"test_{case.metric}",
        "mean": statistics.mean(scores),
        "std": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        "config": config | {"method": method},
        "runs": runs,
        **provenance(threads_per_rank()),
    }


def row(result: dict[str, Any]) -> str:
    """Return one line of the table; times and bytes are those of the first seed."""
    run = result["runs"][0]
    spread = f" ± {result['std']:.3f}" if len(result["runs"]) > 1 else ""
    return (
        f"| {result['case']} | {result['metric']} {result['mean']:.3f}{spread} "
        f"| {1e3 * run['epoch_seconds']['median']:.0f} ms | {run['workers']} "
        f"| {run['bytes_sent'] / run['epochs'] / 2**20:.2f} MiB "
        f"| {run['peak_rss_bytes'] / 2**30:.2f} GiB |"
    )


def main() -> None:
    """Run the cases; collective."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=CASES, action="append", help="may be repeated")
    parser.add_argument("--method", default="kaminpar", help="partitioner")
    parser.add_argument("--json", type=Path, help="file to add records to")
    options = parser.parse_args()
    comm = gt.communicator()
    tune_rank()
    if comm.rank == 0:
        print("| case | test | epoch (median) | workers | sent an epoch | peak memory of a rank |")
        print("|---|---|---|---|---|---|")
    for name in options.only or CASES:
        result = record(name, options.data, options.method, comm)
        if comm.rank != 0:
            continue
        print(row(result), flush=True)
        append(options.json, [result])


if __name__ == "__main__":
    sys.exit(guarded(main))
