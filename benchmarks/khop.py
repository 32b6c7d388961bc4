"""Work per worker for exact neighbourhoods of 2 to 5 layers on 1 to 8 workers.

    python benchmarks/khop.py --workers 1,2,4,8 --json benchmarks/results/khop.jsonl

A step draws 1,024 targets from all nodes, collects everything they reach, and runs GraphSAGE of 32
columns forward and backward. The stores have 8 parts; they are made in `--folder` and kept there:
RMAT 2^20 x 16 by a vertex-cut (2ps-l), planted communities of the same size by an edge-cut
(fennel), and a torus of 2^20 nodes of degree 4 by an edge-cut (kaminpar).

The table has one row per graph, number of layers and number of workers: targets and active edges of
a step, active edges of the busiest worker and their share of the sum, seconds to prepare and to run
a step, data sent, and memory of a worker. Times are meaningful only with at least one core per
worker; counts of edges, bytes and memory are valid for any number of cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.bench.graphs import describe_graph
from graphtheta.bench.memory import peak_bytes, release_memory, reset_peak, resident_bytes
from graphtheta.bench.record import Record, append, new_record
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.launch import guarded, threads_per_rank, tune_rank
from graphtheta.datasets import read
from graphtheta.datasets.generate import communities, rmat
from graphtheta.nn import GraphSAGE
from graphtheta.partition import Plan, Resources, make_store
from graphtheta.strategy import MiniBatch, NodeTargets, Step
from graphtheta.train.gradients import broadcast_model, reduce_gradients

COLUMNS = CLASSES = 32
PARTS = 8
HEAD = (
    "graph | layers | workers | targets | active edges | busiest worker | share of sum | "
    "prepare s | step s | sent MB | memory MB per worker"
)


def torus(side: int = 1024) -> gt.Graph:
    """Return a square lattice with periodic borders: every node has four neighbours."""
    at = np.arange(side * side).reshape(side, side)
    ends = [(at, np.roll(at, shift, axis)) for axis in (0, 1) for shift in (1, -1)]
    src, dst = (np.concatenate([pair[i].ravel() for pair in ends]) for i in (0, 1))
    return gt.Graph(
        pa.table({"id": pa.array(at.ravel())}),
        pa.table({"src": pa.array(src), "dst": pa.array(dst)}),
    )


def _rmat(folder: Path) -> Any:
    return read(str(rmat(folder / "rmat-table", scale=20, edge_factor=16, with_nodes=True)))


def _communities(folder: Path) -> Any:
    return read(str(communities(folder / "communities-table", nodes=1 << 20, features=1)))


GRAPHS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "rmat": (_rmat, "2ps-l"),
    "communities": (_communities, "fennel"),
    "torus": (lambda folder: torus(), "kaminpar"),
}


def main() -> None:
    """Launch the jobs, or run as a worker of one (with `--store`)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="1,2,4,8", help="numbers of workers; divisors of 8")
    parser.add_argument("--graphs", default=",".join(GRAPHS), help=", ".join(GRAPHS))
    parser.add_argument("--layers", default="2,3,4,5", help="numbers of layers")
    parser.add_argument("--batch-size", type=int, default=1024, help="targets per step")
    parser.add_argument("--steps", type=int, default=5, help="measured steps, after one warm-up")
    parser.add_argument("--folder", type=Path, default=Path("khop-stores"), help="folder of stores")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.store is not None:
        work(options)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"| {HEAD} |\n{'|---' * len(HEAD.split('|'))}|", flush=True)
    for name in options.graphs.split(","):
        store = options.folder / name
        if not store.exists():
            make, method = GRAPHS[name]
            make_store(make(options.folder), store, Plan(PARTS, method), Resources())
        for size in map(int, options.workers.split(",")):
            launch(size, store, options)


