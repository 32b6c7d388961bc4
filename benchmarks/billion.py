"""Training time and memory on a graph with a billion edges: global-batch GCN.

    graphtheta datasets make rmat graph --scale 24 --edge-factor 60
    graphtheta partition graph store --parts 8 --method dbh
    python benchmarks/billion.py store --json benchmarks/results/billion.jsonl
    mpiexec -n 2 python benchmarks/billion.py store --json benchmarks/results/billion.jsonl

The model has two layers of 16 columns in float32. The store needs no features or labels: 16 input
columns and 16 classes are computed from node keys, and every node is a training target.

Rank 0 prints a table with the median time per epoch, the peak resident memory of all workers, the
anonymous part of it, and the time to open the store. Resident memory includes pages mapped from the
store, which the operating system may evict; anonymous memory ("of it anonymous") does not.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.bench.executors import executors, require_fused
from graphtheta.bench.graphs import describe_graph
from graphtheta.bench.memory import anonymous_bytes, peak_bytes, reset_peak
from graphtheta.bench.record import append, new_record
from graphtheta.comm.launch import guarded, tune_rank
from graphtheta.comm.timers import StageTimers
from graphtheta.nn import GCN
from graphtheta.tgar import View
from graphtheta.train.gradients import broadcast_model, reduce_gradients

COLUMNS = CLASSES = 16


def main() -> None:
    """Train some epochs and print the table; collective."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="partitioned store")
    parser.add_argument(
        "--epochs", type=int, default=5, help="epochs to measure after a warm-up epoch"
    )
    parser.add_argument("--json", type=Path, help="JSON Lines file to append a record to")
    parser.add_argument(
        "--allow-chunked", action="store_true", help="allow layers that do not run fused"
    )
    options = parser.parse_args()
    comm, threads = gt.communicator(), tune_rank()
    start = time.perf_counter()
    shard = gt.open_shard(options.store, comm)
    keys = torch.from_numpy(shard.node_key_L[: shard.num_masters].copy())
    x = torch.sin(keys[:, None].float() * torch.arange(1, COLUMNS + 1) / 1000)
    target = keys % CLASSES
    opened = time.perf_counter() - start
    model = GCN(COLUMNS, COLUMNS, CLASSES, dropout=0.0)
    broadcast_model(model, comm)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    num_nodes = shard.manifest.num_nodes
    seconds, losses, anonymous = [], [], 0
    for epoch in range(options.epochs + 1):
        if epoch == 1:
            reset_peak()
            shard.channel.stages = StageTimers()
            sent = comm.bytes_sent
        comm.barrier(stage="epoch")
        start = time.perf_counter()
        optimizer.zero_grad()
        view = View(shard, step=epoch)
        loss = F.cross_entropy(model(view, x), target, reduction="sum") / num_nodes
        torch.autograd.backward(loss + view.token)
        reduce_gradients(model.parameters(), comm)
        optimizer.step()
        total = np.array([float(loss.detach())])
        comm.all_reduce(total, stage="loss")
        seconds.append(time.perf_counter() - start)
        losses.append(float(total[0]))
        anonymous = max(anonymous, anonymous_bytes())
        if not options.allow_chunked:
            require_fused(model)
        if comm.rank == 0:
            print(f"epoch {epoch}: {seconds[-1]:.1f} s, loss {losses[-1]:.4f}", flush=True)
    sent = int(comm.all_gather_int(comm.bytes_sent - sent, stage="count bytes").sum())
    peaks = comm.all_gather_int(peak_bytes(), stage="count memory")
    held = comm.all_gather_int(anonymous, stage="count memory")
    stages = {n: s / options.epochs for n, s in shard.channel.stages.seconds.items()}
    if comm.rank != 0:
        return
    case = {"model": "gcn", "columns": COLUMNS, "layers": 2, "threads": threads}
    record = new_record(
        "billion",
        {**case, "workers": comm.size, **describe_graph(options.store.name, shard.manifest)},
        seconds[1:],
        losses=losses,
        open_seconds=opened,
        stages=stages,
        peak_bytes=int(peaks.sum()),
        anonymous_bytes=int(held.sum()),
        bytes_sent=sent // options.epochs,
        executors=executors(model),
    )
    append(options.json, [record])
    print("| edges | workers x threads | epoch s | peak GB | of it anonymous | opened s |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {shard.manifest.num_edges:,} | {comm.size} x {threads} | {record['median']:.1f} "
        f"| {record['peak_bytes'] / 1e9:.1f} | {record['anonymous_bytes'] / 1e9:.1f} "
        f"| {opened:.1f} |"
    )


if __name__ == "__main__":
    sys.exit(guarded(main))
