"""Communicator of workers that are processes of a torchrun job, over torch.distributed.

All operations use point-to-point messages, which the documented interface of torch offers for any
type and length. The tag of a message is a hash of its stage, size and number, so that a wrong
message never matches and the watchdog reports it; a collective of torch would give wrong numbers or
end the process. Reductions run here, in rank order, so that every rank gets the same bits, which
are also those of workers that are threads.

If a rank ends, its connections break, and torchrun ends the other ranks. A rank that notices a
broken connection waits for that.
"""

from __future__ import annotations

import os
import platform
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from graphtheta.comm.checks import as_bytes, check_buffer, check_buffers, check_reduce
from graphtheta.comm.communicator import Buffer, ReduceOp
from graphtheta.comm.launcher_store import StoreChannel, StoreCounter, attempt_store
from graphtheta.comm.p2p import Message, PointToPoint, Transfer
from graphtheta.comm.process import Job, ProcessCommunicator
from graphtheta.comm.sentinel import Lifeline, listen
from graphtheta.comm.watchdog import Watchdog, install_stack_dump
from graphtheta.errors import CollectiveMismatch, ConfigError
from graphtheta.runtime.threads import core_mask

__all__ = ["TorchCommunicator", "start"]

_START = timedelta(minutes=30)  # time for all ranks to start
_EVER = timedelta(days=365)  # so that the watchdog's timeout is over before torch's
_REDUCE = {"sum": np.add, "max": np.maximum, "min": np.minimum}
_GREETING = np.dtype(
    [
        ("host", np.int64),  # index of the host, from the launcher
        ("name", "S64"),  # name of the host
        ("pid", np.int64),  # 0 if the process cannot print its stack
        ("gpu", np.bool_),  # whether the host has a GPU for each of its ranks
        ("cores", np.uint8, len(core_mask()) // 8),  # one bit per core
        ("lifeline", "S108"),  # address of the host's listener, from its first rank
    ]
)


def start(
    *, timeout_s: float = 1800.0, notice_s: float = 60.0, check: bool = False
) -> TorchCommunicator:
    """Return the communicator of a whole torchrun job; collective.

    Args:
        timeout_s: Longest wait in seconds before the job ends.
        notice_s: Length of a wait in seconds after which it is mentioned on stderr.
        check: Whether to compare every collective over all ranks before it runs, and fingerprints
            of every exchange instead of first ones only.

    Raises:
        ConfigError: If the ranks cannot reach each other.

    Communication:
        An all-gather of about 700 bytes per rank.
    """
    try:
        whole_store, rank, size = next(rendezvous("env://", timeout=_START))
        store = attempt_store(whole_store, rank, size, _START)
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
    mine["name"] = platform.node().encode()
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
    lifeline.connect(bytes(here["lifeline"][0]), dist.get_rank())
    dist.barrier(group=host)
    if listening is not None:
        lifeline.start_sentinel(listening[0])
    channel = StoreChannel(store, host)
    watchdog = Watchdog(
        channel,
        notice_s=notice_s,
        neighbours={
            int(rank): int(pid) for rank, pid in zip(ranks, here["pid"], strict=True) if pid
        },
        lifeline=lifeline,
        hosts=[name.decode(errors="replace") for name in everyone["name"]],
    )
    job = Job(
        watchdog,
        local_rank,
        len(here),
        np.unpackbits(here["cores"], axis=1).sum(0, dtype=np.int32),
    )
    p2p = _nccl(local_rank) if everyone["gpu"].all() else PointToPoint(host, torch.device("cpu"))
    members = range(dist.get_world_size())
    job.at_end.append(channel.thread.stop)

    def counter(name: str, timeout_s: float) -> StoreCounter:
        return StoreCounter(store, name, channel.thread, watchdog, timeout_s)

    return TorchCommunicator("job", members, p2p, job, counter, timeout_s=timeout_s, check=check)


def _nccl(local_rank: int) -> PointToPoint:
    """Return messages over NCCL, which is faster even between buffers in host memory."""
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    group = dist.new_group(backend="nccl", timeout=_EVER)
    dist.all_reduce(torch.zeros(1, device=device), group=group)  # the group before pairs of it
    return PointToPoint(group, device)


class TorchCommunicator(ProcessCommunicator):
    """Communicator of one of several workers that are processes of a torchrun job; see `start`.

    In a collective each of the P ranks sends P - 1 messages, one to each other rank; a broadcast
    uses a binary tree. An all-reduce sends and receives each byte twice for any P.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[int],
        p2p: PointToPoint,
        job: Job,
        new_counter: Callable[[str, float], StoreCounter],
        *,
        timeout_s: float,
        check: bool,
    ) -> None:
        rank = members.index(dist.get_rank())
        super().__init__(rank, len(members), job, timeout_s=timeout_s, check=check)
        self._name = name  # distinguishes its messages from those of other communicators
        self._members = members  # ranks in the job, by rank in this communicator
        self._p2p = p2p
        self._new_counter = new_counter  # from its name and the timeout
        self._numbers: Counter[tuple[str, str, int]] = Counter()  # messages so far
        self._splits = 0
        self._counters = 0

    def exchange(
        self, send: Mapping[int, Buffer], recv: Mapping[int, Buffer], *, stage: str
    ) -> Transfer:
        self._check_exchange(send, recv, stage)
        self.bytes_sent += sum(b.nbytes for peer, b in send.items() if peer != self.rank)
        return self._transfer("exchange", stage, send, recv, stage)

    def all_reduce(self, buffer: Buffer, op: ReduceOp = "sum", *, stage: str) -> None:
        check_reduce(buffer, op, stage=stage)
        self._agree(f"all_reduce {op} of {buffer.dtype}{list(buffer.shape)}", stage)
        slices = np.array_split(buffer.reshape(-1), self.size)
        mine = slices[self.rank]  # the slice that this rank reduces for all
        parts = [np.empty_like(mine) for _ in range(self.size)]
        what = f"all_reduce {op} {buffer.dtype}"
        self._collect(what, slices, parts, stage)
        total = parts[0]
        for part in parts[1:]:  # in rank order
            _REDUCE[op](total, part, out=total)
        self._collect(what, [total] * self.size, slices, stage)
        self.bytes_sent += buffer.nbytes

    def all_gather(self, buffer: Buffer, *, stage: str) -> list[Buffer]:
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
        check_buffer(buffer, stage=stage, written=True)
        self._check_rank(root, stage)
        what = f"broadcast from {root} of {buffer.dtype}{list(buffer.shape)}"
        self._agree(what, stage)
        distance, reach = (self.rank - root) % self.size, 1  # ranks at a distance < reach have it
        while reach < self.size:
            if distance < reach and distance + reach < self.size:
                to = (self.rank + reach) % self.size
                self._transfer("collective", what, {to: buffer}, {}, stage).wait()
            elif reach <= distance < 2 * reach:
                sender = (self.rank - reach) % self.size
                self._transfer("collective", what, {}, {sender: buffer}, stage).wait()
            reach *= 2
        self.bytes_sent += buffer.nbytes if self.rank == root else 0

    def all_to_all(self, buffers: Sequence[Buffer], *, stage: str) -> list[Buffer]:
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
        colors = self.all_gather_int(color, stage="split")
        self._splits += 1
        return TorchCommunicator(
            f"{self._name} / {self._splits} {color}",
            [self._members[rank] for rank in range(self.size) if colors[rank] == color],
            self._p2p,
            self.job,
            self._new_counter,
            timeout_s=self.timeout_s,
            check=self.check,
        )

    def counter(self) -> StoreCounter:
        self._counters += 1
        return self._new_counter(f"{self._name}, counter {self._counters}", self.timeout_s)

    def finish(self) -> None:
        if not self.finished:
            super().finish()
            dist.destroy_process_group()

    def _collect(
        self, what: str, send: Sequence[Buffer], recv: Sequence[Buffer], stage: str
    ) -> None:
        """Send a buffer to each rank and receive one from each, as part of a collective."""
        self._transfer(
            "collective", what, dict(enumerate(send)), dict(enumerate(recv)), stage
        ).wait()

    def _transfer(
        self,
        kind: str,
        what: str,
        send: Mapping[int, Buffer],
        recv: Mapping[int, Buffer],
        stage: str,
    ) -> Transfer:
        """Start messages to and from peers.

        Args:
            kind: Kind of operation, within which messages are numbered.
            what: Description of the operation, which must be the same at the peer.
            send: Buffers to send, by peer.
            recv: Buffers to receive into, by peer.
            stage: What the job is doing.
        """
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
        return Transfer(self._p2p, incoming, outgoing, self.job.watchdog, self.timeout_s, stage)

    def _messages(
        self, direction: str, kind: str, what: str, buffers: Mapping[int, Buffer]
    ) -> list[Message]:
        messages = []
        for peer, buffer in buffers.items():
            if peer != self.rank and buffer.nbytes:
                self._numbers[direction, kind, peer] += 1
                number = self._numbers[direction, kind, peer]
                text = f"{self._name}, {kind} {number}, {buffer.nbytes} bytes: {what}"
                tag = zlib.crc32(text.encode()) >> 1  # torch's tags are positive int32
                messages.append(Message(self._members[peer], tag, buffer))
        return messages
