"""Communicator of workers that are threads of one process, for notebooks, tests and small jobs.

Threads share their state, so they detect immediately what processes detect by a timeout: ranks that
enter different collectives, an exchange of different sizes, and a wait that no rank can end.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np

from graphtheta.comm.checks import as_bytes, check_buffer, check_buffers, check_reduce
from graphtheta.comm.communicator import Buffer, Communicator, ReduceOp
from graphtheta.comm.single import SingleCommunicator
from graphtheta.comm.watchdog import describe_waits
from graphtheta.errors import CollectiveMismatch, ConfigError, ExchangeTimeout, WorkerFailed
from graphtheta.runtime.threads import numba_threads, set_numba_threads

__all__ = ["ThreadCommunicator", "run_local"]

T = TypeVar("T")
_REDUCE = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def run_local(
    fn: Callable[[Communicator], T],
    workers: int,
    *,
    timeout_s: float = 1800.0,
    check: bool = True,
) -> T:
    """Run `fn(comm)` on each of several workers, which are threads of this process.

    The Numba threads of the calling thread are divided between the workers. The threads of torch
    are not, because their number is a setting of the whole process.

    Args:
        fn: Function to run as one rank. Pass arguments to it by a closure or `functools.partial`.
        workers: Number of ranks. If 1, call `fn` in this thread.
        timeout_s: Longest wait for other workers, in seconds.
        check: Whether to compare fingerprints of every exchange instead of first ones only.

    Returns:
        The result of `fn` on rank 0.

    Raises:
        BaseException: The exception of the first rank that failed. It interrupts the waits of the
            other ranks with `WorkerFailed`.
        ConfigError: If `workers` is less than 1.
    """
    if workers < 1:
        raise ConfigError(f"run_local: expected workers >= 1, got {workers}.")
    if workers == 1:
        return fn(SingleCommunicator(timeout_s=timeout_s, check=check))
    world = _World(workers)
    group = _Group(world, list(range(workers)))
    results: dict[int, T] = {}
    share = max(1, numba_threads() // workers)

    def work(rank: int) -> None:
        world.enter(rank)
        try:
            set_numba_threads(share)
            results[rank] = fn(ThreadCommunicator(group, rank, timeout_s=timeout_s, check=check))
        except BaseException as error:  # SystemExit of a rank must end the other waits too
            world.fail(rank, error)
        finally:
            world.leave(rank)

    threads = [
        threading.Thread(
            # A copy of the context, so that NumPy's error state and others hold in the workers.
            target=contextvars.copy_context().run,
            args=(work, rank),
            name=f"graphtheta-{rank}",
            daemon=True,
        )
        for rank in range(workers)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as error:  # Ctrl-C must end the waits of the workers
        world.fail(-1, error)
        raise
    if world.failure is not None:
        rank, failure = world.failure
        failure.add_note(f"(on rank {rank} of {workers})")
        raise failure
    return results[0]


class _World:
    """State that all threads of a run share: the lock, the waits and the first failure."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.changed = threading.Condition()
        self.failure: tuple[int, BaseException] | None = None
        self.returned: set[int] = set()
        self.threads: dict[int, int] = {}  # thread ident -> rank
        self.waits: dict[int, tuple[int, str, Callable[[], bool]]] = {}  # by thread ident
        self.has_helpers = False  # whether a rank communicates from a second thread too

    def enter(self, rank: int) -> None:
        with self.changed:
            self.threads[threading.get_ident()] = rank

    def leave(self, rank: int) -> None:
        with self.changed:
            self.returned.add(rank)
            self.changed.notify_all()

    def fail(self, rank: int, error: BaseException) -> None:
        with self.changed:
            if self.failure is None:
                self.failure = (rank, error)
            self.changed.notify_all()

    def raise_if_failed(self, stage: str) -> None:
        if self.failure is not None:
            rank, error = self.failure
            who = f"rank {rank}" if rank >= 0 else "the caller of run_local"
            raise WorkerFailed(rank, f"{stage}: {who} failed: {type(error).__name__}: {error}")

    def wait(self, ready: Callable[[], bool], rank: int, stage: str, timeout_s: float) -> None:
        """Return when `ready()` is true; the caller holds the lock before and after."""
        me = threading.get_ident()
        self.has_helpers |= me not in self.threads
        deadline = time.monotonic() + timeout_s
        self.waits[me] = (rank, stage, ready)
        try:
            while True:
                self.raise_if_failed(stage)
                if ready():
                    return
                if self._is_stuck():
                    raise self._failed(rank, CollectiveMismatch(self._report(stage)))
                left = deadline - time.monotonic()
                if left <= 0:
                    report = f"{self._report(stage)} (waited {timeout_s:g} s)"
                    raise self._failed(rank, ExchangeTimeout(report))
                self.changed.wait(left)
        finally:
            del self.waits[me]

    def mismatch(self, rank: int, message: str) -> CollectiveMismatch:
        """Return an exception to raise, and make the other ranks fail."""
        error = CollectiveMismatch(message)
        self.fail(rank, error)
        return error

    def _failed(self, rank: int, error: BaseException) -> BaseException:
        self.fail(rank, error)
        return error

    def _is_stuck(self) -> bool:
        """Return whether every rank waits or has returned, and no wait can end."""
        return (
            not self.has_helpers
            and len(self.waits) + len(self.returned) == self.size
            and not any(ready() for _, _, ready in self.waits.values())
        )

    def _report(self, stage: str) -> str:
        waits = {rank: repr(stage) for rank, stage, _ in self.waits.values()}
        computing = set(range(self.size)) - waits.keys() - self.returned
        report = describe_waits(waits, computing, "did not arrive")
        if self.returned:
            report += f"; {describe_waits({}, self.returned, 'returned')}"
        return f"{stage}: ranks are in different operations: {report}"


