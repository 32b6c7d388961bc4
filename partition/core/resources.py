"""What a partitioning may use: ranks, threads and memory; and whom it tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import PartitionError
from graphtheta.partition.core.workers import Workers

__all__ = ["Advance", "NoProgress", "Progress", "Resources", "bytes_text"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Advance = Callable[[int], None]


class Progress(Protocol):
    """Where the progress of phases is shown."""

    def phase(self, title: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Begin a phase of `total` units of work; call what it gives with units done."""


class NoProgress:
    """Progress that nobody sees."""

    @contextmanager
    def phase(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """Begin a phase."""
        yield lambda count: None


@dataclass(frozen=True, slots=True)
class Resources:
    """What a partitioning may use. Nothing here shows in its result.

    Attributes:
        comm: The ranks.
        threads: Threads of this rank for compiled kernels and columns.
        memory_limit: Bytes that this rank may hold at a time; None: as much as there is.
        progress: Who is told.
    """

    comm: Communicator = field(default_factory=SingleCommunicator)
    threads: int = 1
    memory_limit: int | None = None
    progress: Progress = field(default_factory=NoProgress)

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """Return this rank's consecutive share of [start, stop)."""
        rank, size = self.comm.rank, self.comm.size
        first, last = (start + (stop - start) * (rank + i) // size for i in (0, 1))
        return first, last

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        at_once: int | None = None,
    ) -> list[Result]:
        """Return `function` of each item, in order, on this rank's threads.

        Args:
            function: Releases the global lock for most of its time.
            items: What it is called with.
            at_once: Items in work at a time, at most `threads`; None: `threads`.
        """
        with Workers(min(self.threads, at_once or self.threads)) as workers:
            return workers.each(function, items)

    def ahead(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, the next one being made by a thread while this one is worked on."""
        iterator = iter(items)
        end = object()
        with ThreadPoolExecutor(1) as pool:
            upcoming = pool.submit(next, iterator, end)
            while (item := upcoming.result()) is not end:
                upcoming = pool.submit(next, iterator, end)
                yield cast(Item, item)

    def in_order(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yield `function` of each item, in order, at most one a thread and one more in flight.

        The items themselves are made in order, by the caller's thread.
        """
        with Workers(self.threads) as workers:
            yield from workers.ahead(function, items)

    def need(self, num_bytes: int, what: str, remedy: str) -> None:
        """Refuse work that does not fit the memory limit.

        Raises:
            PartitionError: If `num_bytes` is more than the limit.
        """
        if self.memory_limit is not None and num_bytes > self.memory_limit:
            raise PartitionError(
                f"partition: expected {what} to fit the memory limit of "
                f"{bytes_text(self.memory_limit)}, got an estimate of {bytes_text(num_bytes)}. "
                f"{remedy}"
            )


def bytes_text(num_bytes: float) -> str:
    """Return a number of bytes for a person."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= size:
            return f"{num_bytes / size:.2f} {unit}"
    return f"{num_bytes:.0f} bytes"
