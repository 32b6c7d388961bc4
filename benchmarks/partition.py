"""Speed, memory and quality of the partitioners, from tables to a store.

    python benchmarks/partition.py --graphs rmat,communities --parts 32,128 --methods dbh,hdrf

Runs the measurements of `graphtheta bench partition` on generated graphs, each in a separate
process, and deletes graphs and stores afterwards. The table has one row per graph, number of parts
and method.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from graphtheta.bench.partition import Job, partition_record
from graphtheta.bench.record import append
from graphtheta.cli.bench_tables import PARTITION_HEAD, partition_row

GRAPHS = {  # name: arguments of `graphtheta datasets make`
    "rmat": ["rmat", "--scale", "22", "--edge-factor", "16", "--ids", "dense"],
    "rmat-int64": ["rmat", "--scale", "22", "--edge-factor", "16", "--ids", "int64"],
    "rmat-string": ["rmat", "--scale", "22", "--edge-factor", "16", "--ids", "string"],
    "communities": ["communities", "--nodes", "4194304", "--edge-factor", "16", "--features", "1"],
    "rmat-small": ["rmat", "--scale", "18", "--edge-factor", "16", "--ids", "dense"],
    "rmat-billion": ["rmat", "--scale", "24", "--edge-factor", "60", "--ids", "dense"],
}


def main() -> None:
    arguments = _arguments()
    head = ("graph", *PARTITION_HEAD)
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="partition-") as folder:
        for graph in arguments.graphs.split(","):
            made = Path(folder) / graph
            command = [sys.executable, "-m", "graphtheta", "datasets", "make", *GRAPHS[graph][:1]]
            start = time.perf_counter()
            subprocess.run([*command, str(made), *GRAPHS[graph][1:]], check=True, stdout=sys.stderr)
            generated = {"generate_seconds": round(time.perf_counter() - start, 1)}
            for parts in map(int, arguments.parts.split(",")):
                for method in arguments.methods.split(","):
                    record = _measure(made, folder, graph, method, parts, arguments) | generated
                    append(arguments.json, [record])
                    print(f"| {graph} | {' | '.join(partition_row(record))} |", flush=True)
            shutil.rmtree(made)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", default="rmat,communities", help=", ".join(GRAPHS))
    parser.add_argument("--methods", default="dbh,2ps-l,hdrf", help="partitioners")
    parser.add_argument("--parts", default="32", help="numbers of parts")
    parser.add_argument("--threads", type=int, default=2, help="number of threads")
    parser.add_argument("--memory-limit", help="memory limit in bytes", type=int)
    parser.add_argument("--runs", type=int, default=1, help="runs per measurement")
    parser.add_argument("--folder", help="folder for temporary graphs and stores")
    parser.add_argument("--json", help="JSON Lines file to append records to")
    return parser.parse_args()


def _measure(
    made: Path, folder: str, graph: str, method: str, parts: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    job = Job(str(made), folder, method, parts, arguments.threads, arguments.memory_limit)
    about = {"graph": graph, "arguments": " ".join(GRAPHS[graph])}
    return partition_record(job, about, runs=arguments.runs)


if __name__ == "__main__":
    main()
