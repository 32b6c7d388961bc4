"""Store of the launcher torchrun, in which the ranks of a job keep messages and counters.

The store belongs to torchrun. It outlives the ranks, and after a restart it still has the keys of
the attempts before: `attempt_store` gives each attempt keys of its own. It is a server on one host.
If that host is cut off, a call does not return for many minutes. So only `_StoreThread` makes calls
after the start, and a rank that waits for an answer is watched as in any other wait.
"""

from __future__ import annotations

import os
import platform
import queue
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from contextlib import suppress
from datetime import timedelta
from os import _exit  # before `launch` may replace it by a hook
from signal import SIGKILL
from typing import NoReturn

import psutil
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from graphtheta.comm.process import LAUNCHER_S, lost
from graphtheta.comm.watchdog import Watchdog
from graphtheta.errors import WorkerFailed

__all__ = ["StoreChannel", "StoreCounter", "attempt_store"]

_NAP_S = 0.01  # between two looks for an answer; an arriving one ends it where possible
_LOST_S = 2.0  # length of a call after which the store counts as lost, when the job ends
_LAST_CALLS_S = 1.0  # time for calls in progress, at the orderly end of a job


def attempt_store(store: Store, rank: int, size: int, timeout: timedelta) -> Store:
    """Return the part of the launcher's store that belongs to this attempt; collective.

    The launcher's number of restarts cannot name an attempt, because each host counts its own.
    Rank 0 chooses a name instead. So that a rank takes no name of an earlier attempt from the
    store, rank 0 answers to a random number of each rank, until all ranks have used the answer.

    Args:
        store: Store of the launcher.
        rank: Rank of this process.
        size: Number of ranks.
        timeout: Time for all ranks to start.

    Raises:
        RuntimeError: If a rank did not start in time.
    """
    until = time.monotonic() + timeout.total_seconds()

    def wait_for(key: str) -> None:
        while not store.check([key]):
            if time.monotonic() >= until:
                raise RuntimeError(f"rank {rank} waited {timeout} for the other ranks to start")
            time.sleep(_NAP_S)

    if rank:
        number = uuid.uuid4().hex
        store.set(f"graphtheta rank {rank}", number)
        wait_for(f"graphtheta name for {number}")
        name = store.get(f"graphtheta name for {number}").decode()
        store.set(f"{name} rank {rank}", "")
    else:
        name = f"graphtheta attempt {uuid.uuid4().hex}"
        missing = list(range(1, size))
        while missing := [r for r in missing if not store.check([f"{name} rank {r}"])]:
            for r in missing:
                if store.check([f"graphtheta rank {r}"]):  # by this rank, or one before it
                    number = store.get(f"graphtheta rank {r}").decode()
                    store.set(f"graphtheta name for {number}", name)
            if time.monotonic() >= until:
                raise RuntimeError(f"{len(missing)} ranks did not start, such as {missing[0]}")
            time.sleep(_NAP_S)
    return PrefixStore(name, store)


