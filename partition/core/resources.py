"""Resources of a partitioning job: ranks, threads, memory limit and progress display."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import PartitionError
from graphtheta.partition.core.thread_pool import ThreadPool
from graphtheta.wording import format_bytes

__all__ = ["Advance", "NoProgress", "Progress", "Resources"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Advance = Callable[[int], None]


class Progress(Protocol):
    """Display of the progress of phases."""

    def phase(self, title: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Begin a phase of `total` units of work.

        Returns:
            A context manager; call what it returns with the number of units just completed.
        """


class NoProgress:
    """Progress display that shows nothing."""

    @contextmanager
    def phase(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        yield lambda count: None


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources that a partitioning job may use. They do not affect its result.

    Attributes:
        comm: Communicator of the ranks.
        threads: Threads of this rank for compiled kernels and for reading columns.
        memory_limit: Bytes that this rank may hold at a time. If None, there is no limit.
        progress: Where progress is shown.
        held: Bytes of the memory limit that are in use before the job starts.
        on_phase: Function that is called with the name and the seconds of each phase of the
            pipeline when it is finished. If None, none is.
    """

    comm: Communicator = field(default_factory=SingleCommunicator)
    threads: int = 1
    memory_limit: int | None = None
    progress: Progress = field(default_factory=NoProgress)
    held: int = 0
    on_phase: Callable[[str, float], None] | None = None

    @property
    def available(self) -> int | None:
        """Bytes of the memory limit that are left for the job, at least 1; None without a limit."""
        return None if self.memory_limit is None else max(1, self.memory_limit - self.held)

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """Return this rank's share of [start, stop), a range."""
        rank, size = self.comm.rank, self.comm.size
        first, last = (start + (stop - start) * (rank + i) // size for i in (0, 1))
        return first, last

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        max_threads: int | None = None,
    ) -> list[Result]:
        """Return `function` of each item, in order, computed by this rank's threads.

        Args:
            function: Should release the global interpreter lock most of the time.
            items: Arguments of the calls.
            max_threads: Most items processed at a time, if less than `threads`.
        """
        with ThreadPool(min(self.threads, max_threads or self.threads)) as pool:
            return pool.map(function, items)

    def imap(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function` of each item, in order, computed by this rank's threads.

        At most one item more than threads is pending. The calling thread iterates over the items.
        """
        with ThreadPool(self.threads) as pool:
            yield from pool.imap(function, items)

    def prefetch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; a thread makes the next one while the caller works on this one."""
        iterator = iter(items)
        end = object()
        with ThreadPoolExecutor(1) as pool:
            upcoming = pool.submit(next, iterator, end)
            while (item := upcoming.result()) is not end:
                upcoming = pool.submit(next, iterator, end)
                yield cast(Item, item)

    def check_memory(self, num_bytes: int, what: str, remedy: str) -> None:
        """Refuse work that does not fit the memory limit.

        Args:
            num_bytes: Estimate of the bytes needed, in addition to those held.
            what: What needs them, for the error message.
            remedy: What the user can do, for the error message.

        Raises:
            PartitionError: If `num_bytes` is more than the limit.
        """
        num_bytes += self.held
        if self.memory_limit is not None and num_bytes > self.memory_limit:
            raise PartitionError(
                f"partition: expected {what} to fit the memory limit of "
                f"{format_bytes(self.memory_limit)}, got an estimate of {format_bytes(num_bytes)}. "
                f"{remedy}"
            )
