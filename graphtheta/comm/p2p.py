"""Point-to-point messages of torch.distributed, and the threads that wait for them.

torch cannot tell whether a message has arrived without waiting for it, so each transfer has a
thread that waits. If a process ends, its connections break and the transfer fails.
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
from graphtheta.comm.process import LAUNCHER_S, lost
from graphtheta.comm.watchdog import Watchdog
from graphtheta.errors import WorkerFailed

__all__ = ["Message", "PointToPoint", "Transfer"]

_NAP_S = 0.01  # longest wait between two looks at the clock; an arriving message ends it


class _ThreadPool:
    """Threads that are reused and grow in number, so that each task starts immediately."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def run(self, task: Callable[[], None]) -> None:
        if not self._idle.acquire(blocking=False):
            # A daemon, because a wait for a lost rank must not keep this process alive.
            threading.Thread(target=self._serve, name="graphtheta-waiter", daemon=True).start()
        self._tasks.put(task)

    def _serve(self) -> None:
        while True:
            self._tasks.get()()
            self._idle.release()


@dataclass(frozen=True)
class PointToPoint:
    """Process group and device for messages between the ranks of the job.

    Attributes:
        group: Process group of all ranks, in the order of the job.
        device: Device from which messages are sent.
        threads: Threads that wait for messages.
    """

    group: dist.ProcessGroup
    device: torch.device
    threads: _ThreadPool = field(default_factory=_ThreadPool)

    def to_send(self, buffer: Buffer) -> Tensor:
        """Return the bytes of a buffer on the device, without a copy if possible."""
        return _as_tensor(buffer if buffer.flags.writeable else buffer.copy()).to(self.device)

    def to_receive(self, buffer: Buffer) -> Tensor:
        """Return memory on the device to receive a buffer into: the buffer itself if possible."""
        if self.device.type == "cpu":
            return _as_tensor(buffer)
        return torch.empty(buffer.nbytes, dtype=torch.uint8, device=self.device)

    def copy_received(self, received: Tensor, buffer: Buffer) -> None:
        """Copy received bytes from the device into the buffer."""
        if self.device.type != "cpu":
            _as_tensor(buffer).copy_(received)

    def device_context(self) -> AbstractContextManager[Any]:
        """Return a context in which the waits of this thread are for this device."""
        return nullcontext() if self.device.type == "cpu" else torch.cuda.device(self.device)


def _as_tensor(buffer: Buffer) -> Tensor:
    return torch.from_numpy(as_bytes(buffer))


@dataclass(frozen=True)
class Message:
    """Bytes to or from one peer."""

    peer: int  # rank in the job
    tag: int
    buffer: Buffer


class Transfer:
    """Messages in flight between processes, which the constructor starts."""

    def __init__(
        self,
        p2p: PointToPoint,
        incoming: Sequence[Message],
        outgoing: Sequence[Message],
        watchdog: Watchdog,
        timeout_s: float,
        stage: str,
    ) -> None:
        self._p2p, self._watchdog, self._timeout_s, self._stage = p2p, watchdog, timeout_s, stage
        self._complete = threading.Event()
        self._error: RuntimeError | None = None
        self._received = [(message.buffer, p2p.to_receive(message.buffer)) for message in incoming]
        operations = [
            dist.P2POp(dist.irecv, received, message.peer, p2p.group, message.tag)
            for message, (_, received) in zip(incoming, self._received, strict=True)
        ]
        operations += [
            dist.P2POp(
                dist.isend, p2p.to_send(message.buffer), message.peer, p2p.group, message.tag
            )
            for message in outgoing
        ]
        # The peers of each operation that is not complete, in the order of the waits.
        self._pending = [[message.peer] for message in (*incoming, *outgoing)]
        if not operations:
            self._complete.set()
            return
        try:
            works = dist.batch_isend_irecv(operations)
        except RuntimeError as error:  # a connection is lost
            self._end(error)
            return
        if len(works) < len(operations):  # NCCL makes one work of all operations
            self._pending = [[rank for ranks in self._pending for rank in ranks]]
        p2p.threads.run(lambda: self._finish(works))

    def test(self) -> bool:
        return self._poll(0)

    def wait(self) -> None:
        self._watchdog.wait(
            lambda: self._poll(_NAP_S),
            self._stage,
            timeout_s=self._timeout_s,
            peers=lambda: self._pending[0] if self._pending else [],
        )

    def _finish(self, works: Sequence[dist.Work]) -> None:
        """Wait in a thread of its own until all messages are complete."""
        try:
            with self._p2p.device_context():
                for work in works:
                    work.wait()
                    del self._pending[0]
                for buffer, received in self._received:
                    self._p2p.copy_received(received, buffer)
        except RuntimeError as error:
            self._end(error)
        else:
            self._end()

    def _end(self, error: RuntimeError | None = None) -> None:
        self._error = error
        self._complete.set()

    def _poll(self, seconds: float) -> bool:
        complete = self._complete.wait(seconds)
        if complete and self._error is not None:
            time.sleep(LAUNCHER_S)
            rank = self._pending[0][0]
            raise WorkerFailed(rank, f"{self._stage}: {lost(f'rank {rank}', self._error)}")
        return complete