class _StoreThread:
    """Thread that calls the store, one call after another, so that no rank waits inside a call."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], int], Future[int]] | None]
        self._calls = queue.SimpleQueue()
        # A daemon, because a call to a lost store must not keep this process alive.
        self._thread = threading.Thread(target=self._serve, name="graphtheta-store", daemon=True)
        self._thread.start()

    def run(self, call: Callable[[], int]) -> Future[int]:
        """Return the future result of a call."""
        future: Future[int] = Future()
        self._calls.put((call, future))
        return future

    def stop(self) -> None:
        """End the thread after the calls so far."""
        self._calls.put(None)
        self._thread.join(_LAST_CALLS_S)

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            try:
                future.set_result(call())
            except RuntimeError as error:  # the launcher is gone, and the job ends
                future.set_exception(error)


class StoreChannel:
    """Control channel in the launcher's store: a log of messages that all ranks read.

    Attributes:
        thread: Thread that calls the store.
    """

    spins = 0  # a test of a request waits by itself

    def __init__(self, store: Store, group: dist.ProcessGroup) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.thread = _StoreThread()
        self._store = PrefixStore("messages", store)
        self._group = group
        self._num_read = 0
        self._reading: Future[int] | None = None
        self._arrived: deque[tuple[int, int, str]] = deque()

    def send(self, tag: int, text: str, to: int | None = None) -> None:
        message = f"{self.rank} {self.rank if to is None else to} {tag} {text}"

        def write() -> int:
            number = self._store.add("number", 1) - 1
            self._store.set(str(number), message)
            return number

        self.thread.run(write)

    def receive(self) -> Iterator[tuple[int, int, str]]:
        if self._reading is None or self._reading.done():
            self._reading = self.thread.run(self._read)
            wait_for_futures([self._reading], _NAP_S)
        while self._arrived:
            yield self._arrived.popleft()

    def _read(self) -> int:
        written = self._store.add("number", 0)
        while self._num_read < written and self._store.check([str(self._num_read)]):
            message = self._store.get(str(self._num_read)).decode(errors="replace")
            self._num_read += 1
            sender, to, tag, text = message.split(" ", 3)
            if int(sender) != self.rank and to in (sender, str(self.rank)):
                self._arrived.append((int(sender), int(tag), text))
        return self._num_read

    def arrive_at_end(self) -> Callable[[], bool]:
        work = dist.barrier(group=self._group, async_op=True)

        def all_arrived() -> bool:
            if not work.is_completed():
                time.sleep(_NAP_S)
                return False
            try:
                work.wait()  # raises the error if there was one
            except RuntimeError as error:
                time.sleep(LAUNCHER_S)
                self.end_job(
                    WorkerFailed.exit_code,
                    f"error: rank {self.rank}: WorkerFailed: {lost('another', error)}",
                    (),
                )
            return True

        return all_arrived

    def end_job(self, code: int, message: str, lost: Sequence[int]) -> NoReturn:
        sys.stdout.flush()
        print(message, file=sys.stderr, flush=True)
        for pid in lost:  # the launcher would wait half a minute for a stopped process
            with suppress(ProcessLookupError):
                os.kill(pid, SIGKILL)
        if self._reading is not None and wait_for_futures([self._reading], _LOST_S).not_done:
            _end_launcher()
        _exit(code or 1)


def _end_launcher() -> None:
    """End the launcher of this host, which itself waits without limit if its store is lost."""
    with suppress(psutil.Error):
        parent = psutil.Process(os.getppid())
        if any("torchrun" in word or "torch.distributed.run" in word for word in parent.cmdline()):
            print(
                f"torchrun on {platform.node()} is ended: it cannot reach the host of its store",
                file=sys.stderr,
                flush=True,
            )
            parent.kill()


class StoreCounter:
    """Counter in the launcher's store, which needs no rank to answer.

    Args:
        store: Store of this attempt.
        name: Name of the counter in the store.
        thread: Thread that calls the store.
        watchdog: Watches the waits for numbers.
        timeout_s: Longest wait for a number in seconds.
    """

    def __init__(
        self, store: Store, name: str, thread: _StoreThread, watchdog: Watchdog, timeout_s: float
    ) -> None:
        self._store, self._name, self._thread = PrefixStore("counters", store), name, thread
        self._watchdog, self._timeout_s = watchdog, timeout_s

    def next(self, *, stage: str) -> int:
        number = self._thread.run(lambda: int(self._store.add(self._name, 1)) - 1)

        def arrived() -> bool:
            return bool(wait_for_futures([number], _NAP_S).done)

        self._watchdog.wait(arrived, stage, timeout_s=self._timeout_s)
        try:
            return number.result()
        except RuntimeError as error:
            time.sleep(LAUNCHER_S)
            raise WorkerFailed(-1, f"{stage}: {lost('the launcher', error)}") from error
