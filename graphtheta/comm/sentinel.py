"""Saying which rank was killed, and where: the dead cannot, and mpiexec names a process at best.

One small process a host, the sentinel, has a connection to every rank there. The kernel closes a
rank's connection when the rank dies, and queues that on an epoll in the order in which it happens,
however late the sentinel gets to look: the first death is the cause, after it the launcher kills
the rest. Ranks write their stage to memory that the sentinel shares, which takes no system call;
there they also mark an end that needs no explanation, because it is orderly or a rank has printed
why. The sentinel ends with the first rank of its host. It has no port and no file with a name.

Linux only; elsewhere, and where something is missing, nobody watches and nothing else changes.
This file is also the sentinel's program: it imports the standard library only.
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

__all__ = ["Lifeline", "listen"]

_STAGE_BYTES = 255
_SLOT_BYTES = 1 + _STAGE_BYTES  # of a rank: whether the end is explained, then the stage
_RANK_BYTES = 16  # of a rank's number in decimal
_REAP_S = 1.0  # for the sentinel to end, after an orderly job


class Lifeline:
    """What one rank shares with the sentinel of its host; harmless if there is none."""

    def __init__(self) -> None:
        self._slot = mmap.mmap(-1, _SLOT_BYTES)
        self._connection: socket.socket | None = None
        self._sentinel: subprocess.Popen[bytes] | None = None

    def tie(self, address: bytes, rank: int) -> None:
        """Connect to the listener at `address`; empty: to none.

        Args:
            address: Of `listen`, on this host.
            rank: The name of this rank when it is dead.
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
            atexit.register(self.explained)  # what Python ends was not killed
            os.register_at_fork(after_in_child=self._untie)

    def post_sentinel(self, listener: socket.socket) -> None:
        """Start the sentinel of this host, when its ranks are tied to `listener`, which it closes.

        A program of its own rather than a fork, which MPI's memory and other threads forbid.
        """
        with contextlib.suppress(OSError), contextlib.ExitStack() as closed:
            closed.enter_context(listener)
            events = closed.enter_context(select.epoll())
            passed, ties = [events.fileno()], []
            with contextlib.suppress(BlockingIOError):  # when all have been accepted
                while True:
                    connection = closed.enter_context(listener.accept()[0])
                    if not _same_user(connection):
                        continue
                    rank, memory, _, _ = socket.recv_fds(connection, _RANK_BYTES, 1)
                    closed.callback(os.close, memory[0])
                    events.register(connection, select.EPOLLIN)
                    passed += [connection.fileno(), memory[0]]
                    ties.append(f"{connection.fileno()}:{memory[0]}:{rank.decode()}")
            self._sentinel = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(events.fileno()), *ties],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=passed,
                start_new_session=True,  # the launcher kills the process groups of the ranks
            )

    def note(self, stage: str) -> None:
        """Tell in which stage this rank is; takes a few hundred nanoseconds."""
        self._slot[1:] = stage.encode()[:_STAGE_BYTES].ljust(_STAGE_BYTES, b"\0")

    def explained(self) -> None:
        """Tell that the job ends in good order, or that this rank says why it ends."""
        self._slot[0] = 1

    def finish(self) -> None:
        """Let go, when all ranks have come to the end; leaves no process behind."""
        self.explained()
        if self._connection is not None:
            self._connection.close()
        if self._sentinel is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._sentinel.wait(_REAP_S)

    def _untie(self) -> None:
        """Leave the rank to the process that was forked: this one may outlive it."""
        if self._connection is not None:
            self._connection.close()
        self._slot, self._connection = mmap.mmap(-1, _SLOT_BYTES), None
        self._sentinel = None


def listen() -> tuple[socket.socket, bytes] | None:
    """Return a listener for the lifelines of this host and its address; None: not possible here."""
    if sys.platform != "linux" or not sys.executable:
        return None
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind("")  # the kernel picks a free name, outside the file system
        listener.listen(1024)
        listener.setblocking(False)
        return listener, bytes(listener.getsockname())
    except OSError:
        listener.close()
        return None


def _same_user(connection: socket.socket) -> bool:
    """Say whether the process at the other end is of this user: anyone may connect."""
    size = struct.calcsize("3i")
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return bool(struct.unpack("3i", peer)[1] == os.getuid())


def _watch(events: select.epoll, ties: list[str]) -> str:
    """Return what to say about the first rank that dies; empty if its end is explained."""
    slots = {}
    for tie in ties:
        connection, memory, rank = map(int, tie.split(":"))
        slots[connection] = rank, mmap.mmap(memory, _SLOT_BYTES)
    dead, _ = events.poll(maxevents=1)[0]
    if any(slot[0] for _, slot in slots.values()):
        return ""
    rank, slot = slots[dead]
    stage = slot[1:].rstrip(b"\0").decode(errors="replace")
    last = f" (last in {stage!r})" if stage else ""
    return f"error: rank {rank}{last}: killed or crashed on {os.uname().nodename}\n"


if __name__ == "__main__":
    said = _watch(select.epoll.fromfd(int(sys.argv[1])), sys.argv[2:])
    os.write(2, said.encode())  # at once: no other line can come between
