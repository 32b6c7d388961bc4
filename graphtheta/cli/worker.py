"""Start of a command as one worker of a job."""

from __future__ import annotations

from typing import Literal

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.launch import communicator, tune_rank

__all__ = ["start_worker"]


def start_worker(
    threads: int | None = None,
    *,
    timeout: float | None = None,
    allocator: Literal["training"] | None = None,
) -> tuple[Communicator, int]:
    """Connect this process to the job, and apply the process-wide settings of the command line.

    Call it before torch is imported, which reads the number of threads then.

    Args:
        threads: Number of threads. If None, the cores of the host divided by its workers.
        timeout: Seconds to wait for other workers. If None, as before.
        allocator: Use that the C allocator is set for, as in `graphtheta.tune`. If None, not set.

    Returns:
        The communicator, and the number of threads.
    """
    comm = communicator(timeout)
    return comm, tune_rank(threads, allocator=allocator)
