"""A job of MPI that loses rank 1 while two threads of each rank send, with a slow launcher."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading

import numpy as np

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.launch import communicator, guarded

FAILURES: queue.SimpleQueue[Exception] = queue.SimpleQueue()


def kill_this_rank() -> None:
    """Kill this rank while the launcher is stopped, which ends the other ranks seconds later."""
    launcher = os.getppid()
    subprocess.Popen(["sh", "-c", f"sleep 3.5; kill -CONT {launcher}"], start_new_session=True)
    os.kill(launcher, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGKILL)


def exchange_for_ever(comm: Communicator, stage: str) -> None:
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    send, receive = np.zeros(100_000), np.zeros(100_000)
    for step in range(10**9):
        if "collective" not in sys.argv:
            comm.exchange({right: send}, {left: receive}, stage=f"{stage} sync").wait()
        comm.all_reduce(np.ones(3), stage=f"{stage} loss")
        if step == 40 and comm.rank == 1 and stage == "epoch":
            kill_this_rank()


def prepare(comm: Communicator) -> None:
    try:
        exchange_for_ever(comm, "prepare")
    except Exception as error:
        FAILURES.put(error)


def main() -> None:
    comm = communicator(60.0)
    threading.Thread(target=prepare, args=[comm.split(0)], daemon=True).start()
    exchange_for_ever(comm, "epoch")


if __name__ == "__main__":
    sys.exit(guarded(main))
