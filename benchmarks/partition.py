"""How fast graphs are partitioned, from tables to a store, and how well, by every method.

Each measurement is a process of its own, whose kernels are compiled before the clock starts; peak
memory is that of the process while it partitions. The store is deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    if arguments.one:
        print(json.dumps(_measure(**json.loads(arguments.one))))
        return
    print("| graph | method | parts | M edges/s | assign M edges/s | replication | edge cut | "
          "balance nodes / edges | peak GB |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="partition-") as folder:
        for graph in arguments.graphs.split(","):
            made = Path(folder) / graph
            command = [sys.executable, "-m", "graphtheta", "datasets", "make", *GRAPHS[graph][:1]]
            start = time.perf_counter()
            subprocess.run([*command, str(made), *GRAPHS[graph][1:]], check=True, stdout=sys.stderr)
            generated = time.perf_counter() - start
            for parts in map(int, arguments.parts.split(",")):
                for method in arguments.methods.split(","):
                    for _ in range(arguments.runs):
                        record = _in_a_process(made, folder, graph, method, parts, arguments)
                        record["generate_seconds"] = round(generated, 1)
                        _report(record, arguments.json)
            shutil.rmtree(made)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", default="rmat,communities", help=", ".join(GRAPHS))
    parser.add_argument("--methods", default="dbh,2ps-l,hdrf")
    parser.add_argument("--parts", default="32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-limit", help="as of `graphtheta partition`, in bytes", type=int)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--folder", help="where graphs and stores are written and deleted")
    parser.add_argument("--json", help="a file that a line is added to for each measurement")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(
    made: Path, folder: str, graph: str, method: str, parts: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    job = {
        "made": str(made),
        "folder": folder,
        "method": method,
        "num_parts": parts,
        "threads": arguments.threads,
        "memory_limit": arguments.memory_limit,
    }
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(job)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.returncode}
    asked = {name: value for name, value in job.items() if name not in ("made", "folder")}
    return {"benchmark": "partition", "graph": graph, "arguments": GRAPHS[graph], **asked, **found}


def _measure(
    made: str, folder: str, method: str, num_parts: int, threads: int, memory_limit: int | None
) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa

    from graphtheta import datasets
    from graphtheta.errors import PartitionError
    from graphtheta.graph import Graph
    from graphtheta.partition import PARTITIONERS, Plan, Resources, make_store
    from graphtheta.partition.rule import EdgeRule
    from graphtheta.partition.scratch import Scratch

    ends = np.random.default_rng(0).integers(0, 1000, (2, 20_000))
    source = datasets.read(made)
    with tempfile.TemporaryDirectory(dir=folder) as warm:
        small = Path(warm) / "edges.parquet"
        kind = source.edge_schema.field("src").type
        table = pa.table({"src": ends[0], "dst": ends[1]})
        if not pa.types.is_int64(kind):
            table = pa.table({n: table[n].cast(kind) for n in table.column_names})
        elif "int64" in made:
            table = pa.table({"src": ends[0] << 40, "dst": ends[1] << 40})
        import pyarrow.parquet as pq

        pq.write_table(table, small)
        for warming in (
            datasets.tables.TableSource(None, str(small)),
            Graph.from_arrow(None, table),
        ):
            plan = Plan(8, method)
            make_store(warming, Path(warm) / f"{id(warming)}", plan, Resources(threads=threads))
    phases: dict[str, float] = {}
    phase = Scratch.phase

    def timed(self: Scratch, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        start = time.perf_counter()
        result = phase(self, name, run)
        phases[name] = round(time.perf_counter() - start, 3)
        return result

    Scratch.phase = timed  # type: ignore[method-assign]
    store = Path(folder) / "store"
    before = _peak_bytes(reset=True)
    start = time.perf_counter()
    try:
        made_store = make_store(
            source,
            store,
            Plan(num_parts, method),
            Resources(threads=threads, memory_limit=memory_limit),
        )
    except PartitionError as error:
        return {"refused": str(error)}
    seconds = time.perf_counter() - start
    peak = _peak_bytes(reset=False)
    from provenance import provenance  # loads torch, which would count as memory

    manifest = made_store.manifest
    rule = isinstance(PARTITIONERS[method], EdgeRule)  # which places edges as they move
    size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    shutil.rmtree(store)
    return {
        "num_nodes": manifest.num_nodes,
        "num_edges": manifest.num_edges,
        "seconds": round(seconds, 3),
        "edges_per_second": round(manifest.num_edges / seconds),
        "assign_edges_per_second": None if rule else round(manifest.num_edges / phases["assign"]),
        "phases": phases,
        "peak_bytes": peak,
        "bytes_before": before,
        "store_bytes": size,
        "quality": manifest.quality.model_dump(),
        "checksum": manifest.checksum,
        **provenance(),
        "threads": threads,
    }


def _peak_bytes(*, reset: bool) -> int:
    """Return the peak of resident memory, or what is resident, from where the peak starts anew."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _report(record: dict[str, Any], path: str | None) -> None:
    if path is not None:
        with open(path, "a") as file:
            file.write(json.dumps(record) + "\n")
    print("| " + " | ".join(_cells(record)) + " |", flush=True)


def _cells(record: dict[str, Any]) -> Iterator[str]:
    yield from (record["graph"], record["method"], str(record["num_parts"]))
    if "quality" not in record:
        yield record.get("refused", f"failed: {record.get('failed')}")
        return
    quality = record["quality"]
    yield f"{record['edges_per_second'] / 1e6:.2f}"
    assigned = record["assign_edges_per_second"]
    yield "" if assigned is None else f"{assigned / 1e6:.2f}"
    yield f"{quality['replication_factor']:.3f}"
    yield f"{quality['edge_cut']:.3f}"
    yield f"{quality['node_balance']:.3f} / {quality['edge_balance']:.3f}"
    yield f"{record['peak_bytes'] / 1e9:.2f}"


if __name__ == "__main__":
    main()
