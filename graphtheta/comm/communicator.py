"""Interface of all communicators: a few operations on NumPy buffers, each with a stage name.

All methods except `exchange` and `abort` are collective: every rank of the communicator calls them
in the same order. `stage` describes what the job is doing (`"forward layer 1 sync"`); errors on a
timeout or a mismatch contain it.
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
    """Exchange in progress. Its buffers belong to the communicator until it is complete."""

    def test(self) -> bool:
        """Make progress and return whether the exchange is complete, without blocking."""

    def wait(self) -> None:
        """Return when the exchange is complete.

        Raises:
            CommError: If that takes longer than the timeout, or a worker failed.
        """


class Counter(Protocol):
    """Counter shared by all ranks: each number goes to one rank."""

    def next(self, *, stage: str) -> int:
        """Return the next of 0, 1, 2, ... over all ranks; not collective.

        It works while the other ranks compute.

        Raises:
            CommError: If that takes longer than the timeout, or a worker failed.
        """


class Communicator(ABC):
    """Group of ranks that compute together.

    Attributes:
        rank: Index of this worker, in [0, size).
        size: Number of workers.
        local_rank: Index of this worker among the workers of its host; determines its GPU.
        timeout_s: Longest wait for other ranks, in seconds, before the job ends.
        check: Whether to compare fingerprints of every exchange, instead of first ones only.
        bytes_sent: Bytes this rank has sent to other ranks so far, by all methods.
    """

    rank: int
    size: int
    local_rank: int
    timeout_s: float
    check: bool
    bytes_sent: int

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank={self.rank}/{self.size})"

    @abstractmethod
    def exchange(
        self, send: Mapping[int, Buffer], recv: Mapping[int, Buffer], *, stage: str
    ) -> Pending:
        """Start sending `send[peer]` to, and receiving `recv[peer]` from, every named peer.

        Not collective: only the named peers take part, and each of them names this rank with the
        same number of bytes. Exchanges between two ranks match in the order they are started.

        Args:
            send: C-contiguous buffers by peer. Do not change them until `wait` returns.
            recv: C-contiguous buffers by peer, which are written in place.
            stage: What the job is doing.
        """

    @abstractmethod
    def all_reduce(self, buffer: Buffer, op: ReduceOp = "sum", *, stage: str) -> None:
        """Reduce `buffer` over all ranks, in place; the same bits on every rank."""

    @abstractmethod
    def all_gather(self, buffer: Buffer, *, stage: str) -> list[Buffer]:
        """Return the buffers of all ranks, in rank order; their first dimensions may differ."""

    @abstractmethod
    def broadcast(self, buffer: Buffer, root: int = 0, *, stage: str) -> None:
        """Overwrite `buffer` in place with that of rank `root`."""

    @abstractmethod
    def all_to_all(self, buffers: Sequence[Buffer], *, stage: str) -> list[Buffer]:
        """Send `buffers[p]` to rank p, and return the buffers that each rank sent to this one.

        Buffers are 1-D, of one dtype, and of any length. This is for set-up and partitioning;
        training uses `exchange`, with lengths known from the plan.
        """

    @abstractmethod
    def split(self, color: int) -> Communicator:
        """Return the communicator of the ranks that passed the same `color`, in rank order."""

    @abstractmethod
    def counter(self) -> Counter:
        """Return a counter that the ranks of this communicator share and that starts at 0."""

    @abstractmethod
    def abort(self, code: int, message: str) -> NoReturn:
        """Print `message` and end the whole job with exit code `code`."""

    def barrier(self, *, stage: str) -> None:
        """Return when every rank has arrived."""
        self.all_reduce(np.zeros(1, np.int8), "max", stage=stage)

    def broadcast_text(self, text: str, *, stage: str) -> str:
        """Return the text of rank 0 on every rank; the texts of other ranks are ignored."""
        encoded = np.frombuffer(text.encode(), np.uint8).copy()
        size = int(self.all_gather_int(len(encoded), stage=stage)[0])
        buffer = encoded if self.rank == 0 else np.empty(size, np.uint8)
        self.broadcast(buffer, stage=stage)
        return buffer.tobytes().decode()

    def all_gather_int(self, value: int, *, stage: str) -> NDArray[np.int64]:
        """Return one integer per rank, in rank order."""
        return np.concatenate(self.all_gather(np.array([value], np.int64), stage=stage))
