"""Master-mirror exchanges that autograd differentiates.

`sync` sends master rows to their mirrors; `to_master` brings mirror rows to their masters; the
backward of each is the other, transposed. Every function takes and returns a 0-d *token* that
requires grad: it chains all exchanges of a step, so that one `backward(loss + token)` runs their
transposes in exactly the reverse order on every rank, even on a rank whose loss is constant or
whose output is ignored.

Communication of each: rows of the route x bytes of a row, once forward, and once backward for
the fields that require grad. Nothing depends on the number of edges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphtheta.comm.communicator import Communicator, Pending
from graphtheta.comm.fingerprint import compare_fingerprints
from graphtheta.comm.plan import Route
from graphtheta.comm.stages import Direction, Stage, Stages

__all__ = [
    "Arrival",
    "Carried",
    "Channel",
    "all_reduce_sum",
    "bring",
    "new_token",
    "start_sync",
    "to_master",
]


_LINE = 64  # bytes of a cache line, at which pieces of memory begin


def new_token(device: torch.device) -> Tensor:
    """Return the 0-d zero that anchors a step's exchanges to its backward."""
    return torch.zeros((), device=device, requires_grad=True)


@dataclass
class Channel:
    """A communicator together with the timers and the fingerprints seen so far."""

    comm: Communicator
    stages: Stages = field(default_factory=Stages)
    _seen: set[str] = field(default_factory=set)
    _kept: Tensor | None = None  # bytes

    def take(self, num_rows: int, like: Sequence[Tensor]) -> list[Tensor]:
        """Return memory for rows: what `keep` kept, if it is enough.

        Fresh pages would cost more than what is done to them.

        Shape:
            like: (any, ...) each. Returns (num_rows, ...) each.
        """
        shapes = [(num_rows, *x.shape[1:]) for x in like]
        sizes = [math.prod(s) * x.element_size() for s, x in zip(shapes, like, strict=True)]
        starts = [0, *accumulate(-(-size // _LINE) * _LINE for size in sizes)]
        kept, self._kept = self._kept, None
        if kept is None or len(kept) < starts[-1]:
            kept = torch.empty(starts[-1], dtype=torch.uint8, device=like[0].device)
        pieces = [kept[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        return [
            piece.view(x.dtype).view(shape)
            for piece, x, shape in zip(pieces, like, shapes, strict=True)
        ]

    def keep(self, rows: Sequence[Tensor]) -> None:
        """Keep memory that `take` returned, and that nobody needs any more."""
        empty = torch.empty(0, dtype=torch.uint8, device=rows[0].device)
        memory = empty.set_(rows[0].untyped_storage())
        if self._kept is None or len(self._kept) < len(memory):
            self._kept = memory

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

    def poke(self) -> None:
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


class Arrival:
    """The mirror rows of a sync, which a worker may compute without for a while.

    Args:
        channel: What carries them.
        sent: The rows that this worker sends, which came from `channel.take`.
        mirrors: Where the rows go, (H, ...) each; autograd must not know of them.
        route: Which mirrors they are for.
        stage: Of the sync, whose timers count what is waited for here.
        needs_grad: As of `Channel.start`.
    """

    def __init__(
        self,
        channel: Channel,
        sent: Sequence[Tensor],
        mirrors: Sequence[Tensor],
        route: Route,
        stage: Stage,
        needs_grad: Sequence[bool],
    ) -> None:
        self._channel, self._sent, self._mirrors = channel, sent, mirrors
        self._route, self._stage = route, stage
        self._carried = channel.start(
            sent,
            route,
            to_mirrors=True,
            direction="forward",
            stage=stage,
            needs_grad=needs_grad,
            into=mirrors if route.fills else None,
        )

    def poke(self) -> None:
        """Move bytes along; never blocks."""
        self._carried.poke()

    def finish(self) -> None:
        """Wait for the rows and put them in place."""
        with self._channel.stages.timed("forward", self._stage):
            arrived = self._carried.rows()
            if not self._route.fills:
                mirror_R = _index(self._route.mirror_R, arrived[0].device)
                for x_H, y_R in zip(self._mirrors, arrived, strict=True):
                    x_H.index_copy_(0, mirror_R, y_R)
            self._channel.keep(self._sent)


def _mirrors_of(x_M: Tensor, route: Route) -> Tensor:
    """Return room for the mirrors' rows; what no edge reads is still a number."""
    shape = (route.num_mirrors, *x_M.shape[1:])
    return x_M.new_zeros(shape) if len(route.mirror_R) < route.num_mirrors else x_M.new_empty(shape)


def _bytes_of(rows: Tensor) -> NDArray[np.uint8]:
    width = rows.element_size() * math.prod(rows.shape[1:])
    flat = rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().reshape(rows.shape[0], width)


def _index(rows_X: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(rows_X).to(device)


class _Sync(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        channel: Channel,
        route: Route,
        stage: Stage,
        owned: bool,
        arrivals: list[Arrival],
        token: Tensor,
        *fields: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.channel, ctx.route, ctx.stage, ctx.owned = channel, route, stage, owned
        needs = ctx.needs_input_grad[6:]
        with channel.stages.timed("forward", stage):
            master_S = _index(route.master_S, fields[0].device)
            mirrors = [_mirrors_of(x_M, route) for x_M in fields]
            sent = channel.take(len(master_S), fields)
            for x_M, x_S in zip(fields, sent, strict=True):
                torch.index_select(x_M.detach(), 0, master_S, out=x_S)
            aliases = [x_H.data for x_H in mirrors]
            arrivals.append(Arrival(channel, sent, aliases, route, stage, needs))
        # Or the kernels behind it would differentiate, and send back, what nobody asked for.
        out, needed = [*fields, *mirrors], [*needs, *needs]
        ctx.mark_non_differentiable(*(x for x, need in zip(out, needed, strict=True) if not need))
        return token.clone(), *out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_token: Tensor, *grads: Tensor) -> tuple[Any, ...]:
        channel, route, stage = ctx.channel, ctx.route, ctx.stage
        needs = ctx.needs_input_grad[6:]
        pairs = zip(grads[: len(needs)], grads[len(needs) :], needs, strict=True)
        wanted = [(g_M, g_H) for g_M, g_H, need in pairs if need]
        merged = []
        if wanted:
            device = wanted[0][0].device
            with channel.stages.timed("backward", stage):
                master_S, mirror_R = _index(route.master_S, device), _index(route.mirror_R, device)
                arrived = channel.carry(
                    [g_H if route.fills else g_H.index_select(0, mirror_R) for _, g_H in wanted],
                    route,
                    to_mirrors=False,
                    direction="backward",
                    stage=stage,
                    into=channel.take(len(master_S), [g_M for g_M, _ in wanted]),
                )
                merged = [
                    (g_M if ctx.owned else g_M.clone()).index_add_(0, master_S, y_S)
                    for (g_M, _), y_S in zip(wanted, arrived, strict=True)
                ]
                channel.keep(arrived)
        return None, None, None, None, None, grad_token, *_fill(merged, needs)


class _ToMaster(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, channel: Channel, route: Route, stage: Stage, token: Tensor, *fields: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.channel, ctx.route, ctx.stage = channel, route, stage
        num_masters = route.num_masters
        with channel.stages.timed("forward", stage):
            mirror_R = _index(route.mirror_R, fields[0].device)
            arrived = channel.carry(
                [x_L[num_masters:].index_select(0, mirror_R) for x_L in fields],
                route,
                to_mirrors=False,
                direction="forward",
                stage=stage,
                needs_grad=ctx.needs_input_grad[4:],
            )
        needs = ctx.needs_input_grad[4:]
        ctx.mark_non_differentiable(
            *(y_S for y_S, need in zip(arrived, needs, strict=True) if not need)
        )
        return token.clone(), *arrived

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_token: Tensor, *grads: Tensor) -> tuple[Any, ...]:
        channel, route, stage = ctx.channel, ctx.route, ctx.stage
        needs = ctx.needs_input_grad[4:]
        wanted = [g_S for g_S, need in zip(grads, needs, strict=True) if need]
        spread = []
        if wanted:
            with channel.stages.timed("backward", stage):
                arrived = channel.carry(
                    wanted, route, to_mirrors=True, direction="backward", stage=stage
                )
                mirror_R = _index(route.mirror_R, wanted[0].device)
                for y_R in arrived:
                    g_L = y_R.new_zeros((route.num_masters + route.num_mirrors, *y_R.shape[1:]))
                    g_L[route.num_masters :].index_copy_(0, mirror_R, y_R)
                    spread.append(g_L)
        return None, None, None, grad_token, *_fill(spread, needs)


def _fill(grads: list[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    rest = iter(grads)
    return [next(rest) if need else None for need in needs]


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, channel: Channel, stage: Stage, token: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.channel, ctx.stage = channel, stage
        return token.clone(), _all_reduced(channel, "forward", stage, x, ctx.needs_input_grad[3:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_token: Tensor, grad: Tensor) -> tuple[Any, ...]:
        return None, None, grad_token, _all_reduced(ctx.channel, "backward", ctx.stage, grad)


def _all_reduced(
    channel: Channel,
    direction: Direction,
    stage: Stage,
    x: Tensor,
    needs_grad: Sequence[bool] = (),
) -> Tensor:
    with channel.stages.timed(direction, stage):
        text = channel.check(direction, stage, [x.unsqueeze(0)], needs_grad)
        total = x.detach().cpu().clone(memory_format=torch.contiguous_format)
        channel.comm.all_reduce(total.numpy(), stage=text)
        return total.to(x.device)


def start_sync(
    fields: Sequence[Tensor], token: Tensor, channel: Channel, route: Route, layer: int
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Arrival]]:
    """Start to send master rows to their mirrors.

    Nothing is copied of the masters. For that their cotangents, what backward finds of the fields
    that are returned, are added to in place: give those to one Gather, and to nothing else.

    Shape:
        fields: (M, ...) each, of the route's masters. Returns the same, and (H, ...) of the route's
        mirrors each; one that no peer sends to holds zeros.

    Returns:
        The token to hand on, the masters and the mirrors of each field, and what fills in the
        latter: none of those may be read before.

    Communication:
        One message a field and plan peer. Backward sends the cotangents the other way.
    """
    return _start(fields, token, channel, route, Stage("sync", layer), owned=True)


def bring(
    rows: Tensor, token: Tensor, channel: Channel, route: Route, stage: Stage
) -> tuple[Tensor, Tensor]:
    """Send master rows along a route of nobody's layer, and wait for them; as `start_sync`.

    Shape:
        rows: (M, ...). Returns the token to hand on, and (M + H, ...), for any use.
    """
    token, masters, mirrors, arrivals = _start([rows], token, channel, route, stage, owned=False)
    for arrival in arrivals:
        arrival.finish()
    return token, torch.cat([*masters, *mirrors])


def _start(
    fields: Sequence[Tensor],
    token: Tensor,
    channel: Channel,
    route: Route,
    stage: Stage,
    *,
    owned: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Arrival]]:
    if channel.comm.size == 1 or not fields:
        return token, list(fields), [_mirrors_of(x_M, route) for x_M in fields], []
    arrivals: list[Arrival] = []
    token, *out = _Sync.apply(channel, route, stage, owned, arrivals, token, *fields)  # type: ignore[no-untyped-call]
    return token, out[: len(fields)], out[len(fields) :], arrivals


def to_master(
    fields: Sequence[Tensor], token: Tensor, channel: Channel, route: Route, layer: int
) -> tuple[Tensor, list[Tensor]]:
    """Bring mirror rows to their masters.

    Shape:
        fields: (L, ...) each. Returns (S, ...) each: row n came from a mirror of the master
        `route.master_S[n]`, ordered by rank; the masters' own rows are untouched.

    Returns:
        The token to hand on, and the rows that arrived, of each field.

    Communication:
        One message a field and plan peer. Backward returns the cotangents of differentiable fields
        only.
    """
    token, *out = _ToMaster.apply(channel, route, Stage("merge", layer), token, *fields)  # type: ignore[no-untyped-call]
    return token, out


def all_reduce_sum(
    x: Tensor, token: Tensor, channel: Channel, stage: Stage
) -> tuple[Tensor, Tensor]:
    """Sum a tensor of equal shape over all ranks; backward sums the cotangents likewise."""
    if channel.comm.size == 1:
        return token, x
    token, total = _AllReduceSum.apply(channel, stage, token, x)  # type: ignore[no-untyped-call]
    return token, total