def launch(size: int, store: Path, options: argparse.Namespace) -> None:
    """Run a job of `size` workers, which prints its rows of the table."""
    given = {name: getattr(options, name) for name in ("layers", "steps", "json")}
    words = [w for name, value in given.items() if value is not None for w in (f"--{name}", value)]
    words += ["--store", store, "--batch-size", options.batch_size]
    threads = max(1, len(os.sched_getaffinity(0)) // size)
    mpiexec = Path(sys.executable).parent / "mpiexec"
    subprocess.run(
        [*map(str, (mpiexec, "-n", size, sys.executable, __file__, *words))],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=True,
    )


def work(options: argparse.Namespace) -> None:
    """Open the store and measure each number of layers; collective."""
    comm = gt.communicator()
    tune_rank()
    shard = gt.open_shard(options.store, comm)
    for layers in map(int, options.layers.split(",")):
        record = measure(shard, layers, options)
        if comm.rank == 0:
            append(options.json, [record])
            print(f"| {' | '.join(row(record))} |", flush=True)


def measure(shard: gt.Shard, layers: int, options: argparse.Namespace) -> Record:
    """Train some steps and return their times and per-worker counts; collective."""
    comm = shard.comm
    rows = torch.arange(shard.num_masters)
    keys = torch.from_numpy(shard.node_key_L[: shard.num_masters].copy())
    x = torch.sin(keys[:, None].float() * torch.arange(1, COLUMNS + 1) / 1000)
    target = keys % CLASSES
    model = GraphSAGE(COLUMNS, COLUMNS, CLASSES, num_layers=layers, dropout=0.0)
    broadcast_model(model, comm)

    def loss(outputs: torch.Tensor, nodes: torch.Tensor) -> tuple[torch.Tensor, int]:
        return F.cross_entropy(outputs, target[nodes], reduction="sum"), len(nodes)

    targets = NodeTargets(shard, rows, loss)
    steps = MiniBatch(options.batch_size).schedule(shard, targets, layers=layers, seed=0)(0)
    release_memory()
    resident = resident_bytes()
    samples: list[dict[str, float]] = []
    for number in range(options.steps + 1):
        if number == 1:
            reset_peak()
        samples.append(one_step(model, steps, x, comm, options.batch_size))
    beyond = comm.all_gather_int(peak_bytes() - resident, stage="count memory")
    per_worker = {
        name: np.stack([comm.all_gather_int(int(s[name]), stage=name) for s in samples[1:]])
        for name in ("targets", "edges", "nodes", "mirrors", "sent")
    }
    case = {"model": "sage", "columns": COLUMNS, "layers": layers, "batch": options.batch_size}
    threads = threads_per_rank()
    return new_record(
        "khop",
        {
            **case,
            "workers": comm.size,
            "threads": threads,
            **describe_graph(options.store.name, shard.manifest),
        },
        [s["step"] for s in samples[1:]],
        prepare_seconds=[s["prepare"] for s in samples[1:]],
        memory_bytes=beyond.tolist(),
        **{f"{name}_of_workers": counts.tolist() for name, counts in per_worker.items()},
    )


def one_step(
    model: torch.nn.Module,
    steps: Iterator[Step],
    x: torch.Tensor,
    comm: Communicator,
    batch_size: int,
) -> dict[str, float]:
    """Run one step, and return its seconds and the counts of this worker; collective."""
    comm.barrier(stage="step")
    sent, start = comm.bytes_sent, time.perf_counter()
    batch = next(steps)()
    prepared = time.perf_counter()
    blocks = batch.view.blocks or ()
    outputs = model(batch.view, blocks[0].of_inputs(x))
    loss, _ = batch.step_targets.loss(batch.view, outputs[batch.rows])
    torch.autograd.backward(loss / batch_size + batch.view.token)
    reduce_gradients(model.parameters(), comm)
    comm.barrier(stage="step")
    return {
        "prepare": prepared - start,
        "step": time.perf_counter() - start,
        "targets": len(batch.step_targets.targets),
        "edges": sum(block.num_edges for block in blocks),
        "nodes": sum(block.num_outputs for block in blocks),
        "mirrors": sum(block.sources.num_mirrors for block in blocks),
        "sent": comm.bytes_sent - sent,
    }


def row(record: Record) -> list[str]:
    """Return the table cells of a record: medians over the steps."""
    edges = np.array(record["edges_of_workers"])
    whole, most = np.median(edges.sum(1)), np.median(edges.max(1))
    case = record["case"]
    return [
        case["graph"],
        str(case["layers"]),
        str(case["workers"]),
        f"{np.median(np.sum(record['targets_of_workers'], 1)):.0f}",
        f"{whole:,.0f}",
        f"{most:,.0f}",
        f"{most / whole:.3f}",
        f"{np.median(record['prepare_seconds']):.3f}",
        f"{record['median']:.3f}",
        f"{np.median(np.sum(record['sent_of_workers'], 1)) / 1e6:.1f}",
        f"{max(record['memory_bytes']) / 1e6:.0f}",
    ]


if __name__ == "__main__":
    sys.exit(guarded(main))
