"""Start of a worker: the communicator of this process, and the end of the job if a rank fails.

Under MPI, an exception, an early exit or a lost rank leaves the other ranks waiting for ever; under
torchrun, an early exit does. There are three ways to end the whole job instead:

- `guarded(main)` runs a program and ends the job with an exit code for any failure of `main`. The
  command line runs in it.
- `communicator(install_hooks=True)` replaces `sys.excepthook`, `threading.excepthook` and
  `os._exit`, so that an uncaught exception in any thread, or a call of `os._exit`, ends the job.
- Otherwise nothing of the process is replaced. When the interpreter exits, an `atexit` function
  ends the job if the main thread ended by an uncaught exception, and waits for the other ranks if
  it did not. The other ranks report a rank that waits there, or does not answer, when their timeout
  is over.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError, GraphThetaError
from graphtheta.runtime.threads import core_mask, fair_threads, set_threads
from graphtheta.runtime.tuning import tune
from graphtheta.wording import counted

if TYPE_CHECKING:
    from graphtheta.comm.process import ProcessCommunicator

__all__ = [
    "Launcher",
    "communicator",
    "guarded",
    "launcher",
    "mpi_mismatch",
    "threads_per_rank",
    "tune_rank",
]

_TORCHRUN = "WORLD_SIZE"
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_FIRST_SPECIAL_STEP = 0xFFFFFFF0  # Slurm's ids of batch scripts and interactive shells lie above
_current: Communicator | None = None
_process: ProcessCommunicator | None = None  # the same object if there are several ranks
_has_hooks = False


class Launcher(NamedTuple):
    """Environment variable that shows that a launcher started this process, and the job's size.

    Attributes:
        variable: Name of the environment variable.
        size: Number of processes of the job; 0 if the variable does not contain it.
    """

    variable: str
    size: int

    @property
    def by_torchrun(self) -> bool:
        """Whether torch.distributed, rather than MPI, connects the job."""
        return self.variable == _TORCHRUN


def launcher(env: Mapping[str, str] = os.environ) -> Launcher | None:
    """Return the launcher that started this process as one of several, or None.

    The shell of a Slurm allocation has SLURM_NTASKS too, so only steps started by `srun` count.
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
        return Launcher("PMIX_RANK", 0)  # PMIx does not give the number
    return None


def communicator(
    timeout_s: float | None = None,
    *,
    check: bool | None = None,
    install_hooks: bool = False,
) -> Communicator:
    """Return the communicator of this process.

    It uses MPI under mpiexec or srun and torch.distributed under torchrun; otherwise this process
    is the only worker. It is made in the first call, and later calls return the same object.

    If there are several processes, the first call registers an `atexit` function (see the module's
    documentation) and, unless the program uses SIGUSR2 itself, has SIGUSR2 print the stacks of the
    Python threads, which the watchdog sends to a rank that does not answer.

    Args:
        timeout_s: Longest wait for other workers before the job ends. If None, keep the current
            value, which is 1800 at first.
        check: Whether to compare the operation of all ranks before each collective. This finds
            ranks that are in different operations, and takes some microseconds each time. If None,
            keep the current value, which is False at first.
        install_hooks: Whether to replace `sys.excepthook`, `threading.excepthook` and `os._exit`
            so that a failure of this process ends the whole job immediately. Ignored if this
            process is the only worker.

    Raises:
        ConfigError: If the launcher started several processes and MPI finds one, if mpi4py is
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
    if install_hooks and _process is not None:
        _install_hooks(_process)
    return _current


def threads_per_rank() -> int:
    """Return the number of threads this rank should use: cores of the host / its ranks.

    OMP_NUM_THREADS and SLURM_CPUS_PER_TASK take precedence, in this order.

    Communication:
        Collective if `communicator` has not been called yet.
    """
    communicator()
    mask = core_mask()
    if _process is None:
        return fair_threads(mask, mask, 1)
    return fair_threads(mask, _process.job.core_users, _process.job.host_ranks)


def tune_rank(
    threads: int | None = None, *, allocator: Literal["training"] | None = "training"
) -> int:
    """Apply the settings of `tune` to this process as one rank of its host.

    Args:
        threads: Number of threads, set even if tuning is off. If None or 0, `threads_per_rank()`.
        allocator: As in `tune`.

    Returns:
        The number of threads this rank should use.

    Communication:
        Collective if `communicator` has not been called yet.
    """
    count = threads or threads_per_rank()
    tune(allocator=allocator, threads=count)
    if threads:
        set_threads(threads)
    return count


def guarded(main: Callable[[], int | None]) -> int:
    """Run `main` as a program, and end the whole job if it fails on this rank.

    An exception is printed, with the rank if there are several; then all processes of the job end
    with a non-zero exit code. A rank whose `main` returns early waits for the others.

    If there are several processes, this calls `communicator(install_hooks=True)` first.

    Args:
        main: The program. Returns the exit code, or None for 0.

    Returns:
        The exit code for `sys.exit`: that of a GraphThetaError, which is printed as one line; 1 for
        another exception, which is printed with its traceback; 130 for Ctrl-C; the code of
        SystemExit. If there are several ranks, this returns 0 or does not return.

    Communication:
        Waits for all ranks at the end.
    """
    message = ""
    try:
        if launcher() is not None:
            communicator(install_hooks=True)  # before main: only a rank of the job can end it
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
    """Return the exit code for an exception, and the message to print."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            code = error.code or 0  # typer ends a successful command with SystemExit(0)
            return code, f"error: {_who()}SystemExit: {code}" if code and _process else ""
        return 1, f"error: {_who()}{error.code}" if _process else str(error.code)
    if isinstance(error, KeyboardInterrupt):
        return 130, f"error: {_who()}interrupted"
    if isinstance(error, GraphThetaError):
        kind = f"{type(error).__name__}: " if _process else ""
        return error.exit_code, f"error: {_who()}{kind}{error}"
    trace = "".join(traceback.format_exception(error))
    return 1, f"{trace}error: {_who()}{type(error).__name__}: {error}"


