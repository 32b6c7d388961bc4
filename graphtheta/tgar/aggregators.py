"""Aggregators: the Sum stage, computed as partials that can be merged.

A partial is a few columns per destination row. Its *differentiable* columns are sums of per-edge
terms, so that the gradient of a term is the gradient of its row; the other columns (counts,
winners, maxima) are constants in backward. Workers that hold in-edges of the same node merge their
partials by `merge`, in rank order, with plain torch; `finish` turns the merged partial into the
message that `apply_node` gets. A row without edges gets 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError

__all__ = [
    "AGGREGATORS",
    "NO_EDGE",
    "Aggregator",
    "Max",
    "Mean",
    "Min",
    "Softmax",
    "Sum",
    "aggregator",
]

Tensors = Sequence[Tensor]
NO_EDGE = torch.iinfo(torch.int64).max  # the winning edge key of a row without edges


class Aggregator(ABC):
    """Reduction of the messages that a node receives to one value.

    Attributes:
        scored: Whether gather returns (score, message) instead of a message.
        num_differentiable: Number of leading columns of the partial that are sums of edge terms.
        counts: Whether the last column is the number of messages, known without evaluating any.
        picks: Whether the value is that of one message, so that repeating an edge changes nothing.
    """

    scored: ClassVar[bool] = False
    num_differentiable: ClassVar[int] = 1
    counts: ClassVar[bool] = False
    picks: ClassVar[bool] = False

    @abstractmethod
    def start(self, rows: int, outputs: Tensors) -> list[Tensor]:
        """Return the columns of a partial of `rows` rows without edges.

        Args:
            rows: Number of rows.
            outputs: Values with the dtypes and trailing shapes of what gather returns.

        Raises:
            ConfigError: If the shapes do not fit the aggregator.
        """

    @abstractmethod
    def add(self, columns: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor) -> None:
        """Add a chunk of edges to a partial, in place.

        Shape:
            columns: (r, ...) each, the rows of the chunk. row_e: (e,) int64 in [0, r).
            outputs: (e, ...) each, what gather returned. key_e: (e,) int64 edge keys.
        """

    @abstractmethod
    def terms(
        self, constants: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor
    ) -> list[Tensor]:
        """Return the per-edge terms whose sums are the differentiable columns; differentiable.

        Args:
            constants: The other columns of the chunk's rows, over all edges.
            row_e: Row of each edge.
            outputs: What gather returned.
            key_e: Edge keys.
        """

    @abstractmethod
    def merge(self, own: Tensors, received: Tensors, master_S: Tensor) -> list[Tensor]:
        """Merge the partials received from mirrors into those of the masters; differentiable.

        Shape:
            own: (M, ...) each. received: (S, ...) each. master_S: (S,) int64 in [0, M), the master
            of each received row.
        """

    @abstractmethod
    def finish(self, columns: Tensors) -> Tensor:
        """Return the aggregated message of each row, 0 for a row without edges."""


class Sum(Aggregator):
    """The sum of messages. Partial: (sum,)."""

    def start(self, rows: int, outputs: Tensors) -> list[Tensor]:
        (message,) = outputs
        return [message.new_zeros((rows, *message.shape[1:]))]

    def add(self, columns: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor) -> None:
        columns[0].index_add_(0, row_e, outputs[0])

    def terms(
        self, constants: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor
    ) -> list[Tensor]:
        return list(outputs)

    def merge(self, own: Tensors, received: Tensors, master_S: Tensor) -> list[Tensor]:
        return [a.index_add(0, master_S, b) for a, b in zip(own, received, strict=True)]

    def finish(self, columns: Tensors) -> Tensor:
        return columns[0]


class Mean(Sum):
    """The mean of messages. Partial: (sum, count)."""

    counts = True

    def start(self, rows: int, outputs: Tensors) -> list[Tensor]:
        # Integers: float32 would stop counting at 2^24 in-edges.
        return [*super().start(rows, outputs), outputs[0].new_zeros(rows, dtype=torch.int64)]

    def add(self, columns: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor) -> None:
        super().add(columns, row_e, outputs, key_e)
        columns[1].index_add_(0, row_e, columns[1].new_ones(()).expand(row_e.shape[0]))

    def finish(self, columns: Tensors) -> Tensor:
        total, count = columns
        return total / _widen(count.clamp(min=1), total)


class Max(Aggregator):
    """The largest message, per column; ties go to the lowest edge_key.

    Partial: (value, edge_key of the winner). NaN wins, as in torch.
    """

    picks = True
    _reduce: ClassVar[str] = "amax"
    _worst: ClassVar[float] = float("-inf")

    def start(self, rows: int, outputs: Tensors) -> list[Tensor]:
        (message,) = outputs
        shape = (rows, *message.shape[1:])
        return [
            message.new_full(shape, self._worst),
            torch.full(shape, NO_EDGE, dtype=torch.int64, device=message.device),
        ]

    def add(self, columns: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor) -> None:
        value, winner = columns
        (message,) = outputs
        self._take_best(value, winner, row_e, message, _widen(key_e, message))

    def _take_best(
        self, value: Tensor, winner: Tensor, row_x: Tensor, candidate: Tensor, key: Tensor
    ) -> None:
        """Update rows `row_x` by candidates that are better, in place; `key` broadcasts to them."""
        before = value.clone()
        index = _widen(row_x, candidate).expand_as(candidate)
        value.scatter_reduce_(0, index, candidate, self._reduce)
        winner.masked_fill_(~_same(before, value), NO_EDGE)
        wins = _same(candidate, value.index_select(0, row_x))
        winner.scatter_reduce_(0, index, torch.where(wins, key, NO_EDGE), "amin")

    def terms(
        self, constants: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor
    ) -> list[Tensor]:
        (message,) = outputs
        won = constants[0].index_select(0, row_e) == _widen(key_e, message)
        return [torch.where(won, message, torch.zeros_like(message))]

    def merge(self, own: Tensors, received: Tensors, master_S: Tensor) -> list[Tensor]:
        value, winner = own[0].detach().clone(), own[1].clone()
        self._take_best(value, winner, master_S, received[0].detach(), received[1])
        mine = own[1] == winner
        theirs = received[1] == winner.index_select(0, master_S)
        # Exactly one candidate has the winning key, except in rows without edges, which `finish`
        # sets to 0.
        merged = torch.where(mine, own[0], torch.zeros_like(own[0])).index_add(
            0, master_S, torch.where(theirs, received[0], torch.zeros_like(received[0]))
        )
        return [merged, winner]

    def finish(self, columns: Tensors) -> Tensor:
        value, winner = columns
        return torch.where(winner == NO_EDGE, torch.zeros_like(value), value)


class Min(Max):
    """The smallest message, per column; ties go to the lowest edge_key."""

    _reduce = "amin"
    _worst = float("inf")


class Softmax(Aggregator):
    """The sum of messages weighted by the softmax of their scores.

    Partial: (sum of exp, weighted sum, maximum); the maximum is a constant in backward. A score has
    the message's shape, or that shape without its last dimension (one weight per head).
    """

    scored = True
    num_differentiable = 2

    def start(self, rows: int, outputs: Tensors) -> list[Tensor]:
        score, message = outputs
        if score.shape[1:] not in (message.shape[1:], message.shape[1:-1]):
            raise ConfigError(
                f"softmax: expected a score of the message's shape {tuple(message.shape[1:])}, or "
                f"of that shape without its last dimension, got {tuple(score.shape[1:])}. Return "
                "such a score from gather."
            )
        return [
            score.new_zeros((rows, *score.shape[1:])),
            message.new_zeros((rows, *message.shape[1:])),
            score.new_full((rows, *score.shape[1:]), float("-inf")),
        ]

    def add(self, columns: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor) -> None:
        total, weighted, largest = columns
        score, _message = outputs
        before = largest.clone()
        index = _widen(row_e, score).expand_as(score)
        largest.scatter_reduce_(0, index, score, "amax")
        scale = _exp_of_difference(before, largest)
        total.mul_(scale)
        weighted.mul_(_widen(scale, weighted))
        for column, term in zip(
            (total, weighted), self.terms([largest], row_e, outputs, key_e), strict=True
        ):
            column.index_add_(0, row_e, term)

    def terms(
        self, constants: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor
    ) -> list[Tensor]:
        score, message = outputs
        weight = _exp_of_difference(score, constants[0].index_select(0, row_e))
        return [weight, _widen(weight, message) * message]

    def merge(self, own: Tensors, received: Tensors, master_S: Tensor) -> list[Tensor]:
        index = _widen(master_S, own[2]).expand_as(received[2])
        largest = own[2].scatter_reduce(0, index, received[2], "amax")
        scale = _exp_of_difference(own[2], largest)
        scale_S = _exp_of_difference(received[2], largest.index_select(0, master_S))
        merged = [
            (a * _widen(scale, a)).index_add(0, master_S, b * _widen(scale_S, b))
            for a, b in zip(own[:2], received[:2], strict=True)
        ]
        return [*merged, largest]

    def finish(self, columns: Tensors) -> Tensor:
        total, weighted, _largest = columns
        safe = torch.where(total > 0, total, torch.ones_like(total))
        return weighted / _widen(safe, weighted)


def _widen(x: Tensor, like: Tensor) -> Tensor:
    """Append dimensions of size one until `x` broadcasts against `like` from the left."""
    return x.reshape(*x.shape, *(1,) * (like.dim() - x.dim()))


def _same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan()) if a.is_floating_point() else a == b


def _exp_of_difference(a: Tensor, b: Tensor) -> Tensor:
    # exp(-inf - -inf) is 0 here: the row was empty. A row whose scores are all -inf stays 0.
    return (a - torch.where(b == float("-inf"), torch.zeros_like(b), b)).exp()


AGGREGATORS: dict[str, Aggregator] = {
    "sum": Sum(),
    "mean": Mean(),
    "max": Max(),
    "min": Min(),
    "softmax": Softmax(),
}


def aggregator(name: str) -> Aggregator:
    """Return an aggregator by name.

    Raises:
        ConfigError: If the name is unknown.
    """
    need_name(name, AGGREGATORS, "aggregator")
    return AGGREGATORS[name]
