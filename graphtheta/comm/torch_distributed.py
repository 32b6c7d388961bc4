"""Workers as processes under torchrun: torch.distributed carries the bytes.

Everything is sent from point to point, which its documented interface offers for any type and any
length. The tag of a message is a hash of its stage, its size and its number, so that a message that
is not the one expected never matches: the watchdog finds it, where a collective of torch's would
give wrong numbers, or end the process. Reductions are done here, in rank order: the same bits on
every rank, and for threads.

If a rank ends, its connections break, and torchrun ends the others: a rank that notices gives it
the time to do so.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from os import _exit  # as it was before `launch` put a hook there
from signal import SIGKILL
from typing import NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from graphtheta.comm.checks import as_bytes, check_buffer, check_buffers, check_reduce
from graphtheta.comm.communicator import Buffer, ReduceOp
from graphtheta.comm.p2p import LAUNCHER_S, Message, PointToPoint, Transfer, lost
from graphtheta.comm.process import Job, ProcessCommunicator
from graphtheta.comm.sentinel import Lifeline, listen
from graphtheta.comm.watchdog import Watchdog, install_stack_dump
from graphtheta.errors import CollectiveMismatch, ConfigError, WorkerFailed
from graphtheta.runtime.threads import core_mask

__all__ = ["TorchCommunicator", "start"]

_START = timedelta(minutes=30)  # for all ranks to come
_EVER = timedelta(days=365)  # the watchdog's timeout comes before torch's
_NAP_S = 0.01  # between looks whether all are at their end
_REDUCE = {"sum": np.add, "max": np.maximum, "min": np.minimum}
_GREETING = np.dtype(
    [
        ("host", np.int64),  # the launcher's index of the host
        ("pid", np.int64),  # 0 if it prints no stack
        ("gpu", np.bool_),  # has one of its own
        ("cores", np.uint8, len(core_mask()) // 8),  # a bit each
        ("lifeline", "S108"),  # address of a listener, from the first rank of a host
    ]
)


def start(
    *, timeout_s: float = 1800.0, notice_s: float = 60.0, check: bool = False
) -> TorchCommunicator:
    """Return the communicator of a whole job that torchrun started; collective.

    Args:
        timeout_s: Longest wait before the job is given up.
        notice_s: Wait after which it is mentioned on stderr.
        check: Whether every collective is compared over all ranks before it runs, and
            fingerprints of every exchange, not of first ones only.

    Raises:
        ConfigError: If the ranks cannot reach each other.

    Communication:
        Some 650 bytes of every rank, to every rank.
    """
    try:
        store, rank, size = next(rendezvous("env://", timeout=_START))
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_START)
        host = dist.new_group(backend="gloo", timeout=_EVER)
        return _start(store, host, timeout_s=timeout_s, notice_s=notice_s, check=check)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"communicator: expected {os.environ.get('WORLD_SIZE')} ranks that reach each other, "
            f"got: {reason}. Check --rdzv-endpoint, and name the network by GLOO_SOCKET_IFNAME."
        ) from error


def _start(
    store: Store, host: dist.ProcessGroup, *, timeout_s: float, notice_s: float, check: bool
) -> TorchCommunicator:
    local_rank = int(os.environ["LOCAL_RANK"])
    mine = np.zeros(1, _GREETING)
    mine["host"] = int(os.environ["GROUP_RANK"])
    mine["pid"] = os.getpid() if install_stack_dump() else 0
    mine["gpu"] = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    mine["cores"] = np.packbits(core_mask().astype(np.bool_))
    listening = listen() if local_rank == 0 else None
    if listening is not None:
        mine["lifeline"] = listening[1]
    blank = torch.empty(mine.nbytes, dtype=torch.uint8)
    rows = [blank.clone() for _ in range(dist.get_world_size())]
    dist.all_gather(rows, torch.from_numpy(as_bytes(mine)), group=host)
    everyone = torch.stack(rows).numpy().view(_GREETING).reshape(-1)
    ranks = np.flatnonzero(everyone["host"] == mine["host"])
    here = everyone[ranks]
    lifeline = Lifeline()
    lifeline.tie(bytes(here["lifeline"][0]), dist.get_rank())
    dist.barrier(group=host)
    if listening is not None:
        lifeline.post_sentinel(listening[0])
    watchdog = Watchdog(
        _Post(store, host),
        notice_s=notice_s,
        neighbours={
            int(rank): int(pid) for rank, pid in zip(ranks, here["pid"], strict=True) if pid
        },
        lifeline=lifeline,
    )
    job = Job(
        watchdog,
        local_rank,
        len(here),
        np.unpackbits(here["cores"], axis=1).sum(0, dtype=np.int32),
    )
    wire = (
        _gpu_wire(local_rank) if everyone["gpu"].all() else PointToPoint(host, torch.device("cpu"))
    )
    members = range(dist.get_world_size())
    counters = PrefixStore("graphtheta counters", store)
    return TorchCommunicator("job", members, wire, job, counters, timeout_s=timeout_s, check=check)


def _gpu_wire(local_rank: int) -> PointToPoint:
    """Return NCCL, by which even what goes from host memory to host memory is faster."""
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    group = dist.new_group(backend="nccl", timeout=_EVER)
    dist.all_reduce(torch.zeros(1, device=device), group=group)  # pairs come after the whole group
    return PointToPoint(group, device)


class _Post:
    """Letters between ranks, in the launcher's store: one log, which all read."""

    spins = 0  # a test waits a moment by itself

    def __init__(self, store: Store, group: dist.ProcessGroup) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._store = PrefixStore("graphtheta", store)
        self._group = group
        self._read = 0

    def send(self, tag: int, text: str, to: int | None = None) -> None:
        with suppress(RuntimeError):  # the launcher is gone: nobody reads
            number = self._store.add("letters", 1) - 1
            self._store.set(
                f"letter {number}", f"{self.rank} {self.rank if to is None else to} {tag} {text}"
            )

    def receive(self) -> Iterator[tuple[int, int, str]]:
        written = self._store.add("letters", 0)
        while self._read < written and self._store.check([f"letter {self._read}"]):
            letter = self._store.get(f"letter {self._read}").decode(errors="replace")
            self._read += 1
            sender, to, tag, text = letter.split(" ", 3)
            if int(sender) != self.rank and to in (sender, str(self.rank)):
                yield int(sender), int(tag), text

    def leave(self) -> Callable[[], bool]:
        work = dist.barrier(group=self._group, async_op=True)

        def all_left() -> bool:
            if not work.is_completed():
                time.sleep(_NAP_S)
                return False
            try:
                work.wait()  # raises what went wrong
            except RuntimeError as error:
                time.sleep(LAUNCHER_S)
                self.end(2, f"error: rank {self.rank}: WorkerFailed: {lost('another', error)}", ())
            return True

        return all_left

    def end(self, code: int, message: str, lost: Sequence[int]) -> NoReturn:
        sys.stdout.flush()
        print(message, file=sys.stderr, flush=True)
        for pid in lost:  # the launcher would wait half a minute for one that is stopped
            with suppress(ProcessLookupError):
                os.kill(pid, SIGKILL)
        _exit(code or 1)


