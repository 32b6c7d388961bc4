"""Step time and memory of learned rows: updated in every step, or when a step reads them.

    python benchmarks/rows.py STORE --json benchmarks/results/rows.jsonl

The folder STORE is made if it is missing: a uniform random graph, so that a step reads other rows
than the one before. A step trains a GraphSAGE of two layers on 1,024 targets with fan-outs 10,10
and a learned vector for each node. Each row of the table is a process of its own:

- `dense`: torch's optimiser on the whole matrix, in every step.
- `rows`: the same results by `RowOptimizer`, which the trainer uses.
- `torch`: `torch.nn.Embedding(sparse=True)` with `torch.optim.SparseAdam`, on the same batches and
  layers. Its results are others than those of Adam: a row that a step does not read keeps its
  values and its moments, and there is no weight decay.

Seconds are those of forward, backward and update, without preparing the batch. CPU seconds are
those of all threads; they are also what a step takes on an idle machine with one thread. With
`rows`, the first steps are not measured, until rows are out of date as much as they will ever be.
Memory is the peak during the steps above what the process held with the graph, before the model was
made.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

import graphtheta as gt
from graphtheta.bench.memory import peak_bytes, release_memory, reset_peak, resident_bytes
from graphtheta.bench.record import append, new_record
from graphtheta.comm.launch import tune_rank
from graphtheta.inference.run_model import run_model
from graphtheta.nn import GraphSAGE, NodeEmbedding
from graphtheta.optim.row_optimizer import RowOptimizer
from graphtheta.partition import Plan, make_store
from graphtheta.tgar import View, ViewModule

CASES = [
    ("dense", "adam", 0.0),
    ("rows", "adam", 0.0),
    ("torch", "adam", 0.0),
    ("dense", "adam", 5e-4),
    ("rows", "adam", 5e-4),
    ("dense", "adamw", 5e-4),
    ("rows", "adamw", 5e-4),
    ("dense", "sgd", 5e-4),
    ("rows", "sgd", 5e-4),
]
KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def main() -> None:
    """Measure every case in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="partitioned store, made if it is missing")
    parser.add_argument("--nodes", type=int, default=2_000_000, help="nodes of a new store")
    parser.add_argument("--degree", type=int, default=10, help="edges per node of a new store")
    parser.add_argument("--channels", type=int, default=64, help="columns of a learned vector")
    parser.add_argument("--batch-size", type=int, default=1024, help="targets in a step")
    parser.add_argument("--steps", type=int, default=5, help="measured steps")
    parser.add_argument("--warm-up", type=int, default=40, help="steps before, with rows")
    parser.add_argument("--case", type=int, help="measure this case only, and print its record")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(measure(options, *CASES[options.case])))
        return
    if not options.store.exists():
        make_store(graph(options.nodes, options.degree), options.store, Plan(num_parts=1))
    print("| optimiser | weight decay | updates | step | CPU | all rows made up for | memory |")
    print("|---|---|---|---|---|---|---|")
    for number, (updates, kind, decay) in enumerate(CASES):
        command = [sys.executable, *sys.argv, "--case", str(number)]
        record = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        append(options.json, [record])
        print(
            f"| {kind} | {decay:g} | {updates} | {record['median']:.2f} s "
            f"| {record['cpu_seconds']:.2f} s | {record['catch_up_cpu_seconds']:.2f} s "
            f"| {record['bytes'] / 1e6:,.0f} MB |",
            flush=True,
        )


def graph(nodes: int, degree: int) -> gt.Graph:
    """Return a uniform random graph whose nodes are all targets."""
    rng = np.random.default_rng(0)
    src, dst = rng.integers(0, nodes, (2, nodes * degree))
    columns = {
        "id": np.arange(nodes),
        "label:y": rng.integers(0, 16, nodes),
        "split:split": np.ones(nodes, np.int8),
    }
    return gt.Graph(pa.table(columns), pa.table({"src": src, "dst": dst}))


class SparseEmbedding(ViewModule):
    """Embedding of torch with sparse gradients, in place of `NodeEmbedding`."""

    takes = View

    def __init__(self, start: Tensor, encoder: nn.Module) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(start, freeze=False, sparse=True)
        self.encoder = encoder

    def forward(self, view: View, x: Tensor) -> Any:
        """Return the encoder's outputs."""
        assert view.blocks is not None
        return self.encoder(view, self.table(view.blocks[0].row_index))


def measure(options: argparse.Namespace, updates: str, kind: str, decay: float) -> dict[str, Any]:
    """Return the record of a case."""
    threads = tune_rank()
    shard = gt.open_shard(options.store)
    sizes = (options.channels, 64, shard.num_classes)
    before = resident_bytes()
    model: nn.Module = NodeEmbedding(shard, options.channels, GraphSAGE(*sizes, dropout=0.0))
    if updates == "torch":
        model = SparseEmbedding(model.weight.detach(), model.encoder)
        optimizers: list[Any] = [
            torch.optim.SparseAdam(model.table.parameters(), lr=0.01),
            torch.optim.Adam(model.encoder.parameters(), lr=0.01),
        ]
    else:
        optimizer = KINDS[kind](model.parameters(), lr=0.01, weight_decay=decay)
        optimizers = [RowOptimizer(optimizer) if updates == "rows" else optimizer]
    release_memory()
    reset_peak()
    task = gt.NodePrediction().bind(model, shard, 0)
    strategy = gt.MiniBatch(options.batch_size, [10, 10])
    steps = strategy.schedule(shard, task.targets, layers=2, seed=0)
    warm_up = options.warm_up if updates == "rows" else 2
    seconds, cpu_seconds, rows = [], [], []
    lazy = optimizers[0].lazy() if updates == "rows" else nullcontext()
    with lazy:
        for step in islice(steps(0), warm_up + options.steps):
            batch = step()
            start, cpu = time.perf_counter(), time.process_time()
            for each in optimizers:
                each.zero_grad()
            outputs = run_model(model, batch.view)
            loss, _ = batch.step_targets.loss(batch.view, outputs[batch.rows])
            (loss / options.batch_size + batch.view.token).backward()
            for each in optimizers:
                each.step()
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu)
            rows.append(batch.view.blocks[0].num_inputs)
        cpu, peak = time.process_time(), peak_bytes()
        if updates == "rows":
            optimizers[0].catch_up()
        catch_up = time.process_time() - cpu
    manifest = shard.manifest
    case = {
        "threads": threads,
        "workers": 1,
        "graph": "uniform",
        "nodes": manifest.num_nodes,
        "edges": manifest.num_edges,
        "channels": options.channels,
        "batch_size": options.batch_size,
        "fanouts": [10, 10],
        "updates": updates,
        "optimizer": kind if updates != "torch" else "SparseAdam",
        "weight_decay": decay,
    }
    more = {
        "bytes": peak - before,
        "cpu_seconds": statistics.median(cpu_seconds[warm_up:]),
        "catch_up_cpu_seconds": catch_up,
        "rows_per_step": statistics.mean(rows),
    }
    return new_record("rows", case, seconds[warm_up:], **more)


if __name__ == "__main__":
    main()
