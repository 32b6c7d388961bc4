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
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
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
    "sync",
    "to_master",
]


def new_token(device: torch.device) -> Tensor:
    """Return the 0-d zero that anchors a step's exchanges to its backward."""
    return torch.zeros((), device=device, requires_grad=True)


@dataclass
class Channel:
    """A communicator together with the timers and the fingerprints seen so far."""

    comm: Communicator
    stages: Stages = field(default_factory=Stages)
    _seen: set[str] = field(default_factory=set)

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
    ) -> Carried:
        """Start to send rows along `route`, packed into one message a peer.

        `needs_grad` says, forward, which fields will come back: it is part of the fingerprint.

        Shape:
            rows: (S, ...) each in the order of `route.master_S` to mirrors, (R, ...) each in the
            order of `route.mirror_R` to masters; types may differ between fields.
        """
        text = self.check(direction, stage, rows, needs_grad)
        if to_mirrors:
            out_slices, in_slices, num_in = (
                route.master_slices,
                route.mirror_slices,
                len(route.mirror_R),
            )
        else:
            out_slices, in_slices, num_in = (
                route.mirror_slices,
                route.master_slices,
                len(route.master_S),
            )
        blocks = [_bytes_of(r) for r in rows]
        packed = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
        arrived = np.empty((num_in, packed.shape[1]), np.uint8)
        pending = self.comm.exchange(
            {peer: packed[block] for peer, block in out_slices.items()},
            {peer: arrived[block] for peer, block in in_slices.items()},
            stage=text,
        )
        self.stages.sent(direction, stage, packed.nbytes)
        return Carried(pending, arrived, [b.shape[1] for b in blocks], rows)

    def carry(
        self,
        rows: Sequence[Tensor],
        route: Route,
        *,
        to_mirrors: bool,
        direction: Direction,
        stage: Stage,
        needs_grad: Sequence[bool] = (),
    ) -> list[Tensor]:
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
        ).rows()


class Carried:
    """Rows on their way."""

    def __init__(
        self,
        pending: Pending,
        arrived: NDArray[np.uint8],
        widths: Sequence[int],
        like: Sequence[Tensor],
    ) -> None:
        self.pending = pending
        self._arrived, self._widths, self._like = arrived, widths, like

    def rows(self) -> list[Tensor]:
        """Wait, and return what arrived: one tensor a field."""
        self.pending.wait()
        parts = np.split(self._arrived, np.cumsum(self._widths)[:-1], axis=1)
        return [_tensor_of(part, like) for part, like in zip(parts, self._like, strict=True)]


