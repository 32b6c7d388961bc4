"""Batch normalisation over the nodes of all workers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphtheta.comm.timers import Stage
from graphtheta.exchange.autograd import all_reduce_sum
from graphtheta.tgar import LayerView

__all__ = ["BatchNorm"]


class BatchNorm(nn.Module):
    """Normalise each column by the mean and variance over all active nodes, masters only.

    Sums are float64 and shifted by the running mean, which is the same on every worker: one pass
    that does not cancel. Parameters are named as in `torch.nn.BatchNorm1d`.

    Args:
        num_features: Columns (F).
        eps: Added to the variance.
        momentum: Weight of the new statistics in the running ones.

    Shape:
        forward(view, x): x (M, F); returns (M, F).

    Communication:
        One all-reduce of 2 F + 1 float64 forward, and one backward.

    Source:
        Ioffe, Szegedy, ICML 2015.
    """

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
        """Normalise by this batch's statistics while training, by the running ones otherwise."""
        if self.training:
            mean, variance = self._statistics(view, x)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x - mean) * scale + self.bias

    def _statistics(self, view: LayerView, x: Tensor) -> tuple[Tensor, Tensor]:
        # A copy: the buffer changes below, while backward still needs the shift.
        shift = self.running_mean.clone()
        shifted = (x - shift).double()
        sums = torch.cat(
            [
                shifted.sum(0),
                shifted.square().sum(0),
                shifted.new_full((1,), shifted.shape[0]),
            ]
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
        """Return what `print(model)` shows."""
        return f"{self.weight.shape[0]}, eps={self.eps}, momentum={self.momentum}"
