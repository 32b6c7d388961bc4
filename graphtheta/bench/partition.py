"""Time, memory and quality of partitioning a graph, from its tables to a store.

Each run is a process of its own, `python -m graphtheta.bench.partition JOB`, which compiles its
kernels before the clock starts. Peak memory is that of the process while it partitions. Never
imports torch, whose libraries would be counted.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graphtheta import datasets
from graphtheta.bench.memory import peak_bytes, release_memory, reset_peak, resident_bytes
from graphtheta.bench.record import Record, new_record
from graphtheta.data.graph import Graph
from graphtheta.errors import GraphThetaError
from graphtheta.partition import Plan, Resources, make_store
from graphtheta.runtime.scratch import scratch_folder
from graphtheta.runtime.threads import set_threads

__all__ = ["Job", "partition_record"]


@dataclass(frozen=True)
class Job:
    """Partitioning job to measure.

    Attributes:
        source: Path or URI of the graph, as for `graphtheta.datasets.read`.
        folder: Directory for the store, which is deleted again.
        method: A key of `PARTITIONERS`.
        num_parts: Number of parts.
        threads: Number of threads.
        memory_limit: Bytes, as for `Resources`.
    """

    source: str
    folder: str
    method: str
    num_parts: int
    threads: int
    memory_limit: int | None = None


def partition_record(job: Job, graph: Mapping[str, Any], *, runs: int = 1) -> Record:
    """Partition a graph several times, each in a process of its own.

    Args:
        job: The job.
        graph: Fields of the case that describe the graph.
        runs: Number of runs.

    Returns:
        A record of the last run, with the samples of all; or, if the graph cannot be partitioned,
        a dictionary with the reason in `refused`.
    """
    found = [_run_in_process(job) for _ in range(runs)]
    options = {"method": job.method, "parts": job.num_parts, "memory_limit": job.memory_limit}
    case = {**graph, **options, "threads": job.threads, "workers": 1}
    if refusals := [result["refused"] for result in found if "refused" in result]:
        return {"benchmark": "partition", "case": case, "refused": refusals[0]}
    return new_record("partition", case, [result.pop("seconds") for result in found], **found[-1])


def _run_in_process(job: Job) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(asdict(job))],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"refused": f"the process ended with code {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _measure(job: Job) -> dict[str, Any]:
    set_threads(job.threads)
    source = datasets.read(job.source)
    _compile(source.edge_tables[0].schema.field("src").type, job)
    phases: dict[str, float] = {}
    resources = Resources(
        threads=job.threads, memory_limit=job.memory_limit, on_phase=phases.__setitem__
    )
    store = Path(job.folder) / "store"
    release_memory()
    before = resident_bytes()
    reset_peak()
    start = time.perf_counter()
    try:
        made = make_store(source, store, Plan(job.num_parts, job.method), resources)
        seconds = time.perf_counter() - start
        peak, manifest = peak_bytes(), made.manifest
        size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    except GraphThetaError as error:
        return {"refused": str(error)}
    finally:
        shutil.rmtree(store, ignore_errors=True)
    return {
        "seconds": seconds,
        "num_nodes": manifest.num_nodes,
        "num_edges": manifest.num_edges,
        "phases": phases,
        "peak_bytes": peak,
        "bytes_before": before,
        "store_bytes": size,
        "quality": manifest.quality.model_dump(),
        "checksum": manifest.checksum,
    }


def _compile(ids: pa.DataType, job: Job) -> None:
    """Compile all kernels: partition a small graph with ids of the same type."""
    spread = 1 << 40 if pa.types.is_integer(ids) else 1  # other kernels than for dense ids
    ends = np.random.default_rng(0).integers(0, 1000, (2, 20_000))
    with scratch_folder(job.folder) as folder:
        for name, factor in (("dense", 1), ("spread", spread)):
            columns = {
                end: pa.array(rows * factor).cast(ids)
                for end, rows in zip(("src", "dst"), ends, strict=True)
            }
            table, file = pa.table(columns), folder / f"{name}.parquet"
            pq.write_table(table, file)
            for kind, source in (
                ("tables", datasets.tables.TableSource(None, str(file))),
                ("graph", Graph.from_arrow(None, table)),
            ):
                plan, path = Plan(8, job.method), folder / f"{name}-{kind}"
                make_store(source, path, plan, Resources(threads=job.threads))


if __name__ == "__main__":
    print(json.dumps(_measure(Job(**json.loads(sys.argv[1])))))
