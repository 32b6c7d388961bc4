"""What torch.distributed carries between two processes, and the threads that wait for it.

torch cannot say whether a message has come through without waiting for it, so each transfer has a
thread that waits. If a process ends, its connections break, and the transfer fails.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from graphtheta.comm.checks import as_bytes
from graphtheta.comm.communicator import Buffer
from graphtheta.comm.watchdog import Watchdog
from graphtheta.errors import WorkerFailed

__all__ = ["LAUNCHER_S", "Message", "PointToPoint", "Transfer", "lost"]

LAUNCHER_S = 2.0  # for the launcher to end this rank, when another has failed
_NAP_S = 0.01  # at most, between looks at the clock; what arrives ends it


class _Waiters:
    """Threads that each run one task at a time; as many as there are tasks, and used again."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def run(self, task: Callable[[], None]) -> None:
        if not self._idle.acquire(blocking=False):
            # A daemon: one that waits for a lost rank must not keep this process alive.
            threading.Thread(target=self._serve, name="graphtheta-waiter", daemon=True).start()
        self._tasks.put(task)

    def _serve(self) -> None:
        while True:
            self._tasks.get()()
            self._idle.release()


@dataclass(frozen=True)
class PointToPoint:
    """What carries bytes between all ranks of the job.

    Attributes:
        group: All ranks, in the order of the job.
        device: Where messages are while they travel.
        waiters: Wait for them.
    """

    group: dist.ProcessGroup
    device: torch.device
    waiters: _Waiters = field(default_factory=_Waiters)

    def load(self, buffer: Buffer) -> Tensor:
        """Return what can be sent: the buffer's own memory, where it can be."""
        return _as_tensor(buffer if buffer.flags.writeable else buffer.copy()).to(self.device)

    def landing(self, buffer: Buffer) -> Tensor:
        """Return where to receive: the buffer's own memory, where it can be."""
        if self.device.type == "cpu":
            return _as_tensor(buffer)
        return torch.empty(buffer.nbytes, dtype=torch.uint8, device=self.device)

    def unload(self, landing: Tensor, buffer: Buffer) -> None:
        """Bring what has been received to the buffer."""
        if self.device.type != "cpu":
            _as_tensor(buffer).copy_(landing)

    def current(self) -> AbstractContextManager[Any]:
        """Let this thread's waits be for this device."""
        return nullcontext() if self.device.type == "cpu" else torch.cuda.device(self.device)


def _as_tensor(buffer: Buffer) -> Tensor:
    return torch.from_numpy(as_bytes(buffer))


@dataclass(frozen=True)
class Message:
    """Bytes to or from one peer."""

    member: int  # rank in the job
    tag: int
    buffer: Buffer


class Transfer:
    """Messages in flight between processes; started when it is made."""

    def __init__(
        self,
        wire: PointToPoint,
        incoming: Sequence[Message],
        outgoing: Sequence[Message],
        watchdog: Watchdog,
        timeout_s: float,
        stage: str,
    ) -> None:
        self._wire, self._watchdog, self._timeout_s, self._stage = wire, watchdog, timeout_s, stage
        self._over = threading.Event()
        self._error: RuntimeError | None = None
        self._landing = [(message.buffer, wire.landing(message.buffer)) for message in incoming]
        operations = [
            dist.P2POp(dist.irecv, landing, message.member, wire.group, message.tag)
            for message, (_, landing) in zip(incoming, self._landing, strict=True)
        ]
        operations += [
            dist.P2POp(
                dist.isend, wire.load(message.buffer), message.member, wire.group, message.tag
            )
            for message in outgoing
        ]
        self._pending = [[message.member] for message in (*incoming, *outgoing)]
        if not operations:
            self._over.set()
            return
        try:
            works = dist.batch_isend_irecv(operations)
        except RuntimeError as error:  # a connection was lost before
            self._end(error)
            return
        if len(works) < len(operations):  # NCCL makes one of all
            self._pending = [[rank for ranks in self._pending for rank in ranks]]
        wire.waiters.run(lambda: self._finish(works))

    def test(self) -> bool:
        """Say whether all has come through; see `Pending.test`."""
        return self._poll(0)

    def wait(self) -> None:
        """Return when all has come through; see `Pending.wait`."""
        self._watchdog.wait(
            lambda: self._poll(_NAP_S),
            self._stage,
            timeout_s=self._timeout_s,
            peers=lambda: self._pending[0] if self._pending else [],
        )

    def _finish(self, works: Sequence[dist.Work]) -> None:
        """Wait, in a thread of its own, until all has come through."""
        try:
            with self._wire.current():
                for work in works:
                    work.wait()
                    del self._pending[0]
                for buffer, landing in self._landing:
                    self._wire.unload(landing, buffer)
        except RuntimeError as error:
            self._end(error)
        else:
            self._end()

    def _end(self, error: RuntimeError | None = None) -> None:
        self._error = error
        self._over.set()

    def _poll(self, seconds: float) -> bool:
        over = self._over.wait(seconds)
        if over and self._error is not None:
            time.sleep(LAUNCHER_S)
            rank = self._pending[0][0]
            raise WorkerFailed(rank, f"{self._stage}: {lost(f'rank {rank}', self._error)}")
        return over


def lost(peer: str, error: RuntimeError) -> str:
    """Say that `peer` is gone; `error` is torch's."""
    reason = " ".join(str(error).split()).split(". ")[0]
    return f"{peer} is gone ({reason}). What it, or the launcher, said comes first."
