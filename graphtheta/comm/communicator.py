"""What every communicator offers: few operations on NumPy buffers, each with a stage name.

All methods but `exchange` and `abort` are collective: every rank of the communicator calls them
in the same order (design: collective order is a contract). `stage` says what the job is doing, in
a person's words (`"forward layer 1 sync"`); it is what a time-out or a mismatch reports.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Buffer", "Communicator", "Counter", "Pending", "ReduceOp"]

Buffer = NDArray[Any]
ReduceOp = Literal["sum", "max", "min"]


class Pending(Protocol):
    """An exchange in flight. Its buffers belong to the communicator until `wait` returns."""

    def test(self) -> bool:
        """Move bytes along and say whether all have arrived; never blocks."""

    def wait(self) -> None:
        """Return when all have arrived.

        Raises:
            CommError: If that takes longer than the timeout, or a worker failed.
        """


class Counter(Protocol):
    """Numbers that any rank may ask for at any time, each of which one rank gets."""

    def next(self, *, stage: str) -> int:
        """Return the next of 0, 1, 2, ... over all ranks; not collective.

        No other rank has to do anything for it: one that computes keeps nobody waiting.

        Raises:
            CommError: If that takes longer than the timeout, or a worker failed.
        """


class Communicator(ABC):
    """A group of ranks that compute together.

    Attributes:
        rank: Index of this worker, in [0, size).
        size: Number of workers.
        local_rank: Index of this worker among those of its host; picks its GPU.
        timeout_s: Longest wait, in seconds, before the job is given up.
        check: Whether fingerprints of every exchange are compared, not of first ones only.
        bytes_sent: Bytes this rank has handed to other ranks so far, by any method.
    """

    rank: int
    size: int
    local_rank: int
    timeout_s: float
    check: bool
    bytes_sent: int

    @abstractmethod
    def exchange(
        self, send: Mapping[int, Buffer], recv: Mapping[int, Buffer], *, stage: str
    ) -> Pending:
        """Start sending `send[peer]` to, and receiving `recv[peer]` from, every named peer.

        Not collective: only the peers named take part, and each peer names this rank with the
        same number of bytes. Exchanges between two ranks match in the order they are started.

        Args:
            send: C-contiguous buffers by peer. Unchanged by the caller until `wait` returns.
            recv: C-contiguous buffers by peer, written in place.
            stage: What the job is doing.
        """

    @abstractmethod
    def all_reduce(self, buffer: Buffer, op: ReduceOp = "sum", *, stage: str) -> None:
        """Reduce `buffer` over all ranks, in place; the same bits on every rank."""

    @abstractmethod
    def all_gather(self, buffer: Buffer, *, stage: str) -> list[Buffer]:
        """Return every rank's `buffer`, in rank order; first dimensions may differ."""

    @abstractmethod
    def broadcast(self, buffer: Buffer, root: int = 0, *, stage: str) -> None:
        """Overwrite `buffer` by that of `root`, in place."""

    @abstractmethod
    def all_to_all(self, buffers: Sequence[Buffer], *, stage: str) -> list[Buffer]:
        """Send `buffers[p]` to rank p and return what each rank sent here.

        Buffers are 1-D, of one dtype, and of any length. For set-up and partitioning; training
        uses `exchange` with counts known from the plan.
        """

    @abstractmethod
    def split(self, color: int) -> Communicator:
        """Return the communicator of the ranks that passed the same `color`, in rank order."""

    @abstractmethod
    def counter(self) -> Counter:
        """Return a counter of this communicator's ranks, which starts at 0."""

    @abstractmethod
    def abort(self, code: int, message: str) -> NoReturn:
        """Print `message` and end the whole job with exit code `code`."""

    def barrier(self, *, stage: str) -> None:
        """Return when every rank has arrived."""
        self.all_reduce(np.zeros(1, np.int8), "max", stage=stage)

    def broadcast_text(self, text: str, *, stage: str) -> str:
        """Return rank 0's text on every rank; what other ranks pass does not matter."""
        said = np.frombuffer(text.encode(), np.uint8).copy()
        size = int(self.all_gather_int(len(said), stage=stage)[0])
        buffer = said if self.rank == 0 else np.empty(size, np.uint8)
        self.broadcast(buffer, stage=stage)
        return buffer.tobytes().decode()

    def all_gather_int(self, value: int, *, stage: str) -> NDArray[np.int64]:
        """Return one integer per rank, in rank order."""
        return np.concatenate(self.all_gather(np.array([value], np.int64), stage=stage))
