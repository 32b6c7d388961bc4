"""Interface of aggregators: the Sum stage, computed as partials that can be merged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

__all__ = ["Aggregator", "Tensors", "widen"]

Tensors = Sequence[Tensor]


class Aggregator(ABC):
    """Reduction of the messages that a node receives to one value.

    Attributes:
        scored: Whether gather returns (score, message) instead of a message.
        num_differentiable: Number of leading columns of the partial that are sums of edge terms.
        counts: Whether the last column is the number of messages, known without evaluating any.
        picks: Whether the value is that of one message, so that repeating an edge changes nothing.
        takes_copies: Whether one edge may occur several times, as in sampling with replacement.
        is_wide: Whether the value may have a wider dtype than the messages, to be cast to theirs.
    """

    scored: ClassVar[bool] = False
    num_differentiable: int = 1
    counts: ClassVar[bool] = False
    picks: bool = False
    takes_copies: bool = True
    is_wide: ClassVar[bool] = False

    def __repr__(self) -> str:
        return type(self).__name__

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


def widen(x: Tensor, like: Tensor) -> Tensor:
    """Append dimensions of size one until `x` broadcasts against `like` from the left."""
    return x.reshape(*x.shape, *(1,) * (like.dim() - x.dim()))
