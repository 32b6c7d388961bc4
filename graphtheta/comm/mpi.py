"""Communicator of workers that are processes of an MPI job.

All waits poll, and no call blocks inside MPI, so that the watchdog finds a rank that never arrives.
Messages carry a hash of their stage as the tag and are received in the order in which they were
started, with any tag. An exchange that receives a message of another stage or size raises an error
instead of giving wrong numbers.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

import numpy as np
from mpi4py import MPI

from graphtheta.comm.checks import as_bytes, check_buffer, check_buffers, check_reduce
from graphtheta.comm.communicator import Buffer, ReduceOp
from graphtheta.comm.counter_server import CounterServer, request_number
from graphtheta.comm.process import LAUNCHER_S, Job, ProcessCommunicator, lost
from graphtheta.comm.sentinel import Lifeline, listen
from graphtheta.comm.watchdog import Watchdog, install_stack_dump
from graphtheta.errors import CollectiveMismatch, CommError, ConfigError, WorkerFailed
from graphtheta.runtime.leftovers import remove_mpi_leftovers
from graphtheta.runtime.threads import core_mask

__all__ = ["MpiCommunicator", "start"]

_OPS = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}
_ADDRESS_BYTES = 108  # size of the address of a Unix socket
_TAGS = 32768  # every MPI library allows tags below this
_MESSAGE_BYTES = 256
_FORWARD_S = 0.3  # time for the launcher to pass on what was printed; an abort drops the rest


def _tag(stage: str) -> int:
    return zlib.crc32(stage.encode()) % _TAGS


def start(
    world: MPI.Intracomm,
    *,
    timeout_s: float = 1800.0,
    notice_s: float = 60.0,
    check: bool = False,
) -> MpiCommunicator:
    """Return the communicator of a whole MPI job; collective over `world`.

    Args:
        world: Communicator of all processes, usually `MPI.COMM_WORLD`. It is duplicated.
        timeout_s: Longest wait in seconds before the job ends.
        notice_s: Length of a wait in seconds after which it is mentioned on stderr.
        check: Whether to compare every collective over all ranks before it runs, and fingerprints
            of every exchange instead of first ones only.

    Communication:
        A table of cores (16 KiB) within each host, and the name of each host.
    """
    host = world.Split_type(MPI.COMM_TYPE_SHARED)
    if host.rank == 0:
        remove_mpi_leftovers()
    mask = core_mask()
    users = np.empty_like(mask)
    host.Allreduce(mask, users)
    pids = np.zeros((host.size, 2), np.int64)
    host.Allgather(np.array([world.rank, os.getpid() if install_stack_dump() else 0]), pids)
    names = np.zeros(world.size, "S64")
    mine = np.array([platform.node().encode()], names.dtype)
    world.Allgather(as_bytes(mine), as_bytes(names))
    watchdog = Watchdog(
        _Channel(world.Dup()),
        notice_s=notice_s,
        neighbours={int(rank): int(pid) for rank, pid in pids if pid},
        lifeline=_lifeline(host, world.rank),
        hosts=[name.decode(errors="replace") for name in names],
    )
    job = Job(watchdog, host.rank, host.size, users)
    host.Free()
    return MpiCommunicator(world.Dup(), job, timeout_s=timeout_s, check=check)


def _lifeline(host: MPI.Comm, rank: int) -> Lifeline:
    """Connect this rank to the sentinel of its host, which the first rank there starts."""
    lifeline = Lifeline()
    listening = listen() if host.rank == 0 else None
    address = np.zeros(_ADDRESS_BYTES, np.uint8)
    if listening is not None:
        address[: len(listening[1])] = np.frombuffer(listening[1], np.uint8)
    host.Bcast(address)
    lifeline.connect(address.tobytes().rstrip(b"\0"), rank)
    host.Barrier()
    if listening is not None:
        lifeline.start_sentinel(listening[0])
    return lifeline


class _Channel:
    """Control channel on a communicator that is used for nothing else."""

    spins = 1000  # about 1 ms

    def __init__(self, control: MPI.Intracomm) -> None:
        self.rank = control.rank
        self.size = control.size
        self._control = control
        self._sent: list[tuple[MPI.Request, np.ndarray]] = []

    def send(self, tag: int, text: str, to: int | None = None) -> None:
        encoded = text.encode()[:_MESSAGE_BYTES]
        message = np.zeros(_MESSAGE_BYTES, np.uint8)
        message[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        with suppress(MPI.Exception):  # a rank is gone, and the job ends
            self._sent = [pair for pair in self._sent if not pair[0].Test()]
            for rank in range(self.size) if to is None else [to]:
                if rank != self.rank:
                    request = self._control.Isend([message, MPI.BYTE], rank, tag)
                    self._sent.append((request, message))

    def receive(self) -> Iterator[tuple[int, int, str]]:
        status = MPI.Status()
        message = np.empty(_MESSAGE_BYTES, np.uint8)
        while self._control.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG, status):
            rank, tag = status.Get_source(), status.Get_tag()
            self._control.Recv([message, MPI.BYTE], rank, tag)
            yield rank, tag, message.tobytes().rstrip(b"\0").decode(errors="replace")

    def arrive_at_end(self) -> Callable[[], bool]:
        barrier = self._control.Ibarrier()

        def all_arrived() -> bool:
            try:
                return bool(barrier.Test())
            except MPI.Exception as error:
                time.sleep(LAUNCHER_S)
                message = f"error: rank {self.rank}: WorkerFailed: {lost('another rank', error)}"
                self.end_job(WorkerFailed.exit_code, message, ())

        return all_arrived

    def end_job(self, code: int, message: str, lost: Sequence[int]) -> NoReturn:
        sys.stdout.flush()
        print(message, file=sys.stderr, flush=True)
        time.sleep(_FORWARD_S)
        abort: Callable[[int], object] = MPI.COMM_WORLD.Abort
        abort(code)
        # Abort may return if two ranks, or two threads, call it at the same time.
        time.sleep(5)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a killed process continued")


class _Counter:
    """Counter on rank 0, which the other ranks reach through its counter server."""

    def __init__(self, comm: MpiCommunicator, requests: MPI.Comm) -> None:
        self._comm, self._requests = comm, requests
        self._server = CounterServer(requests) if comm.rank == 0 else None
        if self._server is not None:
            comm.job.at_end.append(self._server.stop)
            weakref.finalize(self, self._server.stop)

    def next(self, *, stage: str) -> int:
        if self._server is not None:
            return self._server.next()
        with self._comm.failing(stage):
            request, answer = request_number(self._requests)
        self._comm.wait(request.Test, stage, lambda: [0])
        return int(answer[0])


class MpiCommunicator(ProcessCommunicator):
    """Communicator of one of several workers that are processes of an MPI job; see `start`."""

    def __init__(self, comm: MPI.Comm, job: Job, *, timeout_s: float, check: bool) -> None:
        super().__init__(comm.rank, comm.size, job, timeout_s=timeout_s, check=check)
        self._comm = comm
        self._stages: dict[int, str] = {}  # by tag, to name the other stage in a mismatch

    def exchange(
        self, send: Mapping[int, Buffer], recv: Mapping[int, Buffer], *, stage: str
    ) -> _Exchange:
        self._check_exchange(send, recv, stage)
        tag = _tag(stage)
        self._stages[tag] = stage
        requests = []
        with self.failing(stage):
            for peer, buffer in recv.items():
                requests.append(self._comm.Irecv([as_bytes(buffer), MPI.BYTE], peer, MPI.ANY_TAG))
            for peer, buffer in send.items():
                requests.append(self._comm.Isend([as_bytes(buffer), MPI.BYTE], peer, tag))
                self.bytes_sent += buffer.nbytes if peer != self.rank else 0
        # The exchange holds the buffers to send, so that they exist until they are sent.
        return _Exchange(self, requests, dict(send), dict(recv), stage)

    def all_reduce(self, buffer: Buffer, op: ReduceOp = "sum", *, stage: str) -> None:
        check_reduce(buffer, op, stage=stage)
        self._agree(f"all_reduce {op} of {buffer.dtype}{list(buffer.shape)}", stage)
        numbers = buffer.view(np.uint8) if buffer.dtype == np.bool_ else buffer
        self._run(lambda: self._comm.Iallreduce(MPI.IN_PLACE, numbers, _OPS[op]), stage)
        self.bytes_sent += buffer.nbytes

    def all_gather(self, buffer: Buffer, *, stage: str) -> list[Buffer]:
        check_buffer(buffer, stage=stage)
        if buffer.ndim == 0:
            raise ConfigError(f"{stage}: expected a buffer of at least one dimension, got none.")
        self._agree(f"all_gather of {buffer.dtype}{['*', *buffer.shape[1:]]}", stage)
        lengths = np.empty(self.size, np.int64)
        mine = np.array([buffer.shape[0]], np.int64)
        self._run(lambda: self._comm.Iallgather(mine, lengths), stage)
        rows = np.empty((int(lengths.sum()), *buffer.shape[1:]), buffer.dtype)
        row_bytes = buffer.dtype.itemsize * int(np.prod(buffer.shape[1:]))
        counts = (lengths * row_bytes).tolist()
        sent, received = [as_bytes(buffer), MPI.BYTE], [as_bytes(rows), counts, MPI.BYTE]
        self._run(lambda: self._comm.Iallgatherv(sent, received), stage)
        self.bytes_sent += buffer.nbytes
        return np.split(rows, np.cumsum(lengths)[:-1])

    def broadcast(self, buffer: Buffer, root: int = 0, *, stage: str) -> None:
        check_buffer(buffer, stage=stage, written=True)
        self._check_rank(root, stage)
        self._agree(f"broadcast from {root} of {buffer.dtype}{list(buffer.shape)}", stage)
        self._run(lambda: self._comm.Ibcast([as_bytes(buffer), MPI.BYTE], root), stage)
        self.bytes_sent += buffer.nbytes if self.rank == root else 0

    def all_to_all(self, buffers: Sequence[Buffer], *, stage: str) -> list[Buffer]:
        check_buffers(buffers, self.size, stage=stage)
        self._agree(f"all_to_all of {buffers[0].dtype}", stage)
        lengths = np.array([buffer.size for buffer in buffers], np.int64)
        incoming = np.empty(self.size, np.int64)
        self._run(lambda: self._comm.Ialltoall(lengths, incoming), stage)
        received: list[Buffer] = [np.empty(length, buffers[0].dtype) for length in incoming]
        # An exchange moves bytes from buffer to buffer; Alltoallv would need a copy of all.
        send = {rank: buffer for rank, buffer in enumerate(buffers) if buffer.size}
        recv = {rank: buffer for rank, buffer in enumerate(received) if buffer.size}
        self.exchange(send, recv, stage=stage).wait()
        return received

    def split(self, color: int) -> MpiCommunicator:
        self.barrier(stage="split")  # MPI's own split blocks, so it starts when all have arrived
        with self.failing("split"):
            group = self._comm.Split(color, self.rank)
        return MpiCommunicator(group, self.job, timeout_s=self.timeout_s, check=self.check)

    def counter(self) -> _Counter:
        self.barrier(stage="counter")  # Dup blocks, as Split does
        with self.failing("counter"):
            return _Counter(self, self._comm.Dup())

    def wait(
        self,
        test: Callable[[], bool],
        stage: str,
        peers: Callable[[], list[int]] = list,
        failed: Sequence[int] = (),
    ) -> None:
        """Poll until `test()` is true, watched by the watchdog.

        Args:
            test: Function that makes progress and returns whether the operation is complete.
            stage: What the job is doing.
            peers: Function that returns the ranks that this one waits for.
            failed: Ranks whose messages failed, which `test` fills in.
        """

        def in_world() -> list[int]:
            return self._in_world(peers())

        def progress() -> bool:
            if self.job.errors:
                raise self.job.errors[0]
            return test()

        with self.failing(stage, failed):
            self.job.watchdog.wait(progress, stage, timeout_s=self.timeout_s, peers=in_world)

    def _run(self, start: Callable[[], MPI.Request], stage: str) -> None:
        """Start a collective operation, and wait until it is complete."""
        with self.failing(stage):
            request = start()
        self.wait(request.Test, stage)

    @contextmanager
    def failing(self, stage: str, failed: Sequence[int] = ()) -> Iterator[None]:
        """Context of calls of MPI: if one fails, wait for the cause, and raise an error.

        MPI fails where another rank has ended. The sentinel of its host, or the launcher, reports
        that first, and usually ends this rank.

        Args:
            stage: What the job is doing.
            failed: Ranks whose messages failed, if known.
        """
        try:
            yield
        except MPI.Exception as error:
            if error.Get_error_class() == MPI.ERR_TRUNCATE:
                raise CommError(f"{stage}: MPI: {error}.") from error
            self.job.errors.append(error)
            time.sleep(LAUNCHER_S)
            ranks = self.job.watchdog.ended_neighbours() or self._in_world(failed)
            peer, rank = (f"rank {ranks[0]}", ranks[0]) if ranks else ("another rank", -1)
            raise WorkerFailed(rank, f"{stage}: {lost(peer, error)}") from error

    def _in_world(self, ranks: Sequence[int]) -> list[int]:
        return MPI.Group.Translate_ranks(self._comm.group, ranks, MPI.COMM_WORLD.group)

    def stage_of(self, tag: int) -> str:
        """Return the stage of a message with `tag`, for an error, if this rank has used it too."""
        return repr(self._stages[tag]) if tag in self._stages else "another stage"


class _Exchange:
    """Exchange in progress between processes."""

    def __init__(
        self,
        comm: MpiCommunicator,
        requests: list[MPI.Request],
        send: dict[int, Buffer],
        recv: dict[int, Buffer],
        stage: str,
    ) -> None:
        self._comm = comm
        self._requests = requests
        self._statuses = [MPI.Status() for _ in requests]
        self._send = send
        self._recv = recv
        self._stage = stage
        self._failed: list[int] = []  # peers whose messages failed

    def test(self) -> bool:
        with self._comm.failing(self._stage, self._failed):
            return self._test()

    def wait(self) -> None:
        self._comm.wait(self._test, self._stage, self._missing, self._failed)

    def _test(self) -> bool:
        if not self._requests:
            return True
        try:
            complete = MPI.Request.Testall(self._requests, self._statuses)
        except MPI.Exception as error:
            if error.Get_error_class() == MPI.ERR_IN_STATUS:
                self._check_statuses(failed=True)
                peers = (*self._recv, *self._send)
                self._failed += [
                    peer
                    for peer, status in zip(peers, self._statuses, strict=True)
                    if status.Get_error() not in (MPI.SUCCESS, MPI.ERR_PENDING)
                ]
            raise
        if complete:
            self._check_statuses(failed=False)
            self._requests, self._send, self._recv = [], {}, {}
        return complete

    def _missing(self) -> list[int]:
        """Return the peers of messages that are not complete."""
        pairs = zip((*self._recv, *self._send), self._requests, strict=True)
        return sorted({peer for peer, request in pairs if not request.Get_status()})

    def _check_statuses(self, *, failed: bool) -> None:
        """Raise an error for a message of another stage or length.

        Args:
            failed: Whether some status contains an error.
        """
        for (peer, buffer), status in zip(self._recv.items(), self._statuses, strict=False):
            problem = MPI.Get_error_class(status.Get_error()) if failed else MPI.SUCCESS
            if problem not in (MPI.SUCCESS, MPI.ERR_TRUNCATE):  # not complete yet, or it failed
                continue
            tag, nbytes = status.Get_tag(), str(status.Get_count(MPI.BYTE))
            if problem == MPI.ERR_TRUNCATE:
                nbytes = f"more than {buffer.nbytes}"
            if tag != _tag(self._stage) or nbytes != str(buffer.nbytes):
                raise CollectiveMismatch(
                    f"{self._stage}: rank {self._comm.rank} expects {buffer.nbytes} bytes of "
                    f"{self._stage!r} from rank {peer}, which sent {nbytes} bytes of "
                    f"{self._comm.stage_of(tag)}."
                )
