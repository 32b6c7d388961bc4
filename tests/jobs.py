"""Start real jobs of several processes, and make sure that nothing of them survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from graphtheta.errors import ConfigError
from graphtheta.runtime.supervisor import find_mpiexec

__all__ = [
    "LAUNCHERS",
    "MPIEXEC_AND_SLOW_TORCHRUN",
    "Finished",
    "run",
    "run_job",
    "running",
    "under_mpiexec",
    "under_torchrun",
]

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Finished:
    code: int
    output: str  # stdout and stderr
    seconds: float


def run_job(
    program: Sequence[str | Path],
    ranks: int,
    *,
    launcher: str = "mpiexec",
    timeout_s: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run `python *program` under a launcher; fail the test if it outlives `timeout_s`."""
    return run(LAUNCHERS[launcher](program, ranks), timeout_s=timeout_s, env=env)


def under_mpiexec(program: Sequence[str | Path], ranks: int) -> list[str | Path]:
    """Return the command that runs `python *program`; skip the test without mpiexec."""
    try:
        mpiexec = find_mpiexec()
    except ConfigError:
        pytest.skip("no mpiexec")
    return [mpiexec, "-n", str(ranks), sys.executable, *program]


def under_torchrun(program: Sequence[str | Path], ranks: int) -> list[str | Path]:
    """Return the command that runs `python *program`, free of torchrun's own remarks."""
    return [
        *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(ranks), "--no-python", sys.executable, *program),
    ]


LAUNCHERS = {"mpiexec": under_mpiexec, "torchrun": under_torchrun}
# A job under torchrun takes some seconds of CPU time, since its agent and its ranks load torch.
MPIEXEC_AND_SLOW_TORCHRUN = ["mpiexec", pytest.param("torchrun", marks=pytest.mark.slow)]


def run(
    command: Sequence[str | Path],
    *,
    timeout_s: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run `command` in a session of its own; fail the test if it outlives `timeout_s`."""
    started = time.monotonic()
    with running(command, env=env) as process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _kill_session(process.pid)
            output, _ = process.communicate()
            pytest.fail(f"{command} still ran after {timeout_s} s:\n{output}")
    return Finished(process.returncode, output, time.monotonic() - started)


@contextmanager
def running(
    command: Sequence[str | Path], *, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start `command` in a session of its own, all of which is killed in the end."""
    launchers = (
        "PMI",
        "OMPI",
        "OMP_",
        "SLURM",
        "TORCHELASTIC",
        "WORLD_SIZE",
    )  # of what runs the tests
    clean = {name: v for name, v in os.environ.items() if not name.startswith(launchers)}
    path = os.pathsep.join([str(_ROOT), *filter(None, [clean.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        cwd=_ROOT,
        env={**clean, "PYTHONPATH": path, **(env or {})},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _kill_session(process.pid)
        process.communicate()


def _kill_session(leader: int) -> None:
    """Kill what the command started, stopped or not, whatever process group it moved to."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                process.send_signal(signal.SIGKILL)
        except (ProcessLookupError, psutil.Error):
            continue
