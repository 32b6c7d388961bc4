"""Let one rank of a job go wrong at a named stage, in place of the operation there."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from graphtheta.comm.process import ProcessCommunicator
from graphtheta.errors import StoreError

__all__ = ["FAULTS", "arm"]

_OPERATIONS = ("exchange", "all_reduce", "all_gather", "broadcast", "all_to_all")


def _raise(error: BaseException) -> None:
    raise error


def _stop(comm: ProcessCommunicator) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _loop_forever(comm: ProcessCommunicator) -> None:
    while True:
        pass


def _fail_in_a_thread(comm: ProcessCommunicator) -> None:
    thread = threading.Thread(target=_raise, args=(ZeroDivisionError("in a thread"),))
    thread.start()
    thread.join()
    _loop_forever(comm)


def _go_elsewhere(comm: ProcessCommunicator) -> None:
    """As after an error that was swallowed: this rank is in a stage of its own."""
    comm.exchange({}, {(comm.rank + 1) % comm.size: np.zeros(1)}, stage="recovery").wait()


FAULTS: dict[str, Callable[[ProcessCommunicator], None]] = {
    "raise": lambda comm: _raise(ValueError("boom")),
    "raise_known": lambda comm: _raise(StoreError("part-00001: cut short.")),
    "exit_0": lambda comm: sys.exit(0),
    "exit_5": lambda comm: sys.exit(5),
    "os_exit_0": lambda comm: os._exit(0),
    "os_exit_3": lambda comm: os._exit(3),
    "kill": lambda comm: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda comm: os.kill(os.getpid(), signal.SIGSEGV),
    "stop": _stop,
    "loop": _loop_forever,
    "thread": _fail_in_a_thread,
    "elsewhere": _go_elsewhere,
    "skip": lambda comm: None,
    "slow": lambda comm: time.sleep(1.25 * comm.timeout_s),
}


def arm(comm: ProcessCommunicator, fault: str, rank: int, stage: str) -> None:
    """Let `rank` run `fault` at its first operation in a stage that contains `stage`.

    Only "slow" runs the operation as well. Holds for every communicator of this one's kind.
    """
    armed = True

    def wrapped(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(comm: ProcessCommunicator, *args: Any, **kwargs: Any) -> Any:
            nonlocal armed
            if armed and comm.rank == rank and stage in kwargs["stage"]:
                armed = False
                FAULTS[fault](comm)
                if fault != "slow":
                    return None
            return operation(comm, *args, **kwargs)

        return run

    for name in _OPERATIONS:
        setattr(type(comm), name, wrapped(getattr(comm, name).__func__))
