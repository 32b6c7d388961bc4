"""A channel: what carries rows of tensors between workers, with its timers and its memory.

Communication of each operation: rows of the route x bytes of a row.
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

from graphtheta.comm.communicator import Communicator, Pending
from graphtheta.comm.fingerprint import compare_fingerprints
from graphtheta.comm.timers import Direction, Stage, StageTimers
from graphtheta.exchange.plan import Route

__all__ = ["Carried", "Channel", "Lease"]

_LINE = 64  # bytes of a cache line, at which pieces of memory begin


@dataclass(frozen=True)
class Lease:
    """Memory of a channel that somebody uses for a while.

    Attributes:
        memory: Bytes.
        rows: What they are used as, one tensor a field.
    """

    memory: Tensor
    rows: Sequence[Tensor]


@dataclass
class Channel:
    """A communicator together with the timers and the fingerprints seen so far."""

    comm: Communicator
    stages: StageTimers = field(default_factory=StageTimers)
    _seen: set[str] = field(default_factory=set)
    _kept: Tensor | None = None  # bytes

    def acquire(self, num_rows: int, like: Sequence[Tensor]) -> Lease:
        """Return memory for rows: what was given back, if it is enough.

        Fresh pages would cost more than what is done to them.

        Shape:
            like: (any, ...) each. The rows are (num_rows, ...) each.
        """
        shapes = [(num_rows, *x.shape[1:]) for x in like]
        sizes = [math.prod(s) * x.element_size() for s, x in zip(shapes, like, strict=True)]
        starts = [0, *accumulate(-(-size // _LINE) * _LINE for size in sizes)]
        kept, self._kept = self._kept, None
        if kept is None or len(kept) < starts[-1]:
            kept = torch.empty(starts[-1], dtype=torch.uint8, device=like[0].device)
        pieces = [kept[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        rows = [
            piece.view(x.dtype).view(shape)
            for piece, x, shape in zip(pieces, like, shapes, strict=True)
        ]
        return Lease(kept, rows)

    def release(self, lent: Lease) -> None:
        """Keep memory that was lent, and that nobody needs any more."""
        if self._kept is None or len(self._kept) < len(lent.memory):
            self._kept = lent.memory

    def check(
        self,
        direction: Direction,
        stage: Stage,
        tensors: Sequence[Tensor],
        needs_grad: Sequence[bool] = (),
    ) -> str:
        """Compare this operation over all ranks where it is new, or always if `comm.check`."""
        text = stage.text(direction)
        if self.comm.size > 1:
            rows = ", ".join(f"{tuple(t.shape[1:])} {t.dtype}" for t in tensors)
            # What needs grad on one rank only would hang backward, or mix up its exchanges.
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
    ) -> Carried:
        """Start to send rows along `route`, a message a field and peer.

        `needs_grad` says, forward, which fields will come back: it is part of the fingerprint.

        Shape:
            rows: (S, ...) each in the order of `route.master_S` to mirrors, (R, ...) each in the
            order of `route.mirror_R` to masters. They must stay as they are until all have been
            sent. into: where those that come land, in the order in which they come; None: in memory
            of their own.
        """
        text = self.check(direction, stage, rows, needs_grad)
        out, back, num_in = route.master_slices, route.mirror_slices, len(route.mirror_R)
        if not to_mirrors:
            out, back, num_in = back, out, len(route.master_S)
        if into is None:
            into = [r.new_empty((num_in, *r.shape[1:])) for r in rows]
        landing = [x if x.device.type == "cpu" else torch.empty_like(x, device="cpu") for x in into]
        pending = []
        for row, place in zip(rows, landing, strict=True):
            sent, arrived = _bytes_of(row), _bytes_of(place)
            pending.append(
                self.comm.exchange(
                    {peer: sent[block] for peer, block in out.items()},
                    {peer: arrived[block] for peer, block in back.items()},
                    stage=text,
                )
            )
            self.stages.sent(direction, stage, sent.nbytes)
        return Carried(pending, landing, into)

    def carry(
        self,
        rows: Sequence[Tensor],
        route: Route,
        *,
        to_mirrors: bool,
        direction: Direction,
        stage: Stage,
        needs_grad: Sequence[bool] = (),
        into: Sequence[Tensor] | None = None,
    ) -> Sequence[Tensor]:
        """Send rows as `start` does, and return those that arrive.

        Returns:
            One tensor a field: (R, ...) at the mirrors, (S, ...) at the masters.
        """
        return self.start(
            rows,
            route,
            to_mirrors=to_mirrors,
            direction=direction,
            stage=stage,
            needs_grad=needs_grad,
            into=into,
        ).rows()


class Carried:
    """Rows on their way: to the processor's memory, and from there to where they shall be."""

    def __init__(
        self, pending: Sequence[Pending], landing: Sequence[Tensor], into: Sequence[Tensor]
    ) -> None:
        self._pending, self._landing, self._into = pending, landing, into

    def progress(self) -> None:
        """Move bytes along; never blocks."""
        for pending in self._pending:
            pending.test()

    def rows(self) -> Sequence[Tensor]:
        """Wait, and return what arrived: one tensor a field."""
        for pending, landed, place in zip(self._pending, self._landing, self._into, strict=True):
            pending.wait()
            if place is not landed:
                place.copy_(landed)
        return self._into


def _bytes_of(rows: Tensor) -> NDArray[np.uint8]:
    width = rows.element_size() * math.prod(rows.shape[1:])
    flat = rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().reshape(rows.shape[0], width)
