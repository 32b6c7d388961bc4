"""Records of measurements, stored as lines of JSON.

A record holds `benchmark` and `case`, which identify the measurement; `unit`, seconds or bytes, so
that less is always better; `median`, `p10`, `p90` and all `samples`; further fields of the
benchmark; and the provenance: commit, versions, hardware and time.

Never imports torch, since processes whose memory is measured also write records.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphtheta.errors import ConfigError
from graphtheta.runtime.versions import installed_versions

__all__ = ["Record", "append", "load", "mean_and_deviation", "new_record", "provenance", "spread"]

Record = dict[str, Any]

_PACKAGES = ("graphtheta", "torch", "torch-geometric", "dgl", "numpy", "numba", "pyarrow", "mpi4py")
_ROOT = Path(__file__).resolve().parents[2]


def new_record(
    benchmark: str,
    case: Mapping[str, Any],
    samples: Sequence[float],
    *,
    unit: Literal["seconds", "bytes"] = "seconds",
    **more: Any,
) -> Record:
    """Return a record of some samples.

    Args:
        benchmark: Kind of measurement.
        case: What was measured, with `threads` and `workers`. Equal cases are comparable.
        samples: One value per run, without warm-up.
        unit: Unit of the samples.
        more: Further fields.
    """
    record = {"benchmark": benchmark, "case": dict(case), "unit": unit, **spread(samples)}
    return {**record, **more, **provenance(int(case.get("threads", 1)))}


def spread(samples: Sequence[float]) -> dict[str, Any]:
    """Return `median`, `p10`, `p90` and `samples` of some samples."""
    low, middle, high = np.percentile(np.asarray(samples, np.float64), [10, 50, 90])
    found = {"median": float(middle), "p10": float(low), "p90": float(high)}
    return {**found, "samples": [float(sample) for sample in samples]}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of a value per seed, and its standard deviation: 0 for one seed."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def append(path: Path | str | None, records: Iterable[Record]) -> None:
    """Append records to a file as lines of JSON; without a path, do nothing.

    Raises:
        ConfigError: If the file cannot be written.
    """
    if path is None:
        return
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a file to append records to, got {error.strerror}. Choose another."
        ) from None


def load(path: Path | str) -> list[Record]:
    """Return the records of a file in order, without lines of other content.

    Raises:
        ConfigError: If the file does not exist, is not JSON, or holds no record.
    """
    try:
        lines = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a file of records, got {error.strerror}. Check the path."
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"{path}: expected lines of JSON, got an error: {error}. Choose a file written by "
            "graphtheta bench --json."
        ) from None
    needed = {"benchmark", "case", "unit", "median", "p10", "p90"}
    records = [line for line in lines if isinstance(line, dict) and line.keys() >= needed]
    if not records:
        raise ConfigError(
            f"{path}: expected records, got none in {len(lines)} lines. Choose a file written by "
            "graphtheta bench --json."
        )
    return records


def provenance(threads: int) -> dict[str, Any]:
    """Return commit, versions, hardware, threads and time (UTC)."""
    return {
        **_commit(),
        "versions": installed_versions(_PACKAGES),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def _commit() -> dict[str, Any]:
    if _git("rev-parse", "--show-toplevel") != str(_ROOT):  # installed, not a checkout of ours
        return {"commit": None, "dirty": False}
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": bool(changed)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


@functools.cache
def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
