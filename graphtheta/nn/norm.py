"""Batch normalisation over the nodes of all workers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphtheta.comm.timers import Stage
from graphtheta.exchange.autograd import all_reduce_sum
from graphtheta.tgar import LayerView, ViewModule

__all__ = ["BatchNorm"]


class BatchNorm(ViewModule):
    """Batch normalisation by mean and variance over all active nodes of all workers.

    Sums are computed in float64 and shifted by the running mean, which is the same on every worker,
    so that one pass suffices without cancellation. Parameters are named as in
    `torch.nn.BatchNorm1d`.

    Args:
        num_features: Number of columns (F).
        eps: Constant added to the variance.
        momentum: Weight of a batch's statistics in the running statistics.

    Shape:
        forward(view, x): x (M, F); returns (M, F).

    Communication:
        One all-reduce of 2 F + 1 float64 numbers forward, and one backward.

    Source:
        Ioffe, Szegedy, ICML 2015.
    """

    has_statistics = True

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, view: LayerView, x: Tensor) -> Tensor:
        """Normalise by the batch's statistics in training mode, else by the running ones."""
        if self.training:
            mean, variance = self._statistics(view, x)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x - mean) * scale + self.bias

    def _statistics(self, view: LayerView, x: Tensor) -> tuple[Tensor, Tensor]:
        # A copy: backward needs the shift, and the buffer changes below.
        shift = self.running_mean.clone()
        shifted = (x - shift).double()
        sums = torch.cat(
            [shifted.sum(0), shifted.square().sum(0), shifted.new_full((1,), shifted.shape[0])]
        )
        token, sums = all_reduce_sum(sums, view.view.token, view.channel, Stage("norm", view.layer))
        view.view.token = token
        columns = x.shape[1]
        count = sums[-1].detach().clamp(min=1)
        mean = sums[:columns] / count
        variance = (sums[columns:-1] / count - mean.square()).clamp(min=0)
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_((shift + mean).to(x.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(x.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        return (shift + mean).to(x.dtype), variance.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, momentum={self.momentum}"
