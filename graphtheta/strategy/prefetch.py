"""Preparing the next batches while one is computed on."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import TypeVar

from graphtheta.comm.timers import StageTimers
from graphtheta.strategy.batch import Batch

__all__ = ["prefetched"]

_LOOK_S = 0.1
T = TypeVar("T")


def prefetched(batches: Iterator[T], depth: int, stages: StageTimers) -> Iterator[T]:
    """Yield the same batches, up to `depth` of them prepared ahead by a thread of their own.

    What stands between batches is handed on as it is. They must talk through a communicator that
    nobody else uses meanwhile. An error of the thread is raised here. When the iterator is closed
    early, so is the thread, after its batch. What preparing takes there is `stages.ahead`.
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
                stages.ahead += time.perf_counter() - start
                if batch is None or not _put(ready, batch, closed):
                    break
        except BaseException as error:  # whatever it is, the step's thread must hear of it
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
    while not closed.is_set():
        try:
            ready.put(item, timeout=_LOOK_S)
        except queue.Full:
            continue
        return True
    return False
