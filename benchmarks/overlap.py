"""Share of a link's delay that is hidden by computing rows without mirrors while mirrors travel.

    mpiexec -n 2 python benchmarks/overlap.py --delay 0.02 --json benchmarks/results/overlap.jsonl

A delay is injected into every exchange of a step. The delay that is not hidden is the time for
which a pass blocks on the exchange ("waited"). "sync" is the whole stage, including packing and
copies, and "all" the whole pass. In backward, gradients of mirrors travel while those of masters
are computed. The table has one row per layer and direction, with medians over the runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import graphtheta as gt
from graphtheta.bench.record import append, provenance
from graphtheta.comm.timers import StageTimers
from graphtheta.data.schema import matrix_column
from graphtheta.nn import GATConv, GCNConv
from graphtheta.tgar import View


class Delayed:
    """Communicator that delays exchanges and delegates everything else."""

    def __init__(self, comm: Any, seconds: float) -> None:
        self._comm, self._seconds = comm, seconds
        self.waited = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def exchange(self, send: Any, recv: Any, *, stage: str) -> Any:
        """Start an exchange that completes no earlier than the delay."""
        return _Late(self, self._comm.exchange(send, recv, stage=stage), self._seconds)


class _Late:
    def __init__(self, link: Delayed, pending: Any, seconds: float) -> None:
        self._link, self._pending = link, pending
        self._due = time.perf_counter() + seconds

    def test(self) -> bool:
        return self._pending.test() and time.perf_counter() >= self._due

    def wait(self) -> None:
        start = time.perf_counter()
        self._pending.wait()
        time.sleep(max(0.0, self._due - time.perf_counter()))
        self._link.waited += time.perf_counter() - start


def banded(num_nodes: int, degree: int) -> gt.Graph:
    """Return a graph of near neighbours on a ring; node ranges of it have few mirrors."""
    rng = np.random.default_rng(0)
    dst = np.repeat(np.arange(num_nodes), degree)
    src = (dst + rng.integers(1, 1000, len(dst))) % num_nodes
    features = matrix_column(rng.standard_normal((num_nodes, 64), np.float32))
    nodes = {"id": pa.array(np.arange(num_nodes)), "features": features}
    return gt.Graph(pa.table(nodes), pa.table({"src": pa.array(src), "dst": pa.array(dst)}))


@contextmanager
def watched(
    link: Delayed, shard: gt.Shard, direction: str, rows: dict[str, list[tuple[float, ...]]]
) -> Iterator[None]:
    """Time the body, and add its row: seconds blocked, seconds of the sync, total seconds."""
    link.barrier(stage="step")
    shard.channel.stages = stages = StageTimers()
    link.waited, start = 0.0, time.perf_counter()
    yield
    spent = time.perf_counter() - start
    rows[direction].append((link.waited, stages.seconds[f"{direction} layer 0 sync"], spent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1 << 17, help="number of nodes")
    parser.add_argument("--degree", type=int, default=64, help="in-edges per node")
    parser.add_argument("--delay", type=float, default=0.02, help="injected delay in seconds")
    parser.add_argument("--runs", type=int, default=7, help="measured runs")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    arguments = parser.parse_args()

    comm = gt.communicator()
    gt.tune(threads=1)
    shard = gt.open_shard(banded(arguments.nodes, arguments.degree), comm, method="range")
    link = Delayed(comm, arguments.delay)
    shard.channel.comm = link  # type: ignore[assignment]
    if comm.rank == 0:
        print("| layer | direction | delay, ms | waited, ms | sync, ms | all, ms | hidden |")
        print("|---|---|---|---|---|---|---|")
    for layer in (GCNConv(64, 64), GATConv(64, 16, heads=4)):
        rows: dict[str, list[tuple[float, ...]]] = {"forward": [], "backward": []}
        for step in range(arguments.runs + 2):
            x, view = shard.features.clone().requires_grad_(), View(shard, step=step)
            with watched(link, shard, "forward", rows):
                out = layer(view[0], x)
            with watched(link, shard, "backward", rows):
                torch.autograd.backward([out.square().sum(), view.token])
        for direction, times in rows.items():
            if comm.rank:
                continue
            waited, sync, spent = np.median(times[2:], axis=0).tolist()
            name, hidden = type(layer).__name__, 1 - waited / arguments.delay
            cells = [f"{1000 * x:.1f}" for x in (arguments.delay, waited, sync, spent)]
            print(f"| {name} | {direction} | {' | '.join(cells)} | {hidden:.0%} |")
            record = {"benchmark": "overlap", "layer": name, "direction": direction}
            record |= {"workers": comm.size, "waited": waited, "sync": sync, "seconds": spent}
            record |= {"delay": arguments.delay, "hidden": hidden} | provenance(1)
            append(arguments.json, [record])


if __name__ == "__main__":
    main()
