"""Base class of communicators between processes, whichever library carries the bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.checks import check_buffer, compare_fingerprints
from graphtheta.comm.communicator import Buffer, Communicator
from graphtheta.comm.watchdog import Watchdog
from graphtheta.errors import ConfigError

__all__ = ["LAUNCHER_S", "Job", "ProcessCommunicator", "lost"]

LAUNCHER_S = 2.0  # time for the launcher to end this rank after another has failed


@dataclass(frozen=True, slots=True)
class Job:
    """State of the job that all communicators of one process share.

    Attributes:
        watchdog: Watches the waits of this process.
        local_rank: Rank among the ranks of this host.
        host_ranks: Number of ranks on this host.
        core_users: For each core, the number of ranks of this host that may run on it.
        at_end: Functions to call when all ranks have reached the end of the job.
        errors: Errors of the library that carries the messages. After one, it is not called again:
            it may crash while another thread still uses it.
    """

    watchdog: Watchdog
    local_rank: int
    host_ranks: int
    core_users: NDArray[np.int32]
    at_end: list[Callable[[], None]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)


class ProcessCommunicator(Communicator):
    """Communicator of a worker that is one of several processes of a job.

    Attributes:
        job: State of the job that all communicators of this process share.
        finished: Whether `finish` was called.
    """

    def __init__(self, rank: int, size: int, job: Job, *, timeout_s: float, check: bool) -> None:
        self.job = job
        self.rank = rank
        self.size = size
        self.local_rank = job.local_rank
        self.timeout_s = timeout_s
        self.check = check
        self.bytes_sent = 0
        self.finished = False

    def abort(self, code: int, message: str) -> NoReturn:
        self.job.watchdog.abort(code, message)

    def finish(self) -> None:
        """Wait until every rank has called this, without a timeout; has no effect the second time.

        A rank that ended early would leave the others waiting for ever. A rank that waits here
        answers the other ranks when their timeout is over.
        """
        if not self.finished:
            self.finished = True
            self.job.watchdog.finish()
            for function in self.job.at_end:
                function()

    def _check_exchange(
        self, send: Mapping[int, Buffer], recv: Mapping[int, Buffer], stage: str
    ) -> None:
        for peer, buffer in recv.items():
            self._check_rank(peer, stage)
            check_buffer(buffer, stage=stage, written=True)
        for peer, buffer in send.items():
            self._check_rank(peer, stage)
            check_buffer(buffer, stage=stage)

    def _check_rank(self, rank: int, stage: str) -> None:
        if not 0 <= rank < self.size:
            raise ConfigError(f"{stage}: expected a rank in [0, {self.size}), got {rank}.")

    def _agree(self, operation: str, stage: str) -> None:
        """If `check` is set, raise an error unless all ranks run the same collective."""
        if self.check:
            unchecked = copy.copy(self)
            unchecked.check = False
            compare_fingerprints(unchecked, f"{stage} ({operation})")


def lost(peer: str, error: Exception) -> str:
    """Return the message that `peer` ended, where the library that carries messages raised `error`.

    The rank that ended, or the launcher, knows the cause. Wait `LAUNCHER_S` for them before raising
    an error with this message.
    """
    reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
    return f"{peer} is gone ({reason}). Its own message, or that of the launcher, is the cause."
