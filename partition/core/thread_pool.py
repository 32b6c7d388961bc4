"""Pool of threads that call functions which release the global interpreter lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ThreadPool"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class ThreadPool:
    """Thread pool that returns results in the order of the items; a context manager.

    With one thread, the calling thread does the work.

    Args:
        threads: Number of threads.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return `function` of each item, in order, when all are done."""
        if self._pool is None:
            return [function(item) for item in items]
        futures = [self._pool.submit(function, item) for item in items]
        return [future.result() for future in futures]

    def imap(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function` of each item, in order; at most one item more than threads is pending.

        The calling thread iterates over the items.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(self._pool.submit(function, item))
            if len(pending) > self.threads:  # so that no thread waits for the caller
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
