"""Aggregators whose value is a function of means, such as the standard deviation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from graphtheta.tgar.aggregator_base import Aggregator, Tensors, widen

__all__ = ["Moments", "Std"]


class Moments(Aggregator):
    """Base of aggregators whose value is a function of means of functions of each message.

    Partial: the sum of each function in float64, and the number of messages. A subclass sets
    `num_differentiable` to the number of functions, and writes `functions` and `value`.
    """

    is_wide = True

    @abstractmethod
    def functions(self, message: Tensor) -> Sequence[Tensor]:
        """Return the functions of each message; differentiable.

        Shape:
            message: (e, ...) float64. Returns (e, ...) each.
        """

    @abstractmethod
    def value(self, means: Sequence[Tensor]) -> Tensor:
        """Return the value of each row from the means of the functions; differentiable.

        Rows without edges have means of 1 here; their value is not used.
        """

    def start(self, rows: int, outputs: Tensors) -> list[Tensor]:
        (message,) = outputs
        sums = [t.new_zeros((rows, *t.shape[1:])) for t in self.functions(message[:0].double())]
        return [*sums, message.new_zeros(rows, dtype=torch.int64)]

    def add(self, columns: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor) -> None:
        *sums, count = columns
        for column, term in zip(sums, self.functions(outputs[0].double()), strict=True):
            column.index_add_(0, row_e, term)
        count.index_add_(0, row_e, count.new_ones(()).expand(row_e.shape[0]))

    def terms(
        self, constants: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor
    ) -> list[Tensor]:
        return list(self.functions(outputs[0].double()))

    def merge(self, own: Tensors, received: Tensors, master_S: Tensor) -> list[Tensor]:
        return [a.index_add(0, master_S, b) for a, b in zip(own, received, strict=True)]

    def finish(self, columns: Tensors) -> Tensor:
        *sums, count = columns
        number = count.clamp(min=1)
        # Means of 1 where there are none: the gradient of a root is not finite at 0.
        means = [(s + widen(count == 0, s)) / widen(number, s) for s in sums]
        value = self.value(means)
        return torch.where(widen(count > 0, value), value, torch.zeros_like(value))


class Std(Moments):
    """The standard deviation of messages, per column; 0 up to sqrt(1e-5), as in PyG."""

    num_differentiable = 2
    _least: ClassVar[float] = 1e-5

    def functions(self, message: Tensor) -> Sequence[Tensor]:
        return message, message.square()

    def value(self, means: Sequence[Tensor]) -> Tensor:
        mean, of_squares = means
        variance = of_squares - mean.square()
        root = variance.clamp(min=self._least).sqrt()
        return root.masked_fill(variance <= self._least, 0)
