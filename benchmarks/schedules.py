"""Loss and quality of a schedule that the multi-power law finds, next to cosine, over seeds.

    python benchmarks/schedules.py FOLDER --data ../shared/data --json FILE

For each graph GraphSAGE is trained for 100 epochs in mini-batches of 512 with fan-outs 10,10, by
the commands of `graphtheta`:

1. three seeds of a constant, a cosine and a WSD schedule; the law is fitted to the constant and the
   cosine runs, and predicts the WSD runs;
2. three seeds of the schedule that it finds, which are added to the fit with the WSD runs;
3. all seeds of the schedule that the second law finds, and of cosine.

A seed gives both schedules the same batches and initial weights, so that differences are paired.
The table shows means over seeds of the last epoch, and the mean difference with its standard error.
Runs are kept in FOLDER, and those that are there already are not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

import graphtheta as gt
from graphtheta.bench.record import append, mean_and_deviation, provenance
from graphtheta.loss_law import FitError, LawFile, read_curve
from graphtheta.partition import Plan, make_store

EPOCHS, FITTED_SEEDS = 100, 3
TRAIN = (
    *("--model", "sage", "--hidden", "64", "--strategy", "mini", "--batch-size", "512"),
    *("--fanouts", "10,10", "--weight-decay", "0", "--evaluate-every", str(EPOCHS)),
    *("--epochs", str(EPOCHS), "--threads", "1", "--no-progress"),
)
SCHEDULES = {
    "constant": ("--schedule", "constant", "--warmup", "3", "--schedule-by", "epoch"),
    "cosine": ("--schedule", "cosine", "--warmup", "3", "--schedule-by", "epoch"),
    "wsd": ("--schedule", "wsd", "--warmup", "3", "--schedule-by", "epoch"),
}
COLUMNS = ("loss", "val_loss", "test_loss")


@dataclass(frozen=True)
class Case:
    """A graph with its split and largest learning rate."""

    path: str
    lr: float
    split: str
    metric: str


CASES = {
    "tolokers": Case("tolokers", 0.03, "0", "test_auroc"),
    "amazon": Case("amazon-computers/amazon_cs.npz", 0.01, "split", "test_accuracy"),
}


def command(*words: str | Path) -> None:
    """Run a command of graphtheta, and stop if it fails."""
    line = [sys.executable, "-m", "graphtheta", *map(str, words)]
    done = subprocess.run(line, check=False, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        sys.exit(f"{' '.join(line)}\n{done.stderr}")


def store_of(name: str, case: Case, data: Path, folder: Path) -> Path:
    """Return the store of a graph; amazon's nodes are split 60 : 20 : 20 at random."""
    store = folder / "store"
    if store.exists():
        return store
    graph = gt.datasets.read(str(data / case.path))
    assert isinstance(graph, gt.Graph)
    if name == "amazon":
        draw = np.random.default_rng(0).random(graph.num_nodes)
        split = pa.array(np.searchsorted([0.6, 0.8], draw).astype(np.int8) + 1)
        position = graph.nodes.column_names.index("split:split")
        graph = gt.Graph(graph.nodes.set_column(position, "split:split", split), graph.edges)
    make_store(graph, store, Plan(1))
    return store


def train(folder: Path, store: Path, case: Case, name: str, seeds: int, *schedule: str) -> None:
    """Train the seeds of a schedule that have not been trained yet."""
    for seed in range(seeds):
        run = folder / f"{name}{seed}"
        if not (run / "summary.json").exists():
            options = ("--split", case.split, "--lr", str(case.lr), "--seed", str(seed))
            command("train", store, *TRAIN, *schedule, *options, "--run-dir", run)


def found(folder: Path, name: str, fitted: Iterable[str]) -> tuple[str, str]:
    """Fit the law to runs, and return the options of training by the schedule that it finds."""
    runs = [folder / f"{kind}{seed}" for kind in fitted for seed in range(FITTED_SEEDS)]
    law, schedule = folder / f"{name}-law.json", folder / f"{name}.json"
    command("schedule", "fit", *runs, "--output", law)
    command(
        *("schedule", "optimise", law, "--epochs", str(EPOCHS), "--warmup", "3"),
        *("--output", schedule),
    )
    return "--schedule", str(schedule)


def last_epochs(folder: Path, name: str, seeds: int, column: str) -> list[float]:
    """Return a value of each seed; the training loss is a mean of the last five epochs."""
    values = []
    for seed in range(seeds):
        lines = (folder / f"{name}{seed}" / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        last = records[-5:] if column == "loss" else records[-1:]
        values.append(statistics.mean(record[column] for record in last))
    return values


def main() -> None:
    """Train, fit and compare, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the runs")
    parser.add_argument("--data", type=Path, required=True, help="folder with the graphs")
    parser.add_argument("--graphs", default="tolokers,amazon", help="tolokers, amazon")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    print("| graph | last epoch | found | cosine | difference | better in |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in options.graphs.split(","):
        case, folder = CASES[name], options.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        store = store_of(name, case, options.data, folder)
        for kind, schedule in SCHEDULES.items():
            train(folder, store, case, kind, FITTED_SEEDS, *schedule)
        first = found(folder, "first", ("constant", "cosine"))
        law = LawFile.read(folder / "first-law.json").fitted
        unseen = [FitError.of(law, read_curve(folder / f"wsd{s}")) for s in range(FITTED_SEEDS)]
        train(folder, store, case, "first", FITTED_SEEDS, *first)
        second = found(folder, "second", (*SCHEDULES, "first"))
        train(folder, store, case, "second", options.seeds, *second)
        train(folder, store, case, "cosine", options.seeds, *SCHEDULES["cosine"])
        outcomes = {}
        for column in (*COLUMNS, case.metric):
            pair = [
                last_epochs(folder, kind, options.seeds, column) for kind in ("second", "cosine")
            ]
            gaps = [a - b for a, b in zip(*pair, strict=True)]
            gap, deviation = mean_and_deviation(gaps)
            error = deviation / len(gaps) ** 0.5
            better = sum(gap < 0 if "loss" in column else gap > 0 for gap in gaps)
            outcomes[column] = {"found": pair[0], "cosine": pair[1]}
            means = " | ".join(f"{statistics.mean(values):.4f}" for values in pair)
            print(
                f"| {name} | {column} | {means} | {gap:+.4f} ± {error:.4f} | "
                f"{better} of {len(gaps)} |",
                flush=True,
            )
        errors = {
            "mean": [e.mean for e in unseen],
            "final": [e.predicted - e.measured for e in unseen],
        }
        print(
            f"{name}: the law of constant and cosine predicts every epoch of the WSD runs with a "
            f"mean error of {100 * statistics.mean(errors['mean']):.2f} %, and their last epochs "
            f"with {statistics.mean(errors['final']):+.4f}",
            flush=True,
        )
        record = {"benchmark": "schedules", "case": name, "unit": "of the last epoch"}
        append(options.json, [{**record, "outcomes": outcomes, "unseen": errors, **provenance(1)}])


if __name__ == "__main__":
    main()
