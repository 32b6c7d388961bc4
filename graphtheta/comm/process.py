"""What workers that are processes have in common, whichever library carries their bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.checks import check_buffer
from graphtheta.comm.communicator import Buffer, Communicator
from graphtheta.comm.fingerprint import compare_fingerprints
from graphtheta.comm.watchdog import Watchdog
from graphtheta.errors import ConfigError

__all__ = ["Job", "ProcessCommunicator"]


@dataclass(frozen=True, slots=True)
class Job:
    """What all communicators of one process share."""

    watchdog: Watchdog
    local_rank: int  # among the ranks on this host
    host_ranks: int  # ranks on this host, this one included
    core_users: NDArray[np.int32]  # by core: how many of them may run on it
    # To be called when all ranks are at their end.
    last: list[Callable[[], None]] = field(default_factory=list)


class ProcessCommunicator(Communicator):
    """One of several workers that are processes of one job.

    Attributes:
        job: What this process knows of the job and its host.
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
        """Print `message` and end all processes of the job."""
        self.job.watchdog.abort(code, message)

    def finish(self) -> None:
        """Wait, as long as it takes, until every rank is here; nothing to do the second time.

        A rank that leaves early would leave the others waiting. Here it waits with them, and
        tells them where it is when their patience ends.
        """
        if not self.finished:
            self.finished = True
            self.job.watchdog.finish()
            for end in self.job.last:
                end()

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
        """With `check`, refuse a collective that another rank does not run, too."""
        if self.check:
            twin = copy.copy(self)
            twin.check = False
            compare_fingerprints(twin, f"{stage} ({operation})")
