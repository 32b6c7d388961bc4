"""Aggregators: the Sum stage, computed as partials that can be merged.

A partial is a few columns per destination row. Its *differentiable* columns are sums of per-edge
terms, so that the gradient of a term is the gradient of its row; the other columns (counts,
winners, maxima) are constants in backward. Workers that hold in-edges of the same node merge their
partials by `merge`, in rank order, with plain torch; `finish` turns the merged partial into the
message that `apply_node` gets. A row without edges gets 0.

`Moments` is the base of aggregators that need sums only; `check_aggregator` tests any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.tgar.aggregator_base import Aggregator, Tensors, widen
from graphtheta.tgar.moments import Moments, Std

__all__ = [
    "AGGREGATORS",
    "NO_EDGE",
    "Aggregator",
    "Max",
    "Mean",
    "Min",
    "Moments",
    "Several",
    "Softmax",
    "Std",
    "Sum",
    "aggregator",
    "single_aggregator",
]

NO_EDGE = torch.iinfo(torch.int64).max  # the winning edge key of a row without edges


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
        return total / widen(count.clamp(min=1), total)


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
        self._take_best(value, winner, row_e, message, widen(key_e, message))

    def _take_best(
        self, value: Tensor, winner: Tensor, row_x: Tensor, candidate: Tensor, key: Tensor
    ) -> None:
        """Update rows `row_x` by candidates that are better, in place; `key` broadcasts to them."""
        before = value.clone()
        index = widen(row_x, candidate).expand_as(candidate)
        value.scatter_reduce_(0, index, candidate, self._reduce)
        winner.masked_fill_(~_same(before, value), NO_EDGE)
        wins = _same(candidate, value.index_select(0, row_x))
        winner.scatter_reduce_(0, index, torch.where(wins, key, NO_EDGE), "amin")

    def terms(
        self, constants: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor
    ) -> list[Tensor]:
        (message,) = outputs
        won = constants[0].index_select(0, row_e) == widen(key_e, message)
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
        index = widen(row_e, score).expand_as(score)
        largest.scatter_reduce_(0, index, score, "amax")
        scale = _exp_of_difference(before, largest)
        total.mul_(scale)
        weighted.mul_(widen(scale, weighted))
        for column, term in zip(
            (total, weighted), self.terms([largest], row_e, outputs, key_e), strict=True
        ):
            column.index_add_(0, row_e, term)

    def terms(
        self, constants: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor
    ) -> list[Tensor]:
        score, message = outputs
        weight = _exp_of_difference(score, constants[0].index_select(0, row_e))
        return [weight, widen(weight, message) * message]

    def merge(self, own: Tensors, received: Tensors, master_S: Tensor) -> list[Tensor]:
        index = widen(master_S, own[2]).expand_as(received[2])
        largest = own[2].scatter_reduce(0, index, received[2], "amax")
        scale = _exp_of_difference(own[2], largest)
        scale_S = _exp_of_difference(received[2], largest.index_select(0, master_S))
        merged = [
            (a * widen(scale, a)).index_add(0, master_S, b * widen(scale_S, b))
            for a, b in zip(own[:2], received[:2], strict=True)
        ]
        return [*merged, largest]

    def finish(self, columns: Tensors) -> Tensor:
        total, weighted, _largest = columns
        safe = torch.where(total > 0, total, torch.ones_like(total))
        return weighted / widen(safe, weighted)


class Several(Aggregator):
    """The values of several aggregators of the same messages, side by side in the last dimension.

    Args:
        parts: Aggregators of messages without scores, or their names.

    Raises:
        ConfigError: If there are none, or one needs scores.
    """

    is_wide = True

    def __init__(self, *parts: str | Aggregator) -> None:
        self.parts = [aggregator(part) for part in parts]
        if not parts or any(part.scored for part in self.parts):
            raise ConfigError(
                "Several: expected aggregators without scores, got "
                f"{', '.join(map(str, parts)) or 'none'}. Choose among sum, mean, max, min and std."
            )
        self.num_differentiable = sum(part.num_differentiable for part in self.parts)
        self.picks = all(part.picks for part in self.parts)
        self.takes_copies = self.picks or not any(part.picks for part in self.parts)

    def __repr__(self) -> str:
        return f"Several({', '.join(map(repr, self.parts))})"

    def start(self, rows: int, outputs: Tensors) -> list[Tensor]:
        return self._joined([part.start(rows, outputs) for part in self.parts])

    def add(self, columns: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor) -> None:
        for part, own in self._split(columns, outputs):
            part.add(own, row_e, outputs, key_e)

    def terms(
        self, constants: Tensors, row_e: Tensor, outputs: Tensors, key_e: Tensor
    ) -> list[Tensor]:
        found, rest = [], list(constants)
        for part, number in zip(self.parts, self._constants(outputs), strict=True):
            found += part.terms(rest[:number], row_e, outputs, key_e)
            rest = rest[number:]
        return found

    def merge(self, own: Tensors, received: Tensors, master_S: Tensor) -> list[Tensor]:
        pairs = zip(self._split(own), self._split(received), strict=True)
        return self._joined([part.merge(a, b, master_S) for (part, a), (_, b) in pairs])

    def finish(self, columns: Tensors) -> Tensor:
        values = [part.finish(own) for part, own in self._split(columns)]
        narrow = min((value.dtype for value in values), key=lambda dtype: dtype.itemsize)
        return torch.cat([value.to(narrow) for value in values], -1)

    def _joined(self, partials: Sequence[Tensors]) -> list[Tensor]:
        """Return the columns of all parts: the differentiable ones come first."""
        pairs = list(zip(self.parts, partials, strict=True))
        first = [c for part, columns in pairs for c in columns[: part.num_differentiable]]
        return first + [c for part, columns in pairs for c in columns[part.num_differentiable :]]

    def _split(self, columns: Tensors, like: Tensors = ()) -> list[tuple[Aggregator, list[Tensor]]]:
        """Return the columns of each part."""
        terms, rest = list(columns[: self.num_differentiable]), columns[self.num_differentiable :]
        found, rest = [], list(rest)
        for part, number in zip(self.parts, self._constants(like or columns[:1]), strict=True):
            own = terms[: part.num_differentiable] + rest[:number]
            terms, rest = terms[part.num_differentiable :], rest[number:]
            found.append((part, own))
        return found

    def _constants(self, like: Tensors) -> list[int]:
        """Return the number of columns of each part that are not differentiable."""
        empty = [like[0].detach()[:0]]
        return [len(part.start(0, empty)) - part.num_differentiable for part in self.parts]


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
    "std": Std(),
}


def single_aggregator(given: str | Aggregator | Sequence[str | Aggregator]) -> str | Aggregator:
    """Return what `TGARLayer.aggregator` may be: several aggregators become one, "add" is "sum".

    Raises:
        ConfigError: If a name is unknown.
    """
    if not isinstance(given, str | Aggregator):
        return Several(*(single_aggregator(part) for part in given))
    name = "sum" if given == "add" else given
    aggregator(name)  # raises
    return name


def aggregator(name: str | Aggregator) -> Aggregator:
    """Return an aggregator by name, or itself.

    Raises:
        ConfigError: If the name is unknown.
    """
    if isinstance(name, Aggregator):
        return name
    need_name(name, AGGREGATORS, "aggregator")
    return AGGREGATORS[name]