class _Round:
    """Collective operation in progress."""

    def __init__(self) -> None:
        self.arrived: dict[int, tuple[str, Any]] = {}  # rank -> (signature, value)
        self.result: Any = None
        self.done = False
        self.left = 0


class _Group:
    """Ranks of one communicator, with their messages and collective operations in progress."""

    def __init__(self, world: _World, members: Sequence[int]) -> None:
        self.world = world
        self.members = members  # ranks in the run, by rank in this communicator
        self.messages: dict[tuple[int, int, int], tuple[str, Buffer]] = {}  # (src, dst, number)
        self.rounds: dict[int, _Round] = {}


class _Exchange:
    """Exchange in progress between threads."""

    def __init__(self, comm: ThreadCommunicator, recv: Mapping[int, Buffer], stage: str) -> None:
        self._comm = comm
        self._stage = stage
        self._recv = {
            (peer, comm.rank, comm.next_number("recv", peer)): buffer
            for peer, buffer in recv.items()
        }

    def _ready(self) -> bool:
        return all(key in self._comm.group.messages for key in self._recv)

    def test(self) -> bool:
        world = self._comm.group.world
        with world.changed:
            world.raise_if_failed(self._stage)
            if not self._ready():
                return False
            messages = self._take()
        self._deliver(messages)
        return True

    def wait(self) -> None:
        with self._comm.group.world.changed:
            self._comm.wait(self._ready, self._stage)
            messages = self._take()
        self._deliver(messages)

    def _take(self) -> list[tuple[int, str, Buffer, Buffer]]:
        messages = [
            (key[0], *self._comm.group.messages.pop(key), buffer)
            for key, buffer in self._recv.items()
        ]
        self._recv = {}
        return messages

    def _deliver(self, messages: list[tuple[int, str, Buffer, Buffer]]) -> None:
        me = self._comm.rank
        for peer, stage, data, buffer in messages:
            if stage != self._stage or data.nbytes != buffer.nbytes:
                raise self._comm.mismatch(
                    f"{self._stage}: rank {me} expects {buffer.nbytes} bytes of {self._stage!r} "
                    f"from rank {peer}, which sent {data.nbytes} bytes of {stage!r}."
                )
            as_bytes(buffer)[:] = data


