"""Channel between workers: a communicator that exchanges rows of tensors along routes.

Communication of each exchange: rows of the route x bytes of a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.checks import compare_fingerprints
from graphtheta.comm.communicator import Communicator, Pending
from graphtheta.comm.timers import Direction, Stage, StageTimers
from graphtheta.exchange.plan import Route

__all__ = ["Channel", "Lease", "PendingRows", "as_index"]

_CACHE_LINE = 64  # bytes; each field's rows begin at a multiple of it


def as_index(rows_X: NDArray[np.int64], device: torch.device) -> Tensor:
    """Return row numbers as a tensor on a device."""
    return torch.from_numpy(rows_X).to(device)


@dataclass(frozen=True)
class Lease:
    """Memory of a channel that is in use until `Channel.release`.

    Attributes:
        memory: All of it, as bytes.
        rows: The same memory as rows, one tensor per field.
    """

    memory: Tensor
    rows: Sequence[Tensor]


@dataclass
class Channel:
    """Communicator with stage timers, byte counters, and one buffer that is reused.

    The first exchange of each kind is compared over all ranks by its fingerprint.
    """

    comm: Communicator
    stages: StageTimers = field(default_factory=StageTimers)
    _seen: set[str] = field(default_factory=set)
    _free: Tensor | None = None  # bytes

    def acquire(self, num_rows: int, like: Sequence[Tensor]) -> Lease:
        """Return memory for rows: the memory last released if it is large enough.

        Touching fresh memory pages would cost more than the work done on them.

        Shape:
            like: (any, ...) each. The rows are (num_rows, ...) each.
        """
        shapes = [(num_rows, *x.shape[1:]) for x in like]
        sizes = [math.prod(s) * x.element_size() for s, x in zip(shapes, like, strict=True)]
        starts = [0, *accumulate(-(-size // _CACHE_LINE) * _CACHE_LINE for size in sizes)]
        memory, self._free = self._free, None
        if memory is None or len(memory) < starts[-1]:
            memory = torch.empty(starts[-1], dtype=torch.uint8, device=like[0].device)
        pieces = [memory[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        rows = [
            piece.view(x.dtype).view(shape)
            for piece, x, shape in zip(pieces, like, shapes, strict=True)
        ]
        return Lease(memory, rows)

    def release(self, lease: Lease) -> None:
        """Take back memory that is no longer in use."""
        if self._free is None or len(self._free) < len(lease.memory):
            self._free = lease.memory

    def check(
        self,
        direction: Direction,
        stage: Stage,
        tensors: Sequence[Tensor],
        needs_grad: Sequence[bool] = (),
    ) -> str:
        """Compare this operation over all ranks if it is new, or always if `comm.check` is set.

        Returns:
            The name of the stage, for timers and error messages.
        """
        text = stage.text(direction)
        if self.comm.size > 1:
            rows = ", ".join(f"{tuple(t.shape[1:])} {t.dtype}" for t in tensors)
            # A field that needs grad on one rank only would hang backward or mix up its exchanges.
            grads = ", ".join("grad" if need else "no grad" for need in needs_grad)
            operation = f"{text}: {rows}" + (f"; {grads}" if grads else "")
            if self.comm.check or operation not in self._seen:
                self._seen.add(operation)
                compare_fingerprints(self.comm, operation)
        return text

    def start(
        self,
        rows: Sequence[Tensor],
        route: Route,
        *,
        to_mirrors: bool,
        direction: Direction,
        stage: Stage,
        needs_grad: Sequence[bool] = (),
        into: Sequence[Tensor] | None = None,
    ) -> PendingRows:
        """Start to exchange rows along a route, one message per field and peer.

        Args:
            rows: Rows to send, one tensor per field; unchanged until the exchange is complete.
            route: Which rows go to which peer.
            to_mirrors: Whether rows go from masters to mirrors, or from mirrors to masters.
            direction: Whether this belongs to forward or backward.
            stage: Stage under which time and bytes are counted.
            needs_grad: Forward, which fields are differentiated: part of the fingerprint.
            into: Where received rows are written. If None, new tensors are made.

        Shape:
            rows: (S, ...) each in the order of `route.master_S` to mirrors, (R, ...) each in the
            order of `route.mirror_R` to masters. into: the other way round.
        """
        text = self.check(direction, stage, rows, needs_grad)
        send, receive, num_received = route.master_slices, route.mirror_slices, len(route.mirror_R)
        if not to_mirrors:
            send, receive, num_received = receive, send, len(route.master_S)
        if into is None:
            into = [x.new_empty((num_received, *x.shape[1:])) for x in rows]
        on_cpu = [x if x.device.type == "cpu" else torch.empty_like(x, device="cpu") for x in into]
        pending = []
        for x, y in zip(rows, on_cpu, strict=True):
            sent, received = _bytes_of(x), _bytes_of(y)
            pending.append(
                self.comm.exchange(
                    {peer: sent[rows_of_peer] for peer, rows_of_peer in send.items()},
                    {peer: received[rows_of_peer] for peer, rows_of_peer in receive.items()},
                    stage=text,
                )
            )
            self.stages.sent(direction, stage, sent.nbytes)
        return PendingRows(pending, on_cpu, into)

    def sum_at_masters(self, rows: Sequence[Tensor], route: Route) -> list[Tensor]:
        """Add the rows of mirrors to those of their masters, without autograd; collective.

        Shape:
            rows: (route.num_masters + route.num_mirrors, ...) each. Returns
            (route.num_masters, ...) each.
        """
        device = rows[0].device
        mirror_R, master_S = as_index(route.mirror_R, device), as_index(route.master_S, device)
        received = self.start(
            [x[route.num_masters :].index_select(0, mirror_R) for x in rows],
            route,
            to_mirrors=False,
            direction="forward",
            stage=Stage("prepare"),
        ).wait()
        own = [x[: route.num_masters].clone() for x in rows]
        return [x.index_add_(0, master_S, y) for x, y in zip(own, received, strict=True)]


class PendingRows:
    """Exchange of rows in flight: into CPU memory, then to the device of the result."""

    def __init__(
        self, pending: Sequence[Pending], on_cpu: Sequence[Tensor], into: Sequence[Tensor]
    ) -> None:
        self._pending, self._on_cpu, self._into = pending, on_cpu, into

    def progress(self) -> None:
        """Let the communicator move bytes; never blocks."""
        for pending in self._pending:
            pending.test()

    def wait(self) -> Sequence[Tensor]:
        """Wait for the exchange, and return the received rows, one tensor per field."""
        for pending, received, result in zip(self._pending, self._on_cpu, self._into, strict=True):
            pending.wait()
            if result is not received:
                result.copy_(received)
        return self._into


def _bytes_of(rows: Tensor) -> NDArray[np.uint8]:
    width = rows.element_size() * math.prod(rows.shape[1:])
    flat = rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().reshape(rows.shape[0], width)
