"""Communicator of a job with one worker."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import count
from typing import NoReturn

from graphtheta.comm.checks import as_bytes, check_buffer, check_reduce
from graphtheta.comm.communicator import Buffer, Communicator, ReduceOp
from graphtheta.errors import CollectiveMismatch, ConfigError

__all__ = ["SingleCommunicator"]


class _Done:
    """Exchange that is complete from the start."""

    def test(self) -> bool:
        return True

    def wait(self) -> None:
        return


class _Counter:
    """Counter of a single rank."""

    def __init__(self) -> None:
        self._numbers = count()

    def next(self, *, stage: str) -> int:
        return next(self._numbers)


class SingleCommunicator(Communicator):
    """Communicator of one worker, with the same checks of arguments as those of several workers."""

    def __init__(self, *, timeout_s: float = 1800.0, check: bool = False) -> None:
        self.rank = 0
        self.size = 1
        self.local_rank = 0
        self.timeout_s = timeout_s
        self.check = check
        self.bytes_sent = 0

    def exchange(
        self, send: Mapping[int, Buffer], recv: Mapping[int, Buffer], *, stage: str
    ) -> _Done:
        for buffer in send.values():
            check_buffer(buffer, stage=stage)
        for buffer in recv.values():
            check_buffer(buffer, stage=stage, written=True)
        unknown = sorted((send.keys() | recv.keys()) - {0})
        if unknown:
            raise ConfigError(f"{stage}: expected peers in [0, 1), got {unknown}.")
        sent, received = send.get(0), recv.get(0)
        if (sent is None) != (received is None):
            raise CollectiveMismatch(f"{stage}: rank 0 sends to itself and does not receive.")
        if sent is not None and received is not None:
            if sent.nbytes != received.nbytes:
                raise CollectiveMismatch(
                    f"{stage}: rank 0 sends {sent.nbytes} bytes to rank 0, "
                    f"which expects {received.nbytes}."
                )
            as_bytes(received)[:] = as_bytes(sent)
        return _Done()

    def all_reduce(self, buffer: Buffer, op: ReduceOp = "sum", *, stage: str) -> None:
        check_reduce(buffer, op, stage=stage)

    def all_gather(self, buffer: Buffer, *, stage: str) -> list[Buffer]:
        check_buffer(buffer, stage=stage)
        if buffer.ndim == 0:
            raise ConfigError(f"{stage}: expected a buffer of at least one dimension, got none.")
        return [buffer.copy()]

    def broadcast(self, buffer: Buffer, root: int = 0, *, stage: str) -> None:
        check_buffer(buffer, stage=stage, written=True)
        if root != 0:
            raise ConfigError(f"{stage}: expected a root in [0, 1), got {root}.")

    def all_to_all(self, buffers: Sequence[Buffer], *, stage: str) -> list[Buffer]:
        if len(buffers) != 1:
            raise ConfigError(f"{stage}: expected 1 buffer, one per rank, got {len(buffers)}.")
        check_buffer(buffers[0], stage=stage)
        return [buffers[0].copy()]

    def split(self, color: int) -> SingleCommunicator:
        return SingleCommunicator(timeout_s=self.timeout_s, check=self.check)

    def counter(self) -> _Counter:
        return _Counter()

    def abort(self, code: int, message: str) -> NoReturn:
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(code)