def _who() -> str:
    """Return the rank and its last stage as the start of a message; empty for a single worker."""
    if _process is None:
        return ""
    stage = _process.job.watchdog.last_stage
    return f"rank {_process.rank}{f' (last in {stage!r})' if stage else ''}: "


def mpi_mismatch(env: Mapping[str, str] = os.environ) -> str:
    """Return why the MPI library cannot connect to the launcher, and what to do; empty if it can.

    MPICH connects over PMI, as its own mpiexec offers it and `srun --mpi=pmi2`; Open MPI connects
    over PMIx. Only a library that was built for both can use either.
    """
    from mpi4py import MPI

    vendor = MPI.get_vendor()[0]
    pmi, pmix = "PMI_RANK" in env or "PMI_FD" in env, "PMIX_RANK" in env
    if vendor == "MPICH" and pmix and not pmi and "pmix" not in MPI.Get_library_version().lower():
        return (
            "MPICH under PMIx: the launcher belongs to Open MPI, or is srun --mpi=pmix. Start with "
            f"MPICH's mpiexec ({Path(sys.executable).parent / 'mpiexec'} if it is the mpich wheel) "
            "or srun --mpi=pmi2, or set MPI4PY_LIBMPI to the libmpi.so of Open MPI."
        )
    if vendor == "Open MPI" and pmi and not pmix:
        return (
            "Open MPI under PMI: the launcher belongs to MPICH, or is srun --mpi=pmi2. Start with "
            "Open MPI's mpiexec or srun --mpi=pmix, or unset MPI4PY_LIBMPI."
        )
    return ""


def _start_mpi(by: Launcher) -> Communicator:
    global _process
    several = counted(by.size, "worker") if by.size else "several workers"
    try:
        import mpi4py

        early = "mpi4py.MPI" not in sys.modules
        if early:  # starting the wrong library may end the process
            mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI

        from graphtheta.comm import mpi
    except (ImportError, RuntimeError) as error:  # no mpi4py, or no MPI library for it
        raise ConfigError(
            f"communicator: {by.variable} shows {several}, but mpi4py cannot be loaded "
            f"({' '.join(str(error).split())}). Run: pip install 'graphtheta[mpi]'"
        ) from error
    vendor, mismatch = MPI.get_vendor()[0], mpi_mismatch()
    if mismatch.startswith("MPICH") and not MPI.Is_initialized():
        raise ConfigError(f"communicator: {by.variable} shows {several}, but {mismatch}")
    if early:
        level = os.environ.get("MPI4PY_RC_THREAD_LEVEL", mpi4py.rc.thread_level)
        with warnings.catch_warnings():  # mpi4py suspects what is checked below
            warnings.simplefilter("ignore", RuntimeWarning)
            MPI.Init_thread(getattr(MPI, f"THREAD_{level.upper()}"))
    world = MPI.COMM_WORLD
    if world.size == 1:
        if by.size == 0:
            return SingleCommunicator()
        raise ConfigError(
            f"communicator: {by.variable} shows {several}, but MPI finds 1: "
            + (
                mismatch
                or f"the launcher and mpi4py use different MPI libraries ({vendor} here). Start "
                "with that library's mpiexec, or with srun --mpi=pmi2 (srun --mpi=list shows "
                "others)."
            )
        )
    _process = mpi.start(world)
    _register_at_exit(_process)
    return _process


def _start_torch() -> Communicator:
    global _process
    from graphtheta.comm import torch_distributed  # imports torch

    _process = torch_distributed.start()
    _register_at_exit(_process)
    return _process


def _uncaught_error() -> BaseException | None:
    """Return the exception that ended the main thread, as the interpreter recorded it, or None."""
    if hasattr(sys, "ps1"):  # an interactive session goes on after an exception
        return None
    return getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)


def _register_at_exit(comm: ProcessCommunicator) -> None:
    """Wait for the other ranks when the interpreter exits, or end the job after an exception."""
    pid, earlier = os.getpid(), _uncaught_error()

    def at_exit() -> None:
        if os.getpid() != pid:  # a forked child is not a rank of the job
            return
        error = _uncaught_error()
        if error is not None and error is not earlier and not comm.finished:
            comm.abort(1, f"error: {_who()}{type(error).__name__}: {error}")
        comm.finish()

    atexit.register(at_exit)


def _install_hooks(comm: ProcessCommunicator) -> None:
    """Have uncaught exceptions and `os._exit` end the job; do nothing the second time."""
    global _has_hooks
    if _has_hooks:
        return
    _has_hooks = True
    pid = os.getpid()
    usual_excepthook, real_exit = sys.excepthook, os._exit

    def excepthook(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        usual_excepthook(kind, error, trace)
        if os.getpid() == pid:
            comm.abort(1, f"error: {_who()}{kind.__name__}: {error}")

    def thread_excepthook(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:  # SystemExit ends only that thread
            excepthook(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)

    def exit_with_job(status: int) -> NoReturn:
        # Without a message the launcher kills the other ranks, and it may report success.
        if os.getpid() == pid and not comm.finished:
            comm.abort(status or 1, f"error: {_who()}os._exit({status}) before the end of the job")
        real_exit(status)

    sys.excepthook = excepthook
    threading.excepthook = thread_excepthook
    os._exit = exit_with_job
