"""Sentinel: a small process on each host that reports which rank was killed, and in which stage.

A killed rank cannot report it, and mpiexec names a process at best. The sentinel has a connection
to every rank of its host. When a rank ends, the kernel closes its connection and queues this event
in an epoll object, in the order of the ends. The first end is the cause, because the launcher kills
the other ranks after it. Ranks write their stage to memory that they share with the sentinel, which
takes no system call. There they also mark an end that is orderly, or whose reason they have
printed. The sentinel ends with the first rank of its host. It uses no port and no named file.

If the cause is on another host, or the launcher itself ends, the launcher kills all ranks here, and
none is to be reported. It kills process groups, so another process, the decoy, is in the group of
the first rank of the host. The decoy is tiny, so it ends before a rank does: if it is the first to
end, there is no report.

This needs Linux. On other systems, or if a step fails, there is no sentinel and nothing else
changes. This file is also the sentinel's program, so it imports only the standard library.
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import select
import socket
import struct
import subprocess
import sys
from typing import Any

__all__ = ["Lifeline", "listen"]

_STAGE_BYTES = 255
_SLOT_BYTES = 1 + _STAGE_BYTES  # per rank: whether its end is explained, then its stage
_RANK_BYTES = 16  # rank as a decimal number
_REAP_S = 1.0  # time for the sentinel to end after an orderly job


class Lifeline:
    """Connection of a rank to the sentinel of its host; has no effect if there is no sentinel."""

    def __init__(self) -> None:
        self._slot = mmap.mmap(-1, _SLOT_BYTES)
        self._connection: socket.socket | None = None
        self._started: list[subprocess.Popen[bytes]] = []  # decoy and sentinel

    def connect(self, address: bytes, rank: int) -> None:
        """Connect this rank to the listener of its host.

        Args:
            address: Address from `listen` on this host. If empty, do not connect.
            rank: Rank to report if this process is killed.
        """
        if not address:
            return
        with contextlib.suppress(OSError), contextlib.ExitStack() as on_error:
            memory = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)
            on_error.callback(os.close, memory)
            os.ftruncate(memory, _SLOT_BYTES)
            slot = mmap.mmap(memory, _SLOT_BYTES)
            connection = on_error.enter_context(socket.socket(socket.AF_UNIX))
            connection.setblocking(False)
            connection.connect(address)
            socket.send_fds(connection, [str(rank).encode()], [memory])
            on_error.pop_all()
            os.close(memory)
            self._slot, self._connection = slot, connection
            atexit.register(self.mark_explained)  # an interpreter that exits was not killed
            os.register_at_fork(after_in_child=self._disconnect)

    def start_sentinel(self, listener: socket.socket) -> None:
        """Start the sentinel of this host and close the listener, to which all ranks are connected.

        The sentinel is a new program instead of a fork, which is unsafe with MPI and threads.
        """
        with contextlib.suppress(OSError), contextlib.ExitStack() as closed:
            closed.enter_context(listener)
            events = closed.enter_context(select.epoll())
            passed, ranks = [events.fileno()], []
            with contextlib.suppress(BlockingIOError):  # all connections are accepted
                while True:
                    connection = closed.enter_context(listener.accept()[0])
                    if not _same_user(connection):
                        continue
                    rank, memory, _, _ = socket.recv_fds(connection, _RANK_BYTES, 1)
                    closed.callback(os.close, memory[0])
                    events.register(connection, select.EPOLLIN)
                    passed += [connection.fileno(), memory[0]]
                    ranks.append(f"{connection.fileno()}:{memory[0]}:{rank.decode()}")
            ours, decoys = socket.socketpair()
            closed.enter_context(ours)
            with decoys, contextlib.suppress(OSError):
                pipes: dict[str, Any] = {"stdin": decoys, "stdout": decoys}
                self._started.append(subprocess.Popen(["cat"], **pipes))  # until the sentinel ends
                events.register(ours, select.EPOLLIN)
                passed.append(ours.fileno())
            sentinel = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(events.fileno()), *ranks],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=passed,
                start_new_session=True,  # the launcher kills the ranks' process groups
            )
            self._started.append(sentinel)

    def set_stage(self, stage: str) -> None:
        """Record the stage of this rank, in a few hundred nanoseconds."""
        self._slot[1:] = stage.encode()[:_STAGE_BYTES].ljust(_STAGE_BYTES, b"\0")

    def mark_explained(self) -> None:
        """Record that the job ends orderly, or that this rank prints why it ends."""
        self._slot[0] = 1

    def finish(self) -> None:
        """End the sentinel and the decoy, when all ranks have reached the end of the job."""
        self.mark_explained()
        if self._connection is not None:
            self._connection.close()
        for process in reversed(self._started):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_REAP_S)

    def _disconnect(self) -> None:
        """Disconnect a forked child, which may outlive the rank."""
        if self._connection is not None:
            self._connection.close()
        self._slot, self._connection = mmap.mmap(-1, _SLOT_BYTES), None
        self._started = []


def listen() -> tuple[socket.socket, bytes] | None:
    """Return a listener for the ranks of this host, and its address; None if not possible here."""
    if sys.platform != "linux" or not sys.executable:
        return None
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind("")  # the kernel chooses a free abstract address
        listener.listen(1024)
        listener.setblocking(False)
        return listener, bytes(listener.getsockname())
    except OSError:
        listener.close()
        return None


def _same_user(connection: socket.socket) -> bool:
    """Return whether the connected process belongs to this user; anyone may connect."""
    size = struct.calcsize("3i")
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return bool(struct.unpack("3i", peer)[1] == os.getuid())


def _watch(events: select.epoll, ranks: list[str]) -> str:
    """Return the message on the first rank that ends.

    It is empty if the end is explained, or if the decoy has ended before.
    """
    slots = {}
    for numbers in ranks:
        connection, memory, rank = map(int, numbers.split(":"))
        slots[connection] = rank, mmap.mmap(memory, _SLOT_BYTES)
    first, _ = events.poll(maxevents=1)[0]
    if first not in slots or any(slot[0] for _, slot in slots.values()):
        return ""
    rank, slot = slots[first]
    stage = slot[1:].rstrip(b"\0").decode(errors="replace")
    last = f" (last in {stage!r})" if stage else ""
    return f"error: rank {rank}{last}: killed or crashed on {os.uname().nodename}\n"


if __name__ == "__main__":
    text = _watch(select.epoll.fromfd(int(sys.argv[1])), sys.argv[2:])
    os.write(2, text.encode())  # one system call, so that no other line comes in between
