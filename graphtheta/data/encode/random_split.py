"""Split that is drawn by a hash of ids, so that it needs no column of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.encode.text_hash import hash_texts
from graphtheta.errors import ConfigError
from graphtheta.rng.philox import Purpose, hash_keys

__all__ = ["RandomSplit", "is_random", "split_name"]

_PATTERN = re.compile(r"random\((.*)\)")


@dataclass(frozen=True, slots=True)
class RandomSplit:
    """Split into training, validation and test rows by a hash of their ids and a seed.

    A row with the same id has the same part in every table, whatever the order of the rows. The
    parts have about the requested sizes, because each row is drawn independently of the others.

    Attributes:
        train: Share of training rows.
        val: Share of validation rows; the other rows are for test.
        seed: Random seed.
    """

    train: float
    val: float
    seed: int = 0

    @classmethod
    def parse(cls, text: str, where: str) -> Self | None:
        """Return the split of a text such as `random(0.6,0.2)`; None if it is another one.

        Args:
            text: The text; a third number is the seed.
            where: Name of the table in messages.

        Raises:
            ConfigError: If the numbers are no shares.
        """
        if (match := _PATTERN.fullmatch(text)) is None:
            return None
        try:
            train, val, *seeds = (one.strip() for one in match[1].split(","))
            found = cls(float(train), float(val), *(int(seed) for seed in seeds))
            is_valid = min(found.train, found.val) >= 0 and found.train + found.val <= 1
            is_valid = is_valid and 0 <= found.seed < 1 << 63
        except (TypeError, ValueError):
            is_valid = False
        if not is_valid or not math.isfinite(found.train + found.val):
            raise ConfigError(
                f"{where}: expected the shares of training and validation, whose sum is at most 1, "
                f"and possibly a seed, such as random(0.6,0.2), got {text}. Correct it."
            )
        return found

    @property
    def summary(self) -> str:
        """How the split is drawn, for display."""
        test = 1 - self.train - self.val
        return f"drawn by ids: {self.train:.3g} train, {self.val:.3g} val, {abs(test):.3g} test"

    def draw(self, ids: Sequence[pa.Array]) -> NDArray[np.int8]:
        """Return the part of each row: 1 train, 2 validation, 3 test.

        Args:
            ids: The ids: one array, or those of sources and of destinations. An edge and its
                reverse have the same part.

        Shape:
            ids: arrays of R integers or texts, without nulls. Returns (R,).
        """
        key = np.zeros(len(ids[0]), np.uint64)
        for array in ids:
            key += hash_texts(array.cast(pa.string()))
        share = hash_keys(key.view(np.int64), self.seed, Purpose.SPLIT) / 2.0**64
        parts: NDArray[np.int8] = 3 - (share < self.train + self.val) - (share < self.train)
        return parts.astype(np.int8)


def is_random(text: str) -> bool:
    """Return whether a text is not the name of a column, but a split such as `random(0.6,0.2)`.

    It may be qualified by a node type or relation, as `paper.random(0.6,0.2)`.
    """
    return re.fullmatch(rf"(.+\.)?{_PATTERN.pattern}", text) is not None


def split_name(column: str) -> str:
    """Return the name of the split that a column becomes, or that is drawn."""
    return "split" if is_random(column) else column.removeprefix("split:")
