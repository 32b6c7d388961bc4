"""Syncs in flight: master rows on their way to mirrors, and gradients of mirrors on their way back.

A worker computes on its own rows between `start` and `finish`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from graphtheta.comm.timers import Stage
from graphtheta.exchange.channel import Channel, Lease, PendingRows, as_index
from graphtheta.exchange.plan import Route

__all__ = ["GradientReturn", "MirrorSync"]


class MirrorSync:
    """Sync in flight: rows of masters are being received by their mirrors.

    Args:
        channel: Exchanges between the workers.
        sent: Rows that this worker sends, in memory of the channel.
        mirrors: (H, ...) each, where received rows are written; not tracked by autograd.
        route: Which rows go to which peer.
        stage: Stage under which waiting in `finish` is counted.
        needs_grad: Which fields are differentiated, for `Channel.start`.

    Attributes:
        route: The same route.
        gradient_return: The exchange of backward.
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
        self.gradient_return = GradientReturn(channel, route, stage)
        self._pending = channel.start(
            sent.rows,
            route,
            to_mirrors=True,
            direction="forward",
            stage=stage,
            needs_grad=needs_grad,
            into=mirrors if route.covers_mirrors else None,
        )

    def progress(self) -> None:
        """Let the communicator move bytes; never blocks."""
        self._pending.progress()

    def finish(self) -> None:
        """Wait for the rows, and write them to the mirrors."""
        with self._channel.stages.timed("forward", self._stage):
            received = self._pending.wait()
            if not self.route.covers_mirrors:
                mirror_R = as_index(self.route.mirror_R, received[0].device)
                for x_H, y_R in zip(self._mirrors, received, strict=True):
                    x_H.index_copy_(0, mirror_R, y_R)
            self._channel.release(self._sent)


class GradientReturn:
    """Exchange that sends the gradients of mirrors to their masters, in the backward of a sync.

    The kernel that computes them may call `start` before the gradients of masters are complete;
    otherwise the backward of the sync does.
    """

    def __init__(self, channel: Channel, route: Route, stage: Stage) -> None:
        self._channel, self._route, self._stage = channel, route, stage
        self._pending: PendingRows | None = None
        self._received: Lease | None = None

    def start(self, gradients: Sequence[Tensor]) -> None:
        """Start to send the gradients of all fields that require grad: (H, ...) each."""
        channel, route = self._channel, self._route
        with channel.stages.timed("backward", self._stage):
            rows = gradients
            if not route.covers_mirrors:
                mirror_R = as_index(route.mirror_R, gradients[0].device)
                rows = [g_H.index_select(0, mirror_R) for g_H in gradients]
            self._received = channel.acquire(len(route.master_S), gradients)
            self._pending = channel.start(
                rows,
                route,
                to_mirrors=False,
                direction="backward",
                stage=self._stage,
                into=self._received.rows,
            )

    def progress(self) -> None:
        """Let the communicator move bytes; never blocks."""
        if self._pending is not None:
            self._pending.progress()

    def rows(self, gradients: Sequence[Tensor]) -> Lease:
        """Wait for the gradients sent by other workers: (S, ...) each; the caller releases them.

        Args:
            gradients: Gradients of the mirrors held here, sent if `start` has not been called.
        """
        if self._pending is None:
            self.start(gradients)
        assert self._pending is not None
        assert self._received is not None
        pending, self._pending = self._pending, None
        pending.wait()
        return self._received
