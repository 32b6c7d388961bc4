"""Counter server: a thread on rank 0 that answers counter requests while the rank computes.

One-sided MPI operations would need no thread on one host. Between hosts, most MPI libraries make
progress with them only while the target is inside a call of MPI, which a computing rank is not.
"""

from __future__ import annotations

import threading
from contextlib import suppress

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from graphtheta.errors import ConfigError

__all__ = ["CounterServer", "request_number"]

_REQUEST, _ANSWER = 1, 2  # tags
_POLL_S = 1e-3  # between two looks for requests


def request_number(comm: MPI.Comm) -> tuple[MPI.Request, NDArray[np.int64]]:
    """Request a number from the server on rank 0.

    Returns:
        The MPI request that completes when the number has arrived, and the array (1,) for it.
    """
    answer = np.empty(1, np.int64)
    request = comm.Irecv([answer, MPI.INT64_T], 0, _ANSWER)
    comm.Isend([np.empty(0, np.uint8), MPI.BYTE], 0, _REQUEST).Free()
    return request, answer


class CounterServer:
    """Server of the numbers 0, 1, 2, ... for this rank and, by a thread, for the others.

    Args:
        comm: Communicator that is used for nothing else.

    Raises:
        ConfigError: If the MPI library may not be called by two threads at the same time.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise ConfigError(
                "counter: expected an MPI library that several threads may call, got "
                f"{MPI.get_vendor()[0]} without support for threads. Set MPI4PY_RC_THREAD_LEVEL to "
                "multiple, or use a library built with threads."
            )
        self._comm = comm
        self._number = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="graphtheta-counter", daemon=True)
        if comm.size > 1:
            self._thread.start()

    def next(self) -> int:
        """Return the next number."""
        with self._lock:
            self._number += 1
            return self._number - 1

    def stop(self) -> None:
        """Stop the thread, before MPI is finalised; has no effect the second time."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _serve(self) -> None:
        status = MPI.Status()
        with suppress(MPI.Exception):  # a rank is gone, and the job ends
            while not self._stopping.wait(_POLL_S):
                while self._comm.Iprobe(MPI.ANY_SOURCE, _REQUEST, status):
                    rank = status.Get_source()
                    self._comm.Recv([np.empty(0, np.uint8), MPI.BYTE], rank, _REQUEST)
                    # The rank waits for these few bytes, so that sending them does not block.
                    self._comm.Send([np.array([self.next()]), MPI.INT64_T], rank, _ANSWER)
