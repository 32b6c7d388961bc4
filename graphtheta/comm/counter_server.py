"""A clerk: a thread of one rank that answers the others by MPI, whatever that rank computes.

One-sided operations of MPI would do without a thread, on one host. Between hosts most libraries
move them along only while their target is inside MPI, and a rank that computes is not.
"""

from __future__ import annotations

import threading

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from graphtheta.errors import ConfigError

__all__ = ["CounterServer", "ask_for_number"]

_QUESTION, _ANSWER = 1, 2  # tags
_LOOK_S = 1e-3  # between looks for questions


def ask_for_number(comm: MPI.Comm) -> tuple[MPI.Request, NDArray[np.int64]]:
    """Ask rank 0's clerk for a number; return what is over when it has been written, and where."""
    answer = np.empty(1, np.int64)
    request = comm.Irecv([answer, MPI.INT64_T], 0, _ANSWER)
    comm.Isend([np.empty(0, np.uint8), MPI.BYTE], 0, _QUESTION).Free()
    return request, answer


class CounterServer:
    """Hands out 0, 1, 2, ... to this rank and, by a thread, to all others.

    Args:
        comm: Nobody else talks through it.

    Raises:
        ConfigError: If this MPI library may not be called by two threads at a time.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise ConfigError(
                "counter: expected an MPI library that several threads may call, got "
                f"{MPI.get_vendor()[0]} that was started without. Set MPI4PY_RC_THREAD_LEVEL to "
                "multiple, or take a library built with threads."
            )
        self._comm = comm
        self._number = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="graphtheta-clerk", daemon=True)
        if comm.size > 1:
            self._thread.start()

    def next(self) -> int:
        """Return the next number."""
        with self._lock:
            self._number += 1
            return self._number - 1

    def dismiss(self) -> None:
        """End the thread; MPI may be finalised only after that. Nothing to do the second time."""
        self._over.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _serve(self) -> None:
        status = MPI.Status()
        while not self._over.wait(_LOOK_S):
            while self._comm.Iprobe(MPI.ANY_SOURCE, _QUESTION, status):
                rank = status.Get_source()
                self._comm.Recv([np.empty(0, np.uint8), MPI.BYTE], rank, _QUESTION)
                # A few bytes to one who waits for them: this does not block.
                self._comm.Send([np.array([self.next()]), MPI.INT64_T], rank, _ANSWER)
