"""Aggregators: the Sum stage as mergeable partials.

An aggregator keeps a few columns a destination row. Its *differentiable* columns are plain sums
over edges of per-edge terms, so that a block of edges is differentiated by handing each edge the
cotangent of its row; the others (counts, winners, maxima) are constants of backward. Partials of
two workers that hold in-edges of one node merge by `merge`, plain torch on (own, arrived) rows in
rank order, and `finish` turns the merged partial into what `apply_node` gets. An empty row is 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

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

NO_EDGE = torch.iinfo(torch.int64).max  # the winner of a row without edges


class Aggregator(ABC):
    """How messages of a node become one value.

    Attributes:
        scored: Whether gather returns (score, message) instead of one message.
        num_differentiable: How many leading columns of the partial are sums of edge terms.
        counts: Whether the last column counts messages, which needs no message to be evaluated.
        picks: Whether one message of a row counts, so that a copy of its edge changes nothing.
    """

    scored: ClassVar[bool] = False
    num_differentiable: ClassVar[int] = 1
    counts: ClassVar[bool] = False
    picks: ClassVar[bool] = False

    @abstractmethod
    def start(self, rows: int, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the columns of `rows` empty rows, for edge values shaped like `outputs`."""

    @abstractmethod
    def add(
        self, columns: Sequence[Tensor], row_e: Tensor, outputs: Sequence[Tensor], key_e: Tensor
    ) -> None:
        """Add a block of edges, in place.

        Shape:
            columns: (r, ...) each, the rows this block reaches. row_e: (e,) int64 in [0, r).
            outputs: (e, ...) each, what gather returned. key_e: (e,) int64 edge keys.
        """

    @abstractmethod
    def terms(
        self, constants: Sequence[Tensor], row_e: Tensor, outputs: Sequence[Tensor], key_e: Tensor
    ) -> list[Tensor]:
        """Return, differentiably, the per-edge terms that the differentiable columns sum.

        Args:
            constants: The other columns of the rows this block reaches, complete.
            row_e: As in `add`, like `outputs` and `key_e`.
            outputs: What gather returned.
            key_e: Edge keys.
        """

    @abstractmethod
    def merge(
        self, own: Sequence[Tensor], arrived: Sequence[Tensor], master_S: Tensor
    ) -> list[Tensor]:
        """Merge partials that arrived for `master_S` into one's own, differentiably.

        Shape:
            own: (M, ...) each. arrived: (S, ...) each. master_S: (S,) int64 in [0, M).
        """

    @abstractmethod
    def finish(self, columns: Sequence[Tensor]) -> Tensor:
        """Return the aggregated message of each row; 0 where a row has no edge."""


class Sum(Aggregator):
    """The sum of messages. Partial: (sum,)."""

    def start(self, rows: int, outputs: Sequence[Tensor]) -> list[Tensor]:
        """See `Aggregator.start`."""
        (message,) = outputs
        return [message.new_zeros((rows, *message.shape[1:]))]

    def add(
        self, columns: Sequence[Tensor], row_e: Tensor, outputs: Sequence[Tensor], key_e: Tensor
    ) -> None:
        """See `Aggregator.add`."""
        columns[0].index_add_(0, row_e, outputs[0])

    def terms(
        self, constants: Sequence[Tensor], row_e: Tensor, outputs: Sequence[Tensor], key_e: Tensor
    ) -> list[Tensor]:
        """See `Aggregator.terms`."""
        return list(outputs)

    def merge(
        self, own: Sequence[Tensor], arrived: Sequence[Tensor], master_S: Tensor
    ) -> list[Tensor]:
        """See `Aggregator.merge`."""
        return [a.index_add(0, master_S, b) for a, b in zip(own, arrived, strict=True)]

    def finish(self, columns: Sequence[Tensor]) -> Tensor:
        """See `Aggregator.finish`."""
        return columns[0]


class Mean(Sum):
    """The mean of messages. Partial: (sum, count)."""

    counts = True

    def start(self, rows: int, outputs: Sequence[Tensor]) -> list[Tensor]:
        """See `Aggregator.start`."""
        # Whole numbers: float32 would stop counting at 2^24 in-edges.
        return [*super().start(rows, outputs), outputs[0].new_zeros(rows, dtype=torch.int64)]

    def add(
        self, columns: Sequence[Tensor], row_e: Tensor, outputs: Sequence[Tensor], key_e: Tensor
    ) -> None:
        """See `Aggregator.add`."""
        super().add(columns, row_e, outputs, key_e)
        columns[1].index_add_(0, row_e, columns[1].new_ones(()).expand(row_e.shape[0]))

    def finish(self, columns: Sequence[Tensor]) -> Tensor:
        """See `Aggregator.finish`."""
        total, count = columns
        return total / _widen(count.clamp(min=1), total)


