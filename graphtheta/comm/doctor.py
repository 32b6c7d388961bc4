"""Report on this installation and this job, to be read first when a job does not work."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.launch import launcher, mpi_mismatch, threads_per_rank
from graphtheta.runtime.threads import core_mask, load_tbb
from graphtheta.runtime.tuning import Setting
from graphtheta.runtime.versions import installed_version, untested_version

__all__ = ["Finding", "diagnose"]

_PACKAGES = (
    *("graphtheta", "torch", "numba", "numpy", "pyarrow", "grpcio"),
    *("mpi4py", "mpich", "tbb"),
)
_SLURM = (
    "SLURM_JOB_ID",
    "SLURM_NTASKS",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_CPUS_PER_TASK",
    "SLURM_MPI_TYPE",
    "SLURM_MEM_PER_NODE",
)
_CGROUP_MEMORY = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_GIB = 1024**3
_UNLIMITED = 1 << 60  # bytes; control groups of version 1 write a huge number for "no limit"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: What was checked.
        value: What was found.
        remedy: What to do about it. Empty if there is no problem.
    """

    topic: str
    value: str
    remedy: str = ""


def diagnose(
    comm: Communicator, settings: Iterable[Setting] = (), *, cache_dir: Path | None = None
) -> list[Finding]:
    """Check this installation and the job of a communicator; collective.

    Args:
        comm: All ranks of the job.
        settings: Result of `tune` in this process.
        cache_dir: Folder of cached stores, whose disk is checked. If None, it is not.

    Returns:
        The report. Lines on ranks and hosts are about all ranks, the others about this process.

    Communication:
        An all-gather of a few integers and the host name of each rank.
    """
    return [
        Finding("python", f"{platform.python_version()} at {sys.executable}"),
        Finding("platform", platform.platform()),
        _packages(),
        _launcher(),
        _mpi(),
        _gpus(),
        *_workers(comm),
        Finding("slurm", _slurm()),
        *(
            Finding(f"tuning: {s.topic}", f"{'on' if s.applied else 'off'}: {s.detail}")
            for s in settings
        ),
        _numba_layer(),
        _memory(comm),
        *_disks(cache_dir),
    ]


def _packages() -> Finding:
    versions = {name: installed_version(name) for name in _PACKAGES}
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    untested = [text for item in versions.items() if (text := untested_version(*item))]
    return Finding("packages", found, f"{'; '.join(untested)}." if untested else "")


def _launcher() -> Finding:
    by = launcher()
    if by is None:
        return Finding("launcher", "none: a single worker")
    name = "torchrun, " if by.by_torchrun else ""
    return Finding("launcher", f"{name}{by.variable}={by.size}")


def _mpi() -> Finding:
    try:
        import mpi4py

        if "mpi4py.MPI" not in sys.modules:  # only for its name, because starting MPI may fail
            mpi4py.rc.initialize = mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return Finding("mpi", f"none: {error}", "pip install 'graphtheta[mpi]'")
    vendor, version = MPI.get_vendor()
    name = MPI.Get_library_version().split("\n")[0].split("\0")[0].strip()
    return Finding("mpi", f"{vendor} {'.'.join(map(str, version))} ({name})", mpi_mismatch())


def _gpus() -> Finding:
    import torch  # takes seconds

    names = Counter(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
    found = ", ".join(f"{count} x {name}" for name, count in names.items())
    return Finding(
        "gpus", f"{found} (CUDA {torch.version.cuda})" if found else "none: --device cpu"
    )


def _workers(comm: Communicator) -> list[Finding]:
    name = np.frombuffer(socket.gethostname().encode(), np.uint8)
    names = [row.tobytes().decode() for row in comm.all_gather(name, stage="doctor hosts")]
    hosts = Counter(names)
    cores = comm.all_gather_int(int(core_mask().sum()), stage="doctor cores")
    threads = comm.all_gather_int(threads_per_rank(), stage="doctor threads")
    on_host = {
        host: sum(int(n) for n, where in zip(threads, names, strict=True) if where == host)
        for host in hosts
    }
    listed = ", ".join(f"{host} ({count})" for host, count in sorted(hosts.items())[:8])
    more = f" and {len(hosts) - 8} more" if len(hosts) > 8 else ""
    return [
        Finding("ranks", f"{comm.size} on {len(hosts)} host(s): {listed}{more}"),
        Finding("cores a rank may use", _range(cores)),
        Finding("threads per rank", _range(threads), _threads_remedy(on_host, cores)),
    ]


def _threads_remedy(on_host: dict[str, int], cores: NDArray[np.int64]) -> str:
    # Bound ranks see only their own cores; a host has at least as many as any of its ranks sees.
    full = {host for host, wanted in on_host.items() if wanted > max(os.cpu_count() or 1, *cores)}
    if full:
        return (
            f"More threads than cores on {', '.join(sorted(full))}: start fewer ranks or set "
            "OMP_NUM_THREADS lower."
        )
    by = launcher()
    if by is not None and by.by_torchrun and os.environ.get("OMP_NUM_THREADS") == "1":
        # torchrun sets it unless the user did, for any number of cores.
        if max(on_host.values()) < cores.min():
            return "torchrun set OMP_NUM_THREADS=1: set it yourself, or use --threads."
    return ""


def _slurm() -> str:
    found = [f"{name}={os.environ[name]}" for name in _SLURM if name in os.environ]
    return ", ".join(found) or "none"


def _numba_layer() -> Finding:
    if load_tbb():
        return Finding("numba threads", "tbb")
    return Finding(
        "numba threads", "no TBB: workers that are threads may abort the process", "pip install tbb"
    )


def _memory(comm: Communicator) -> Finding:
    memory = psutil.virtual_memory()
    free = comm.all_gather_int(memory.available, stage="doctor memory")
    limit = _cgroup_memory_limit()
    return Finding(
        "memory",
        f"{memory.total / _GIB:.1f} GiB, available {_range(free / _GIB, '.1f')} GiB, "
        f"control group limit {'none' if limit is None else f'{limit / _GIB:.1f} GiB'}",
    )


def _cgroup_memory_limit(paths: tuple[Path, ...] = _CGROUP_MEMORY) -> int | None:
    """Return the memory limit of the control group in bytes, or None if it has no limit."""
    for path in paths:
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):  # another version of control groups, or "max"
            continue
        return limit if limit < _UNLIMITED else None
    return None


def _disks(cache_dir: Path | None) -> list[Finding]:
    folders = [("shared memory", Path("/dev/shm"))]
    if cache_dir is not None:
        folders.append(("cache", cache_dir))
    findings = []
    for topic, folder in folders:
        existing = next((p for p in (folder, *folder.parents) if p.exists()), None)
        if existing is None or not os.access(existing, os.W_OK):
            findings.append(Finding(topic, f"{folder}: not writeable", f"Make {folder} writeable."))
            continue
        free = shutil.disk_usage(existing).free
        # MPI sends messages within a host by shared memory, of which containers often have 64 MiB.
        small = topic == "shared memory" and free < _GIB // 4
        remedy = (
            "Give the container more shared memory, for example --shm-size=1g." if small else ""
        )
        findings.append(Finding(topic, f"{folder}: {free / _GIB:.1f} GiB free", remedy))
    return findings


def _range(values: np.ndarray, form: str = "d") -> str:
    low, high = values.min(), values.max()
    return f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"