class _Counter:
    """A counter in the launcher's store, which counts by itself."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def next(self, *, stage: str) -> int:
        try:
            return int(self._store.add(self._name, 1)) - 1
        except RuntimeError as error:
            time.sleep(LAUNCHER_S)
            raise WorkerFailed(-1, f"{stage}: {lost('the launcher', error)}") from error


class TorchCommunicator(ProcessCommunicator):
    """One of several workers that are processes of one torchrun job; made by `start`.

    A collective sends straight from each rank to each other, P - 1 messages, and a broadcast along
    a binary tree. An all-reduce sends and receives each byte twice, whatever P is.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[int],
        wire: PointToPoint,
        job: Job,
        store: Store,
        *,
        timeout_s: float,
        check: bool,
    ) -> None:
        rank = members.index(dist.get_rank())
        super().__init__(rank, len(members), job, timeout_s=timeout_s, check=check)
        self._name = name  # keeps its messages apart from those of other communicators
        self._members = members  # ranks in the job, by rank here
        self._wire = wire
        self._store = store
        self._numbers: Counter[tuple[str, str, int]] = Counter()  # of messages so far
        self._splits = 0
        self._counters = 0

    def exchange(
        self, send: Mapping[int, Buffer], recv: Mapping[int, Buffer], *, stage: str
    ) -> Transfer:
        """Start the receives, then the sends; see `Communicator.exchange`."""
        self._check_exchange(send, recv, stage)
        self.bytes_sent += sum(b.nbytes for peer, b in send.items() if peer != self.rank)
        return self._carry("exchange", stage, send, recv, stage)

    def all_reduce(self, buffer: Buffer, op: ReduceOp = "sum", *, stage: str) -> None:
        """Each rank reduces a slice, and sends it to all; see `Communicator.all_reduce`."""
        check_reduce(buffer, op, stage=stage)
        self._agree(f"all_reduce {op} of {buffer.dtype}{list(buffer.shape)}", stage)
        slices = np.array_split(buffer.reshape(-1), self.size)
        mine = slices[self.rank]
        parts = [np.empty_like(mine) for _ in range(self.size)]
        what = f"all_reduce {op} {buffer.dtype}"
        self._collect(what, slices, parts, stage)
        total = parts[0]
        for part in parts[1:]:  # in rank order
            _REDUCE[op](total, part, out=total)
        self._collect(what, [total] * self.size, slices, stage)
        self.bytes_sent += buffer.nbytes

    def all_gather(self, buffer: Buffer, *, stage: str) -> list[Buffer]:
        """Gather the lengths, then the rows; see `Communicator.all_gather`."""
        check_buffer(buffer, stage=stage)
        if buffer.ndim == 0:
            raise ConfigError(f"{stage}: expected a buffer of at least one dimension, got none.")
        what = f"all_gather of {buffer.dtype}{['*', *buffer.shape[1:]]}"
        self._agree(what, stage)
        lengths = np.empty(self.size, np.int64)
        mine = np.array([buffer.shape[0]], np.int64)
        self._collect(what, [mine] * self.size, np.split(lengths, self.size), stage)
        rows = [np.empty((int(n), *buffer.shape[1:]), buffer.dtype) for n in lengths]
        self._collect(what, [buffer] * self.size, rows, stage)
        self.bytes_sent += buffer.nbytes
        return rows

    def broadcast(self, buffer: Buffer, root: int = 0, *, stage: str) -> None:
        """Overwrite in place; see `Communicator.broadcast`."""
        check_buffer(buffer, stage=stage, written=True)
        self._check_rank(root, stage)
        what = f"broadcast from {root} of {buffer.dtype}{list(buffer.shape)}"
        self._agree(what, stage)
        distance, reach = (self.rank - root) % self.size, 1  # ranks within reach have it
        while reach < self.size:
            if distance < reach and distance + reach < self.size:
                to = (self.rank + reach) % self.size
                self._carry("collective", what, {to: buffer}, {}, stage).wait()
            elif reach <= distance < 2 * reach:
                sender = (self.rank - reach) % self.size
                self._carry("collective", what, {}, {sender: buffer}, stage).wait()
            reach *= 2
        self.bytes_sent += buffer.nbytes if self.rank == root else 0

    def all_to_all(self, buffers: Sequence[Buffer], *, stage: str) -> list[Buffer]:
        """Tell the lengths, then send what is not empty; see `Communicator.all_to_all`."""
        check_buffers(buffers, self.size, stage=stage)
        what = f"all_to_all of {buffers[0].dtype}"
        self._agree(what, stage)
        lengths = np.empty(self.size, np.int64)
        self._collect(
            what, [np.array([b.size]) for b in buffers], np.split(lengths, self.size), stage
        )
        received: list[Buffer] = [np.empty(int(n), buffers[0].dtype) for n in lengths]
        self._collect(what, buffers, received, stage)
        self.bytes_sent += sum(b.nbytes for peer, b in enumerate(buffers) if peer != self.rank)
        return received

    def split(self, color: int) -> TorchCommunicator:
        """Return the ranks of one `color`; see `Communicator.split`."""
        colors = self.all_gather_int(color, stage="split")
        self._splits += 1
        return TorchCommunicator(
            f"{self._name} / {self._splits} {color}",
            [self._members[rank] for rank in range(self.size) if colors[rank] == color],
            self._wire,
            self.job,
            self._store,
            timeout_s=self.timeout_s,
            check=self.check,
        )

    def counter(self) -> _Counter:
        """Return a counter in the launcher's store; see `Communicator.counter`."""
        self._counters += 1
        return _Counter(self._store, f"{self._name}, counter {self._counters}")

    def finish(self) -> None:
        """Wait until every rank is here, and take the connections down."""
        if not self.finished:
            super().finish()
            dist.destroy_process_group()

    def _collect(
        self, what: str, send: Sequence[Buffer], recv: Sequence[Buffer], stage: str
    ) -> None:
        """Send one buffer to each rank, and receive one of each, as part of a collective."""
        self._carry("collective", what, dict(enumerate(send)), dict(enumerate(recv)), stage).wait()

    def _carry(
        self,
        kind: str,
        what: str,
        send: Mapping[int, Buffer],
        recv: Mapping[int, Buffer],
        stage: str,
    ) -> Transfer:
        """Start messages of a `kind` that counts by itself; `what` must be the same at the peer."""
        sent, received = send.get(self.rank), recv.get(self.rank)
        if (sent is None) != (received is None) or (
            sent is not None and received is not None and sent.nbytes != received.nbytes
        ):
            raise CollectiveMismatch(
                f"{stage}: rank {self.rank} sends {0 if sent is None else sent.nbytes} bytes to "
                f"itself, and expects {0 if received is None else received.nbytes}."
            )
        if sent is not None and received is not None:
            as_bytes(received)[:] = as_bytes(sent)
        incoming = self._messages("recv", kind, what, recv)
        outgoing = self._messages("send", kind, what, send)
        return Transfer(self._wire, incoming, outgoing, self.job.watchdog, self.timeout_s, stage)

    def _messages(
        self, direction: str, kind: str, what: str, buffers: Mapping[int, Buffer]
    ) -> list[Message]:
        messages = []
        for peer, buffer in buffers.items():
            if peer != self.rank and buffer.nbytes:
                self._numbers[direction, kind, peer] += 1
                number = self._numbers[direction, kind, peer]
                words = f"{self._name}, {kind} {number}, {buffer.nbytes} bytes: {what}"
                tag = zlib.crc32(words.encode()) >> 1  # torch's tags are positive int32
                messages.append(Message(self._members[peer], tag, buffer))
        return messages
