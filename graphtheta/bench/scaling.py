"""Scaling of training with the number of workers on one host."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import lcm
from pathlib import Path
from typing import Any

from graphtheta.bench.epoch import ModelOptions
from graphtheta.bench.graphs import rmat_store
from graphtheta.bench.record import Record, load
from graphtheta.comm.single import SingleCommunicator
from graphtheta.datasets import read
from graphtheta.errors import ConfigError
from graphtheta.partition import Plan, Resources, make_store
from graphtheta.runtime.scratch import scratch_folder
from graphtheta.runtime.supervisor import find_mpiexec

__all__ = ["efficiency", "scaling_records", "store_to_scale"]

_LAUNCHERS = ("PMI", "OMPI", "OMP_", "SLURM", "PMIX")  # variables of a surrounding job


def store_to_scale(
    folder: Path,
    source: str | None,
    ranks: Sequence[int],
    *,
    method: str,
    scale: int,
    edge_factor: int,
    **options: Any,
) -> str:
    """Return a store whose number of parts every number of workers divides.

    Args:
        folder: Directory for a new store.
        source: A store, which is returned, or another input. If None, an RMAT graph is generated.
        ranks: Numbers of workers.
        method: Partitioner of an input that is not a store.
        scale: Scale of the generated graph.
        edge_factor: Edges per node of the generated graph.
        options: Further options of `rmat_graph`.

    Raises:
        ConfigError: If the input cannot be opened.
    """
    if source is not None and (Path(source) / "manifest.json").exists():
        return source
    name = f"rmat-{scale}x{edge_factor}" if source is None else Path(source).name
    path, parts = folder / name, lcm(*ranks)
    if source is None:
        rmat_store(path, scale, edge_factor, num_parts=parts, method=method, **options)
    else:
        make_store(read(source), path, Plan(parts, method), Resources(SingleCommunicator()))
    return str(path)


def scaling_records(
    store: str, options: ModelOptions, jobs: Sequence[tuple[int, int]], *, runs: int = 7
) -> Iterator[Record]:
    """Train on a store with each number of workers, and yield a record for each.

    Args:
        store: Path of the store.
        options: The model.
        jobs: Number of workers, a divisor of the number of parts, and threads per worker of each.
        runs: Number of timed epochs.

    Raises:
        ConfigError: If mpiexec is missing, or a job failed; with the message of the job.
    """
    for size, threads in jobs:
        with scratch_folder() as folder:
            written = folder / "records.jsonl"
            given = {**asdict(options), "runs": runs, "threads": threads, "json": written}
            options_given = [w for name, value in given.items() for w in (f"--{name}", str(value))]
            _run(size, ["bench", "epoch", store, *options_given], threads)
            yield load(written)[-1]


def efficiency(first: Record, record: Record) -> tuple[float, float]:
    """Return the speed-up over the first record, and the speed-up per growth in cores used."""
    speed_up = first["median"] / record["median"]
    cores = [r["case"]["workers"] * r["case"]["threads"] for r in (first, record)]
    return speed_up, speed_up * cores[0] / cores[1]


def _run(size: int, arguments: Sequence[str], threads: int) -> None:
    command = [sys.executable, "-m", "graphtheta", *arguments]
    if size > 1:
        command = [find_mpiexec(), "-n", str(size), *command]
    clean = {n: value for n, value in os.environ.items() if not n.startswith(_LAUNCHERS)}
    clean["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        error = next((line for line in lines if line.startswith("error: ")), lines[-1])
        raise ConfigError(
            f"bench scaling: expected {size} workers to train, got exit code {done.returncode}: "
            f"{error.removeprefix('error: ')}"
        )
