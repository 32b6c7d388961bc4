"""Exchanges between masters and mirrors that autograd differentiates.

`start_sync` sends master rows to their mirrors, and `to_master` sends mirror rows to their masters;
the backward of each is the transpose of the other. Every function takes and returns a 0-d *token*
that requires grad. It chains all exchanges of a step, so that one `backward(loss + token)` runs
their transposes in exactly the reverse order on every rank, even on a rank whose loss is constant
or whose output is not used.

Communication of each: rows of the route x bytes of a row, once forward, and once backward for the
fields that require grad. Nothing depends on the number of edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphtheta.comm.timers import Direction, Stage
from graphtheta.errors import ConfigError
from graphtheta.exchange.channel import Channel, as_index
from graphtheta.exchange.mirror_sync import MirrorSync
from graphtheta.exchange.plan import Route

__all__ = ["all_reduce_sum", "fetch", "need_token", "new_token", "start_sync", "to_master"]


def new_token(device: torch.device) -> Tensor:
    """Return the 0-d zero at which the chain of a step's exchanges begins."""
    return torch.zeros((), device=device, requires_grad=True)


def need_token(gradient: Tensor | None) -> None:
    """Raise a ConfigError if a token has no gradient: backward was called without it.

    Args:
        gradient: Gradient of the token, which is 0 in the backward of an exchange if there is none.
    """
    # On a GPU the value would have to be waited for.
    if gradient is None or (gradient.device.type == "cpu" and gradient.item() == 0):
        raise ConfigError(
            "training loop: expected (loss + view.token).backward(), got a backward without "
            "view.token, which runs the exchanges between workers in the same order on all of "
            "them. Add the view's token to the loss."
        )


def start_sync(
    fields: Sequence[Tensor], token: Tensor, channel: Channel, route: Route, layer: int
) -> tuple[Tensor, list[Tensor], list[Tensor], list[MirrorSync]]:
    """Start to send master rows to their mirrors.

    The masters are not copied. For that, backward adds to the gradients of the returned fields in
    place: pass the fields to one Gather, and to nothing else.

    Shape:
        fields: (M, ...) each, of the route's masters. Returns the same, and (H, ...) each of the
        route's mirrors; a mirror that no peer sends to is zero.

    Returns:
        The next token, the masters and the mirrors of each field, and the syncs in flight. The
        mirrors must not be read before the syncs are finished.

    Communication:
        One message per field and plan peer. Backward sends the gradients the other way.
    """
    return _start_sync(fields, token, channel, route, Stage("sync", layer), owned=True)


def fetch(
    rows: Tensor, token: Tensor, channel: Channel, route: Route, stage: Stage
) -> tuple[Tensor, Tensor]:
    """Send master rows along a route that belongs to no layer, and wait for them.

    Shape:
        rows: (M, ...). Returns the next token, and (M + H, ...), for any use.
    """
    token, masters, mirrors, syncs = _start_sync([rows], token, channel, route, stage, owned=False)
    for sync in syncs:
        sync.finish()
    return token, torch.cat([*masters, *mirrors])


def to_master(
    fields: Sequence[Tensor], token: Tensor, channel: Channel, route: Route, layer: int
) -> tuple[Tensor, list[Tensor]]:
    """Send mirror rows to their masters.

    Shape:
        fields: (L, ...) each. Returns (S, ...) each: row n is from a mirror of the master
        `route.master_S[n]`, ordered by rank. The masters' own rows are not among them.

    Returns:
        The next token, and the received rows of each field.

    Communication:
        One message per field and plan peer. Backward returns the gradients of differentiable fields
        only.
    """
    token, *received = _ToMaster.apply(channel, route, Stage("merge", layer), token, *fields)  # type: ignore[no-untyped-call]
    return token, received


def all_reduce_sum(
    x: Tensor, token: Tensor, channel: Channel, stage: Stage
) -> tuple[Tensor, Tensor]:
    """Sum a tensor of equal shape over all ranks; backward sums its gradients over all ranks.

    Returns:
        The next token, and the sum.
    """
    if channel.comm.size == 1:
        return token, x
    token, total = _AllReduceSum.apply(channel, stage, token, x)  # type: ignore[no-untyped-call]
    return token, total


def _start_sync(
    fields: Sequence[Tensor],
    token: Tensor,
    channel: Channel,
    route: Route,
    stage: Stage,
    *,
    owned: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[MirrorSync]]:
    if channel.comm.size == 1 or not fields:
        return token, list(fields), [_new_mirrors(x_M, route) for x_M in fields], []
    syncs: list[MirrorSync] = []
    token, *out = _Sync.apply(channel, route, stage, owned, syncs, token, *fields)  # type: ignore[no-untyped-call]
    return token, out[: len(fields)], out[len(fields) :], syncs