class Max(Aggregator):
    """The largest message, column by column; ties go to the lowest edge_key.

    Partial: (value, edge_key of the winner). Not-a-number wins, as in torch.
    """

    picks = True
    _reduce: ClassVar[str] = "amax"
    _worst: ClassVar[float] = float("-inf")

    def start(self, rows: int, outputs: Sequence[Tensor]) -> list[Tensor]:
        """See `Aggregator.start`."""
        (message,) = outputs
        shape = (rows, *message.shape[1:])
        return [
            message.new_full(shape, self._worst),
            torch.full(shape, NO_EDGE, dtype=torch.int64, device=message.device),
        ]

    def add(
        self, columns: Sequence[Tensor], row_e: Tensor, outputs: Sequence[Tensor], key_e: Tensor
    ) -> None:
        """See `Aggregator.add`."""
        value, winner = columns
        (message,) = outputs
        self._take_best(value, winner, row_e, message, _widen(key_e, message))

    def _take_best(
        self, value: Tensor, winner: Tensor, row_x: Tensor, candidate: Tensor, key: Tensor
    ) -> None:
        """Let candidates contend for the rows `row_x`, in place; `key` broadcasts to them."""
        before = value.clone()
        index = _widen(row_x, candidate).expand_as(candidate)
        value.scatter_reduce_(0, index, candidate, self._reduce)
        winner.masked_fill_(~_same(before, value), NO_EDGE)
        wins = _same(candidate, value.index_select(0, row_x))
        winner.scatter_reduce_(0, index, torch.where(wins, key, NO_EDGE), "amin")

    def terms(
        self, constants: Sequence[Tensor], row_e: Tensor, outputs: Sequence[Tensor], key_e: Tensor
    ) -> list[Tensor]:
        """See `Aggregator.terms`."""
        (message,) = outputs
        won = constants[0].index_select(0, row_e) == _widen(key_e, message)
        return [torch.where(won, message, torch.zeros_like(message))]

    def merge(
        self, own: Sequence[Tensor], arrived: Sequence[Tensor], master_S: Tensor
    ) -> list[Tensor]:
        """See `Aggregator.merge`."""
        value, winner = own[0].detach().clone(), own[1].clone()
        self._take_best(value, winner, master_S, arrived[0].detach(), arrived[1])
        mine = own[1] == winner
        theirs = arrived[1] == winner.index_select(0, master_S)
        # Exactly one candidate holds the winning key; where there is no edge at all nobody
        # matters, for `finish` puts 0 there.
        merged = torch.where(mine, own[0], torch.zeros_like(own[0])).index_add(
            0, master_S, torch.where(theirs, arrived[0], torch.zeros_like(arrived[0]))
        )
        return [merged, winner]

    def finish(self, columns: Sequence[Tensor]) -> Tensor:
        """See `Aggregator.finish`."""
        value, winner = columns
        return torch.where(winner == NO_EDGE, torch.zeros_like(value), value)


class Min(Max):
    """The smallest message, column by column; ties go to the lowest edge_key."""

    _reduce = "amin"
    _worst = float("inf")


class Softmax(Aggregator):
    """The softmax-weighted sum of messages, weights from scores.

    Partial: (sum of exp, weighted sum, maximum); the maximum is a constant of backward. A score
    has the message's shape or lacks its last dimension (one weight a head).
    """

    scored = True
    num_differentiable = 2

    def start(self, rows: int, outputs: Sequence[Tensor]) -> list[Tensor]:
        """See `Aggregator.start`."""
        score, message = outputs
        if score.shape[1:] not in (message.shape[1:], message.shape[1:-1]):
            raise ConfigError(
                f"softmax: a score must have the message's shape {tuple(message.shape[1:])} or "
                f"lack its last dimension, got {tuple(score.shape[1:])}."
            )
        return [
            score.new_zeros((rows, *score.shape[1:])),
            message.new_zeros((rows, *message.shape[1:])),
            score.new_full((rows, *score.shape[1:]), float("-inf")),
        ]

    def add(
        self, columns: Sequence[Tensor], row_e: Tensor, outputs: Sequence[Tensor], key_e: Tensor
    ) -> None:
        """See `Aggregator.add`."""
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
        self, constants: Sequence[Tensor], row_e: Tensor, outputs: Sequence[Tensor], key_e: Tensor
    ) -> list[Tensor]:
        """See `Aggregator.terms`."""
        score, message = outputs
        weight = _exp_of_difference(score, constants[0].index_select(0, row_e))
        return [weight, _widen(weight, message) * message]

    def merge(
        self, own: Sequence[Tensor], arrived: Sequence[Tensor], master_S: Tensor
    ) -> list[Tensor]:
        """See `Aggregator.merge`."""
        index = _widen(master_S, own[2]).expand_as(arrived[2])
        largest = own[2].scatter_reduce(0, index, arrived[2], "amax")
        scale = _exp_of_difference(own[2], largest)
        scale_S = _exp_of_difference(arrived[2], largest.index_select(0, master_S))
        merged = [
            (a * _widen(scale, a)).index_add(0, master_S, b * _widen(scale_S, b))
            for a, b in zip(own[:2], arrived[:2], strict=True)
        ]
        return [*merged, largest]

    def finish(self, columns: Sequence[Tensor]) -> Tensor:
        """See `Aggregator.finish`."""
        total, weighted, _largest = columns
        safe = torch.where(total > 0, total, torch.ones_like(total))
        return weighted / _widen(safe, weighted)


def _widen(x: Tensor, like: Tensor) -> Tensor:
    """Append dimensions of size one until `x` broadcasts against `like` from the left."""
    return x.reshape(*x.shape, *(1,) * (like.dim() - x.dim()))


def _same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan()) if a.is_floating_point() else a == b


def _exp_of_difference(a: Tensor, b: Tensor) -> Tensor:
    # exp(-inf - -inf) is 0 here: nothing was there yet. A row masked out whole stays 0.
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
        ConfigError: If there is none of that name.
    """
    if name not in AGGREGATORS:
        raise ConfigError(f"aggregator: unknown '{name}'; choose one of {sorted(AGGREGATORS)}.")
    return AGGREGATORS[name]