class Arrival:
    """The mirror rows of a sync, which a worker may compute without for a while.

    Args:
        carried: What is on its way.
        fields_L: Where it goes: rows behind the masters.
        route: Which mirrors it is for.
        timed: Adds the seconds spent here to the sync's stage.
    """

    def __init__(
        self,
        carried: Carried,
        fields_L: Sequence[Tensor],
        route: Route,
        timed: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._carried, self._route, self._timed = carried, route, timed
        # Aliases that autograd knows nothing of: whoever reads the rows waits for them first.
        self._mirrors = [x.data[route.num_masters :] for x in fields_L]

    def poke(self) -> None:
        """Move bytes along; never blocks."""
        self._carried.pending.test()

    def finish(self) -> None:
        """Wait for the rows and put them in place."""
        with self._timed():
            for x_H, y_R in zip(self._mirrors, self._carried.rows(), strict=True):
                x_H.index_copy_(0, _index(self._route.mirror_R, x_H.device), y_R)


def _bytes_of(rows: Tensor) -> NDArray[np.uint8]:
    width = rows.element_size() * math.prod(rows.shape[1:])
    flat = rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().reshape(rows.shape[0], width)


def _tensor_of(block: NDArray[np.uint8], like: Tensor) -> Tensor:
    flat = torch.from_numpy(np.ascontiguousarray(block).reshape(-1))
    return flat.view(like.dtype).reshape(block.shape[0], *like.shape[1:]).to(like.device)


def _index(rows_X: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(rows_X).to(device)


class _Sync(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        channel: Channel,
        route: Route,
        stage: Stage,
        arrivals: list[Arrival],
        token: Tensor,
        *fields: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.channel, ctx.route, ctx.stage = channel, route, stage
        num_masters, num_mirrors, device = route.num_masters, route.num_mirrors, fields[0].device
        with channel.stages.timed("forward", stage):
            master_S = _index(route.master_S, device)
            carried = channel.start(
                [x_M.index_select(0, master_S) for x_M in fields],
                route,
                to_mirrors=True,
                direction="forward",
                stage=stage,
                needs_grad=ctx.needs_input_grad[5:],
            )
            out = []
            for x_M in fields:
                x_L = x_M.new_empty((num_masters + num_mirrors, *x_M.shape[1:]))
                x_L[:num_masters] = x_M
                if len(route.mirror_R) < num_mirrors:  # what no edge reads is still a number
                    x_L[num_masters:].zero_()
                out.append(x_L)
        # Or the kernels behind it would differentiate, and send back, what nobody asked for.
        ctx.mark_non_differentiable(
            *(x_L for x_L, need in zip(out, ctx.needs_input_grad[5:], strict=True) if not need)
        )
        timed = partial(channel.stages.timed, "forward", stage)
        arrivals.append(Arrival(carried, out, route, timed))
        return token.clone(), *out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_token: Tensor, *grads: Tensor) -> tuple[Any, ...]:
        channel, route, stage = ctx.channel, ctx.route, ctx.stage
        num_masters = route.num_masters
        needs = ctx.needs_input_grad[5:]
        wanted = [g_L for g_L, need in zip(grads, needs, strict=True) if need]
        merged = []
        if wanted:
            device = wanted[0].device
            with channel.stages.timed("backward", stage):
                master_S, mirror_R = _index(route.master_S, device), _index(route.mirror_R, device)
                arrived = channel.carry(
                    [g_L[num_masters:].index_select(0, mirror_R) for g_L in wanted],
                    route,
                    to_mirrors=False,
                    direction="backward",
                    stage=stage,
                )
                merged = [
                    g_L[:num_masters].clone().index_add_(0, master_S, y_S)
                    for g_L, y_S in zip(wanted, arrived, strict=True)
                ]
        return None, None, None, None, grad_token, *_fill(merged, needs)


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


def sync(
    fields: Sequence[Tensor], token: Tensor, channel: Channel, route: Route, layer: int
) -> tuple[Tensor, list[Tensor]]:
    """Send master rows to their mirrors, and wait for them; as `start_sync`."""
    token, out, arrivals = start_sync(fields, token, channel, route, layer)
    for arrival in arrivals:
        arrival.finish()
    return token, out


def start_sync(
    fields: Sequence[Tensor], token: Tensor, channel: Channel, route: Route, layer: int
) -> tuple[Tensor, list[Tensor], list[Arrival]]:
    """Start to send master rows to their mirrors.

    Shape:
        fields: (M, ...) each, of the route's masters. Returns (M + H, ...) each: masters, then the
        route's mirrors; one that no peer sends to holds zeros.

    Returns:
        The token to hand on, the replicas of each field, and what fills in the mirrors' rows: none
        of those may be read before.

    Communication:
        One message a plan peer. Backward sends the cotangents the other way.
    """
    return _start(fields, token, channel, route, Stage("sync", layer))


def bring(
    rows: Tensor, token: Tensor, channel: Channel, route: Route, stage: Stage
) -> tuple[Tensor, Tensor]:
    """Send master rows along a route of nobody's layer, and wait for them; as `start_sync`.

    Shape:
        rows: (M, ...). Returns the token to hand on, and (M + H, ...).
    """
    token, (replicas,), arrivals = _start([rows], token, channel, route, stage)
    for arrival in arrivals:
        arrival.finish()
    return token, replicas


def _start(
    fields: Sequence[Tensor], token: Tensor, channel: Channel, route: Route, stage: Stage
) -> tuple[Tensor, list[Tensor], list[Arrival]]:
    if channel.comm.size == 1 or not fields:
        return token, list(fields), []
    arrivals: list[Arrival] = []
    token, *out = _Sync.apply(channel, route, stage, arrivals, token, *fields)  # type: ignore[no-untyped-call]
    return token, out, arrivals


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
        One message a plan peer. Backward returns the cotangents of differentiable fields only.
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
