"""How a process becomes a worker: which communicator it gets, and how it fails.

Under MPI an exception, an early exit or a lost rank leaves the others waiting for ever, and under
torchrun an early exit does. So the entry of every program is `guarded`, which ends the whole job;
and what bypasses it (a script of the user's own, another thread, `os._exit`) is caught by hooks
that `communicator` installs.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError, GraphThetaError
from graphtheta.runtime.threads import core_mask, fair_threads, set_threads

if TYPE_CHECKING:
    from graphtheta.comm.process import ProcessCommunicator

__all__ = ["Launcher", "communicator", "guarded", "launcher", "set_threads", "threads_per_rank"]

_TORCHRUN = "WORLD_SIZE"
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_FIRST_SPECIAL_STEP = 0xFFFFFFF0  # Slurm's ids of batch scripts and interactive shells lie above
_current: Communicator | None = None
_process: ProcessCommunicator | None = None  # the same, if it has several ranks


class Launcher(NamedTuple):
    """What the environment says about the job: the variable that says it, and the size."""

    variable: str
    size: int

    @property
    def by_torchrun(self) -> bool:
        """Whether torch.distributed, rather than MPI, connects the job."""
        return self.variable == _TORCHRUN


def launcher(env: Mapping[str, str] = os.environ) -> Launcher | None:
    """Return who started this process as one of several, or None.

    The shell of a Slurm allocation has SLURM_NTASKS, too; only a step that `srun` started counts.
    """
    size = env.get(_TORCHRUN, "")
    if "TORCHELASTIC_RUN_ID" in env and size.isdigit() and int(size) > 1:
        return Launcher(_TORCHRUN, int(size))  # srun may have started one torchrun a host
    found = [Launcher(name, int(env[name])) for name in _SIZES if env.get(name, "").isdigit()]
    step = env.get("SLURM_STEP_ID", "")
    if step.isdigit() and int(step) < _FIRST_SPECIAL_STEP:
        for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"):
            if env.get(name, "").isdigit():
                found.append(Launcher(name, int(env[name])))
                break
    if found:  # the first is the innermost: mpiexec may itself run under srun
        return found[0] if found[0].size > 1 else None
    if "PMIX_RANK" in env:
        return Launcher("PMIX_RANK", 0)  # PMIx alone does not say how many
    return None


def communicator(timeout_s: float | None = None, *, check: bool | None = None) -> Communicator:
    """Return the communicator of this process.

    MPI under mpiexec or srun, torch.distributed under torchrun, else a single worker. It is made
    once; later calls return the same one.

    Args:
        timeout_s: Longest wait for other workers before the job is given up. None: 1800 at first,
            and what it was in later calls.
        check: Whether to compare all ranks' operations, always, at some microseconds each; finds
            ranks that are in different ones. None: no at first, and as it was in later calls.

    Raises:
        ConfigError: If the launcher started several processes and MPI sees one, if mpi4py is
            missing, or if the processes of torchrun cannot reach each other.

    Communication:
        Collective in the first call.
    """
    global _current
    if _current is None:
        by = launcher()
        if by is None:
            _current = SingleCommunicator()
        else:
            _current = _start_torch() if by.by_torchrun else _start_mpi(by)
    if timeout_s is not None:
        _current.timeout_s = timeout_s
    if check is not None:
        _current.check = check
    return _current


def threads_per_rank() -> int:
    """Return how many threads this rank should use: the host's cores over its ranks.

    OMP_NUM_THREADS or SLURM_CPUS_PER_TASK, where set, come first.

    Communication:
        As `communicator`.
    """
    communicator()
    mask = core_mask()
    if _process is None:
        return fair_threads(mask, mask, 1)
    return fair_threads(mask, _process.job.core_users, _process.job.host_ranks)


def guarded(main: Callable[[], int | None]) -> int:
    """Run `main` so that no failure of one rank leaves the others waiting.

    Whatever `main` raises is printed, with its rank if there are several; then the whole job ends
    with a non-zero code. A rank that returns early waits for the others, who find it there when
    they run into their timeout.

    Args:
        main: The program. Its result is the exit code; None is 0.

    Returns:
        The exit code, for `sys.exit`: 2 for an error of GraphTheta's own, printed as one line; 1
        for an unexpected exception, printed with its traceback; 130 for Ctrl-C; what SystemExit
        carries. Under several ranks it returns 0 or not at all.

    Communication:
        Waits for all ranks at the end.
    """
    message = ""
    try:
        if launcher() is not None:
            communicator()  # before main: only a rank of the job can end it
        code = main() or 0
    except BaseException as error:
        code, message = _verdict(error)
        if _process is not None and isinstance(error, GraphThetaError | KeyboardInterrupt):
            _process.job.watchdog.await_turn()
    if _process is not None:
        if code:
            _process.abort(code, message or f"error: {_who()}exit code {code}")
        _process.finish()
    elif message:
        print(message, file=sys.stderr, flush=True)
    return code


def _verdict(error: BaseException) -> tuple[int, str]:
    """Return the exit code that an exception stands for, and what to print."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            code = error.code or 0  # 0: typer ends like this when all is well
            return code, f"error: {_who()}SystemExit: {code}" if code and _process else ""
        return 1, f"error: {_who()}{error.code}" if _process else str(error.code)
    if isinstance(error, KeyboardInterrupt):
        return 130, f"error: {_who()}interrupted"
    if isinstance(error, GraphThetaError):
        kind = f"{type(error).__name__}: " if _process else ""
        return 2, f"error: {_who()}{kind}{error}"
    trace = "".join(traceback.format_exception(error))
    return 1, f"{trace}error: {_who()}{type(error).__name__}: {error}"


