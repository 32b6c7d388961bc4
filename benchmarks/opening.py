"""Time to open a store, and the share of it that goes into checking its files.

    graphtheta datasets make rmat graph --scale 22 --edge-factor 16
    graphtheta partition graph store --parts 2 --method dbh
    python benchmarks/opening.py store --json benchmarks/results/opening.jsonl

The checks read every file of the worker's parts for its hash, and the columns that index memory for
their ranges. CPU seconds are those of all threads of this process. They are also what opening takes
on an idle machine with one thread; on a busy one, the wall time is longer.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import graphtheta as gt
from graphtheta.bench.graphs import describe_graph
from graphtheta.bench.record import append, new_record
from graphtheta.comm.launch import tune_rank
from graphtheta.partition import open_store


def seconds(function: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Return the wall and CPU seconds of each of some calls, after one without measuring."""
    function()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, before = time.perf_counter(), os.times()
        function()
        walls.append(time.perf_counter() - wall)
        now = os.times()
        cpus.append(now.user + now.system - before.user - before.system)
    return walls, cpus


def main() -> None:
    """Open the store some times and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="partitioned store")
    parser.add_argument("--repeats", type=int, default=5, help="times to open the store")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append a record to")
    options = parser.parse_args()
    threads, store = tune_rank(), open_store(options.store)
    parts = range(store.num_parts)
    walls, cpus = seconds(lambda: gt.open_shard(store), options.repeats)
    _, checks = seconds(lambda: [store.part(p, verified=True) for p in parts], options.repeats)
    cpu, check = statistics.median(cpus), statistics.median(checks)
    graph = describe_graph(options.store.name, store.manifest)
    case = {"threads": threads, "workers": 1, **graph}
    more = {"cpu_seconds": cpu, "check_cpu_seconds": check}
    append(options.json, [new_record("opening", case, walls, **more)])
    print("| edges | parts | opening | CPU | of it checks |")
    print("|---|---|---|---|---|")
    print(
        f"| {store.manifest.num_edges:,} | {store.num_parts} | {statistics.median(walls):.1f} s "
        f"| {cpu:.2f} s | {check:.2f} s ({100 * check / cpu:.0f} %) |"
    )


if __name__ == "__main__":
    main()