def _new_mirrors(x_M: Tensor, route: Route) -> Tensor:
    """Return memory for the mirrors' rows: zeros where some of them are never received."""
    shape = (route.num_mirrors, *x_M.shape[1:])
    return x_M.new_zeros(shape) if len(route.mirror_R) < route.num_mirrors else x_M.new_empty(shape)


class _Sync(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        channel: Channel,
        route: Route,
        stage: Stage,
        owned: bool,
        syncs: list[MirrorSync],
        token: Tensor,
        *fields: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.channel, ctx.route, ctx.stage, ctx.owned = channel, route, stage, owned
        needs = ctx.needs_input_grad[6:]
        with channel.stages.timed("forward", stage):
            master_S = as_index(route.master_S, fields[0].device)
            mirrors = [_new_mirrors(x_M, route) for x_M in fields]
            sent = channel.acquire(len(master_S), fields)
            for x_M, x_S in zip(fields, sent.rows, strict=True):
                torch.index_select(x_M.detach(), 0, master_S, out=x_S)
            aliases = [x_H.data for x_H in mirrors]  # autograd must not see the later writes
            sync = MirrorSync(channel, sent, aliases, route, stage, needs)
        syncs.append(sync)
        ctx.gradient_return = sync.gradient_return
        # Otherwise kernels would compute, and send, gradients that no input requires.
        out, needed = [*fields, *mirrors], [*needs, *needs]
        ctx.mark_non_differentiable(*(x for x, need in zip(out, needed, strict=True) if not need))
        return token.clone(), *out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_token: Tensor, *grads: Tensor) -> tuple[Any, ...]:
        need_token(grad_token)
        channel, needs = ctx.channel, ctx.needs_input_grad[6:]
        of_masters, of_mirrors = (
            [g for g, need in zip(some, needs, strict=True) if need]
            for some in (grads[: len(needs)], grads[len(needs) :])
        )
        merged = []
        if of_masters:
            master_S = as_index(ctx.route.master_S, of_masters[0].device)
            with channel.stages.rest("backward", ctx.stage):
                received = ctx.gradient_return.rows(of_mirrors)
                merged = [
                    (g_M if ctx.owned else g_M.clone()).index_add_(0, master_S, g_S)
                    for g_M, g_S in zip(of_masters, received.rows, strict=True)
                ]
                channel.release(received)
        return None, None, None, None, None, grad_token, *_with_gaps(merged, needs)


class _ToMaster(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, channel: Channel, route: Route, stage: Stage, token: Tensor, *fields: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.channel, ctx.route, ctx.stage = channel, route, stage
        needs = ctx.needs_input_grad[4:]
        with channel.stages.timed("forward", stage):
            mirror_R = as_index(route.mirror_R, fields[0].device)
            received = channel.start(
                [x_L[route.num_masters :].index_select(0, mirror_R) for x_L in fields],
                route,
                to_mirrors=False,
                direction="forward",
                stage=stage,
                needs_grad=needs,
            ).wait()
        ctx.mark_non_differentiable(
            *(x_S for x_S, need in zip(received, needs, strict=True) if not need)
        )
        return token.clone(), *received

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_token: Tensor, *grads: Tensor) -> tuple[Any, ...]:
        need_token(grad_token)
        channel, route, stage = ctx.channel, ctx.route, ctx.stage
        needs = ctx.needs_input_grad[4:]
        needed = [g_S for g_S, need in zip(grads, needs, strict=True) if need]
        spread = []
        if needed:
            with channel.stages.timed("backward", stage):
                received = channel.start(
                    needed, route, to_mirrors=True, direction="backward", stage=stage
                ).wait()
                mirror_R = as_index(route.mirror_R, needed[0].device)
                for g_R in received:
                    g_L = g_R.new_zeros((route.num_masters + route.num_mirrors, *g_R.shape[1:]))
                    g_L[route.num_masters :].index_copy_(0, mirror_R, g_R)
                    spread.append(g_L)
        return None, None, None, grad_token, *_with_gaps(spread, needs)


def _with_gaps(grads: list[Tensor], needs: Sequence[bool]) -> list[Tensor | None]:
    """Return one gradient per field: None where none is needed."""
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
        need_token(grad_token)
        return None, None, grad_token, _all_reduced(ctx.channel, "backward", ctx.stage, grad)


def _all_reduced(
    channel: Channel, direction: Direction, stage: Stage, x: Tensor, needs_grad: Sequence[bool] = ()
) -> Tensor:
    with channel.stages.timed(direction, stage):
        text = channel.check(direction, stage, [x.unsqueeze(0)], needs_grad)
        total = x.detach().cpu().clone(memory_format=torch.contiguous_format)
        channel.comm.all_reduce(total.numpy(), stage=text)
        return total.to(x.device)