def _who() -> str:
    """Name this rank, and where it was last heard of, if there are several."""
    if _process is None:
        return ""
    stage = _process.job.watchdog.last_stage
    return f"rank {_process.rank}{f' (last in {stage!r})' if stage else ''}: "


def _start_mpi(by: Launcher) -> Communicator:
    global _process
    several = f"{by.size} workers" if by.size else "several workers"
    try:
        from mpi4py import MPI

        from graphtheta.comm import mpi
    except (ImportError, RuntimeError) as error:  # no mpi4py, or no MPI library under it
        raise ConfigError(
            f"communicator: {by.variable} says {several}, but mpi4py cannot be loaded "
            f"({' '.join(str(error).split())}). Run: pip install 'graphtheta[mpi]'"
        ) from error
    world = MPI.COMM_WORLD
    if world.size == 1:
        if by.size == 0:
            return SingleCommunicator()
        raise ConfigError(
            f"communicator: {by.variable} says {several}, but MPI says 1: the launcher and mpi4py "
            f"belong to different MPI libraries ({MPI.get_vendor()[0]} here). Start with that "
            "library's mpiexec, or with srun --mpi=pmi2 (srun --mpi=list shows others)."
        )
    _process = mpi.start(world)
    _install_hooks(_process)
    return _process


def _start_torch() -> Communicator:
    global _process
    from graphtheta.comm import torch_distributed  # with torch

    _process = torch_distributed.start()
    _install_hooks(_process)
    return _process


def _install_hooks(comm: ProcessCommunicator) -> None:
    """Catch the exits that do not go through `guarded`."""
    pid = os.getpid()  # a forked child has no part in the job
    usual_excepthook, real_exit = sys.excepthook, os._exit

    def excepthook(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        usual_excepthook(kind, error, trace)
        if os.getpid() == pid:
            comm.abort(1, f"error: {_who()}{kind.__name__}: {error}")

    def thread_excepthook(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:  # the end of that thread only
            excepthook(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)

    def exit_at_once(status: int) -> NoReturn:
        # The launcher kills the others without a word or, for code 0, may call that a success.
        if os.getpid() == pid and not comm.finished:
            comm.abort(status or 1, f"error: {_who()}os._exit({status}) before the end of the job")
        real_exit(status)

    def at_exit() -> None:
        if os.getpid() == pid:
            comm.finish()

    sys.excepthook = excepthook
    threading.excepthook = thread_excepthook
    os._exit = exit_at_once
    atexit.register(at_exit)
