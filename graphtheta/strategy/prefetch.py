"""Preparation of the next batches in the background."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import TypeVar

from graphtheta.comm.timers import StageTimers
from graphtheta.strategy.batch import Batch

__all__ = ["prefetch_batches"]

_POLL_S = 0.1
T = TypeVar("T")


def prefetch_batches(batches: Iterator[T], depth: int, timers: StageTimers) -> Iterator[T]:
    """Yield the same items, up to `depth` of them prepared ahead by a background thread.

    Items that are not a `Batch` pass through unchanged. `batches` must communicate through a
    communicator that is not used elsewhere meanwhile. An error in the thread is raised here. When
    this iterator is closed early, the thread ends after the batch it is working on. The time spent
    in the thread is added to `timers.ahead`.
    """
    if depth < 1:
        yield from batches
        return
    ready: queue.Queue[T | BaseException | None] = queue.Queue(depth)
    closed = threading.Event()

    def prepare() -> None:
        last: BaseException | None = None
        try:
            while True:
                start = time.perf_counter()
                batch = next(batches, None)
                if isinstance(batch, Batch):
                    batch.view.prepare()
                timers.ahead += time.perf_counter() - start
                if batch is None or not _put(ready, batch, closed):
                    break
        except BaseException as error:  # every error must reach the training thread
            last = error
        _put(ready, last, closed)

    thread = threading.Thread(target=prepare, name="graphtheta-prepare", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
    thread.join()


def _put(
    ready: queue.Queue[T | BaseException | None],
    item: T | BaseException | None,
    closed: threading.Event,
) -> bool:
    """Wait until the queue has room; return False if the reader is gone."""
    while not closed.is_set():
        try:
            ready.put(item, timeout=_POLL_S)
        except queue.Full:
            continue
        return True
    return False