class _Counter:
    """Counter that threads share."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self._number = 0

    def next(self, *, stage: str) -> int:
        with self._world.changed:
            self._world.raise_if_failed(stage)
            self._number += 1
            return self._number - 1


class ThreadCommunicator(Communicator):
    """Communicator of one of several workers that are threads; see `run_local`."""

    def __init__(self, group: _Group, rank: int, *, timeout_s: float, check: bool) -> None:
        self.group = group
        self.rank = rank
        self.size = len(group.members)
        self.local_rank = group.members[rank]
        self.timeout_s = timeout_s
        self.check = check
        self.bytes_sent = 0
        self._round = 0
        self._numbers: dict[tuple[str, int], int] = {}

    def exchange(
        self, send: Mapping[int, Buffer], recv: Mapping[int, Buffer], *, stage: str
    ) -> _Exchange:
        for peer, buffer in (*send.items(), *recv.items()):
            self._check_rank(peer, stage)
            check_buffer(buffer, stage=stage)
        for buffer in recv.values():
            check_buffer(buffer, stage=stage, written=True)
        messages = {peer: as_bytes(buffer).copy() for peer, buffer in send.items()}
        world = self.group.world
        with world.changed:
            world.raise_if_failed(stage)
            for peer, data in messages.items():
                key = (self.rank, peer, self.next_number("send", peer))
                self.group.messages[key] = (stage, data)
                self.bytes_sent += data.nbytes if peer != self.rank else 0
            world.changed.notify_all()
        return _Exchange(self, recv, stage)

    def all_reduce(self, buffer: Buffer, op: ReduceOp = "sum", *, stage: str) -> None:
        check_reduce(buffer, op, stage=stage)

        def reduce(values: list[Buffer]) -> Buffer:
            total = values[0].copy()
            for value in values[1:]:  # in rank order, so that the bits are reproducible
                _REDUCE[op](total, value, out=total)
            return total

        signature = f"all_reduce {op} of {buffer.dtype}{list(buffer.shape)}"
        buffer[...] = self._meet(signature, stage, buffer.copy(), reduce)
        self.bytes_sent += buffer.nbytes

    def all_gather(self, buffer: Buffer, *, stage: str) -> list[Buffer]:
        check_buffer(buffer, stage=stage)
        if buffer.ndim == 0:
            raise ConfigError(f"{stage}: expected a buffer of at least one dimension, got none.")
        signature = f"all_gather of {buffer.dtype}{['*', *buffer.shape[1:]]}"
        values = self._meet(signature, stage, buffer.copy(), lambda values: values)
        self.bytes_sent += buffer.nbytes
        return [value.copy() for value in values]

    def broadcast(self, buffer: Buffer, root: int = 0, *, stage: str) -> None:
        check_buffer(buffer, stage=stage, written=True)
        self._check_rank(root, stage)
        signature = f"broadcast from {root} of {buffer.dtype}{list(buffer.shape)}"
        value = buffer.copy() if self.rank == root else None
        buffer[...] = self._meet(signature, stage, value, lambda values: values[root])
        self.bytes_sent += buffer.nbytes if self.rank == root else 0

    def all_to_all(self, buffers: Sequence[Buffer], *, stage: str) -> list[Buffer]:
        check_buffers(buffers, self.size, stage=stage)
        signature = f"all_to_all of {buffers[0].dtype}"
        sent = [buffer.copy() for buffer in buffers]
        rows = self._meet(signature, stage, sent, lambda values: values)
        self.bytes_sent += sum(b.nbytes for p, b in enumerate(buffers) if p != self.rank)
        return [row[self.rank] for row in rows]

    def split(self, color: int) -> ThreadCommunicator:
        def groups(colors: list[int]) -> dict[int, _Group]:
            return {
                one: _Group(
                    self.group.world,
                    [m for m, c in zip(self.group.members, colors, strict=True) if c == one],
                )
                for one in set(colors)
            }

        group = self._meet("split", "split", color, groups)[color]
        rank = group.members.index(self.group.members[self.rank])
        return ThreadCommunicator(group, rank, timeout_s=self.timeout_s, check=self.check)

    def counter(self) -> _Counter:
        world = self.group.world
        shared: _Counter = self._meet("counter", "counter", None, lambda _: _Counter(world))
        return shared

    def abort(self, code: int, message: str) -> NoReturn:
        print(message, file=sys.stderr, flush=True)
        error = SystemExit(code)
        self.group.world.fail(self.group.members[self.rank], error)
        raise error

    def wait(self, ready: Callable[[], bool], stage: str) -> None:
        """Return when `ready()` is true; the caller holds the lock of the run."""
        self.group.world.wait(ready, self.group.members[self.rank], stage, self.timeout_s)

    def mismatch(self, message: str) -> CollectiveMismatch:
        """Return an exception to raise, and make the other ranks fail."""
        return self.group.world.mismatch(self.group.members[self.rank], message)

    def next_number(self, direction: str, peer: int) -> int:
        """Return the number of earlier messages to or from `peer`."""
        number = self._numbers.get((direction, peer), 0)
        self._numbers[direction, peer] = number + 1
        return number

    def _meet(
        self, signature: str, stage: str, value: Any, combine: Callable[[list[Any]], Any]
    ) -> Any:
        """Return `combine` of the values of all ranks, computed once when all have arrived.

        Args:
            signature: Description of the operation, which must be the same on all ranks.
            stage: What the job is doing.
            value: Value of this rank.
            combine: Function of the values in rank order.
        """
        world, number = self.group.world, self._round
        self._round += 1
        signature = f"{stage!r} ({signature})"
        with world.changed:
            world.raise_if_failed(stage)
            round_ = self.group.rounds.setdefault(number, _Round())
            for rank, (other, _) in round_.arrived.items():
                if other != signature:
                    raise self.mismatch(
                        f"{stage}: rank {self.rank} is in {signature}, rank {rank} in {other}."
                    )
            round_.arrived[self.rank] = (signature, value)
            if len(round_.arrived) == self.size:
                values = [round_.arrived[rank][1] for rank in range(self.size)]
                round_.result = combine(values)
                round_.done = True
                world.changed.notify_all()
            else:
                self.wait(lambda: round_.done, stage)
            round_.left += 1
            if round_.left == self.size:
                del self.group.rounds[number]
            return round_.result

    def _check_rank(self, rank: int, stage: str) -> None:
        if not 0 <= rank < self.size:
            raise ConfigError(f"{stage}: expected a rank in [0, {self.size}), got {rank}.")
