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

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphtheta.comm.timers import Direction, Stage
from graphtheta.exchange.channel import Carried, Channel, Lease
from graphtheta.exchange.plan import Route

__all__ = [
    "GradientReturn",
    "MirrorSync",
    "all_reduce_sum",
    "fetch",
    "new_token",
    "start_sync",
    "to_master",
]


def new_token(device: torch.device) -> Tensor:
    """Return the 0-d zero that anchors a step's exchanges to its backward."""
    return torch.zeros((), device=device, requires_grad=True)


class MirrorSync:
    """The mirror rows of a sync, which a worker may compute without for a while.

    Args:
        channel: What carries them.
        sent: The rows that this worker sends, in memory of the channel.
        mirrors: Where the rows go, (H, ...) each; autograd must not know of them.
        route: Which mirrors they are for.
        stage: Of the sync, whose timers count what is waited for here.
        needs_grad: As of `Channel.start`.

    Attributes:
        route: As given.
        departure: The way back, for backward.
    """

    def __init__(
        self,
        channel: Channel,
        sent: Lease,
        mirrors: Sequence[Tensor],
        route: Route,
        stage: Stage,
        needs_grad: Sequence[bool],
    ) -> None:
        self._channel, self._sent, self._mirrors = channel, sent, mirrors
        self.route, self._stage = route, stage
        self.departure = GradientReturn(channel, route, stage)
        self._carried = channel.start(
            sent.rows,
            route,
            to_mirrors=True,
            direction="forward",
            stage=stage,
            needs_grad=needs_grad,
            into=mirrors if route.fills else None,
        )

    def progress(self) -> None:
        """Move bytes along; never blocks."""
        self._carried.progress()

    def finish(self) -> None:
        """Wait for the rows and put them in place."""
        with self._channel.stages.timed("forward", self._stage):
            arrived = self._carried.rows()
            if not self.route.fills:
                mirror_R = _index(self.route.mirror_R, arrived[0].device)
                for x_H, y_R in zip(self._mirrors, arrived, strict=True):
                    x_H.index_copy_(0, mirror_R, y_R)
            self._channel.release(self._sent)


class GradientReturn:
    """The cotangents of mirrors on their way to masters, in the backward of a sync.

    Whoever computes them may start it before those of the masters are there; the sync's own
    backward does otherwise.
    """

    def __init__(self, channel: Channel, route: Route, stage: Stage) -> None:
        self._channel, self._route, self._stage = channel, route, stage
        self._carried: Carried | None = None
        self._into: Lease | None = None

    def start(self, cotangents: Sequence[Tensor]) -> None:
        """Send them, of all fields that require grad: (H, ...) each."""
        channel, route = self._channel, self._route
        with channel.stages.timed("backward", self._stage):
            rows = cotangents
            if not route.fills:
                mirror_R = _index(route.mirror_R, cotangents[0].device)
                rows = [g_H.index_select(0, mirror_R) for g_H in cotangents]
            self._into = channel.acquire(len(route.master_S), cotangents)
            self._carried = channel.start(
                rows,
                route,
                to_mirrors=False,
                direction="backward",
                stage=self._stage,
                into=self._into.rows,
            )

    def progress(self) -> None:
        """Move bytes along; never blocks."""
        if self._carried is not None:
            self._carried.progress()

    def rows(self, cotangents: Sequence[Tensor]) -> Lease:
        """Wait for what comes from other workers: (S, ...) each, to be given back.

        Args:
            cotangents: Are sent if nothing has been.
        """
        if self._carried is None:
            self.start(cotangents)
        assert self._carried is not None
        assert self._into is not None
        carried, self._carried = self._carried, None
        carried.rows()
        return self._into


def _mirrors_of(x_M: Tensor, route: Route) -> Tensor:
    """Return room for the mirrors' rows; what no edge reads is still a number."""
    shape = (route.num_mirrors, *x_M.shape[1:])
    return x_M.new_zeros(shape) if len(route.mirror_R) < route.num_mirrors else x_M.new_empty(shape)


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
        arrivals: list[MirrorSync],
        token: Tensor,
        *fields: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.channel, ctx.route, ctx.stage, ctx.owned = channel, route, stage, owned
        needs = ctx.needs_input_grad[6:]
        with channel.stages.timed("forward", stage):
            master_S = _index(route.master_S, fields[0].device)
            mirrors = [_mirrors_of(x_M, route) for x_M in fields]
            sent = channel.acquire(len(master_S), fields)
            for x_M, x_S in zip(fields, sent.rows, strict=True):
                torch.index_select(x_M.detach(), 0, master_S, out=x_S)
            aliases = [x_H.data for x_H in mirrors]
            arrivals.append(MirrorSync(channel, sent, aliases, route, stage, needs))
        ctx.departure = arrivals[-1].departure
        # Or the kernels behind it would differentiate, and send back, what nobody asked for.
        out, needed = [*fields, *mirrors], [*needs, *needs]
        ctx.mark_non_differentiable(*(x for x, need in zip(out, needed, strict=True) if not need))
        return token.clone(), *out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_token: Tensor, *grads: Tensor) -> tuple[Any, ...]:
        channel, needs = ctx.channel, ctx.needs_input_grad[6:]
        of_masters, of_mirrors = (
            [g for g, need in zip(some, needs, strict=True) if need]
            for some in (grads[: len(needs)], grads[len(needs) :])
        )
        merged = []
        if of_masters:
            master_S = _index(ctx.route.master_S, of_masters[0].device)
            with channel.stages.rest("backward", ctx.stage):
                arrived = ctx.departure.rows(of_mirrors)
                merged = [
                    (g_M if ctx.owned else g_M.clone()).index_add_(0, master_S, y_S)
                    for g_M, y_S in zip(of_masters, arrived.rows, strict=True)
                ]
                channel.release(arrived)
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
) -> tuple[Tensor, list[Tensor], list[Tensor], list[MirrorSync]]:
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


def fetch(
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
) -> tuple[Tensor, list[Tensor], list[Tensor], list[MirrorSync]]:
    if channel.comm.size == 1 or not fields:
        return token, list(fields), [_mirrors_of(x_M, route) for x_M in fields], []
    arrivals: list[MirrorSync] = []
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
