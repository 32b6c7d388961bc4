"""Records: lines of JSON that say what was measured, how long it took, and on what.

A record holds `benchmark` and `case`, which together say what was measured; `unit`, seconds or
bytes, so that less is always better; `median`, `p10`, `p90` and all `samples`; what else there is
to say; and the provenance. `graphtheta.bench.compare` puts those of two files beside each other.

Never imports torch: processes whose memory is measured write records, too.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphtheta.errors import ConfigError

__all__ = ["Record", "append", "load", "new_record", "provenance", "spread"]

Record = dict[str, Any]

_PACKAGES = (
    "graphtheta",
    "torch",
    "torch-geometric",
    "dgl",
    "numpy",
    "numba",
    "pyarrow",
    "mpi4py",
)
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
        benchmark: What kind of measurement it is.
        case: What was measured, with threads and workers; two records of equal cases compare.
        samples: One value a run, warm-up left out.
        unit: Of the samples.
        more: What else to write down.
    """
    whole = {"benchmark": benchmark, "case": dict(case), "unit": unit, **spread(samples)}
    return {**whole, **more, **provenance(int(case.get("threads", 1)))}


def spread(samples: Sequence[float]) -> dict[str, Any]:
    """Return `median`, `p10`, `p90` and the samples themselves."""
    low, middle, high = np.percentile(np.asarray(samples, np.float64), [10, 50, 90])
    found = {"median": float(middle), "p10": float(low), "p90": float(high)}
    return {**found, "samples": [float(sample) for sample in samples]}


def append(path: Path | str | None, records: Iterable[Record]) -> None:
    """Add a line a record to a file, made if missing; nothing without a path.

    Raises:
        ConfigError: If it cannot be written.
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
            f"{path}: expected a file to add records to, got {error.strerror}. Name another."
        ) from None


def load(path: Path | str) -> list[Record]:
    """Return the records of a file in order; lines of another form are left out.

    Raises:
        ConfigError: If there is no such file, it is no JSON, or holds no record.
    """
    try:
        lines = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a file of records, got {error.strerror}. Check the path."
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"{path}: expected a line of JSON a record, got an error: {error}. Name a file that "
            "graphtheta bench --json wrote."
        ) from None
    needed = {"benchmark", "case", "unit", "median", "p10", "p90"}
    records = [line for line in lines if isinstance(line, dict) and line.keys() >= needed]
    if not records:
        raise ConfigError(
            f"{path}: expected records, got none among {len(lines)} lines. Name a file that "
            "graphtheta bench --json wrote."
        )
    return records


def provenance(threads: int) -> dict[str, Any]:
    """Return commit, versions, hardware, threads and time (UTC)."""
    return {
        **_commit(),
        "versions": {"python": platform.python_version()} | _versions(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def _commit() -> dict[str, Any]:
    if _git("rev-parse", "--show-toplevel") != str(_ROOT):  # installed, perhaps within a checkout
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
def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
