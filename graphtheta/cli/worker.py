"""Start of a command as one worker of a job."""

from __future__ import annotations

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.launch import communicator, set_threads, threads_per_rank

__all__ = ["start_worker"]


def start_worker(
    threads: int | None = None, *, timeout: float | None = None
) -> tuple[Communicator, int]:
    """Connect this process to the job and set its number of threads.

    Call it before torch is imported, which reads the number of threads then.

    Args:
        threads: Number of threads. If None, the cores of the host divided by its workers.
        timeout: Seconds to wait for other workers. If None, as before.

    Returns:
        The communicator, and the number of threads.
    """
    comm = communicator(timeout)
    count = threads or threads_per_rank()
    set_threads(count)
    return comm, count
