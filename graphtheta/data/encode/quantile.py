"""Encoder of numbers by their rank among the training rows, which outliers do not disturb."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from graphtheta.data.encode.numeric import (
    Numeric,
    known_values,
    need_values,
    refuse_infinite,
    with_missing,
)
from graphtheta.data.encode.statistics import Moments, differences, raw
from graphtheta.rng.philox import Purpose, hash_keys
from graphtheta.wording import counted, number_text

__all__ = ["Quantile"]

_SAMPLE = 1 << 18  # values of training rows that quantiles are computed from


class Quantile(Numeric):
    """Share of the training rows with a smaller number: from 0, the smallest one, to 1.

    Between two quantiles it is linear. Where many rows have the same number, it is the mean of the
    shares of those with a smaller number, and with that one or a smaller one. Numbers outside of
    the range of the training rows are 0 or 1, and missing ones 0.5.

    Of more than 262,144 training rows, a sample of so many is taken, by a hash of their number.

    Attributes:
        parts: Number of quantiles, in addition to the smallest number.
        origin: Smallest number of the training rows.
        quantiles: The smallest number and the quantiles, minus the origin.
    """

    name: ClassVar[str] = "quantile"
    parts: int = Field(default=100, ge=1, le=10_000)
    origin: int | float | None = None
    quantiles: tuple[float, ...] = ()

    def __init__(self, parts: int = 100, **fitted: Any) -> None:
        super().__init__(**{"parts": parts, **fitted})

    @classmethod
    def of(cls, arguments: list[str]) -> Self:
        if len(arguments) > 1:
            raise ValueError("at most 1 number")
        return cls(*map(int, arguments))

    def statistics(self) -> Moments:
        return _Sample()

    def fit(self, found: _Sample, kind: pa.DataType, where: str) -> Self:
        need_values(found, where)
        origin = found.low or 0
        values = differences(found.values(), origin) if found.low is not None else np.zeros(1)
        quantiles = np.quantile(values, np.linspace(0, 1, self.parts + 1))
        quantiles = np.maximum.accumulate(quantiles)  # rounding may make one smaller than the last
        update = {"origin": origin, "quantiles": tuple(quantiles.tolist())}
        return self.model_copy(update={**update, "missing": found.missing > 0})

    def encode(
        self, array: pa.Array, value: pa.DataType, where: str, first_row: int
    ) -> NDArray[Any]:
        assert self.origin is not None, "a fitted encoder"
        values = raw(array)
        known = known_values(array, values)
        refuse_infinite(values, where, first_row)
        x, at = differences(values, self.origin), np.array(self.quantiles)
        shares = np.linspace(0, 1, len(at))
        # From both sides, since a number may be several quantiles.
        from_below = np.interp(x, at, shares)
        from_above = 1 - np.interp(-x, -at[::-1], shares)
        encoded = np.where(known, (from_below + from_above) / 2, 0.5)
        return with_missing(encoded, known, self.missing)

    def summary(self) -> str:
        low = self.origin or 0
        high = low + self.quantiles[-1] if self.quantiles else low
        return f"{counted(self.parts, 'part')} of {number_text(low)} to {number_text(high)}"


@dataclass(slots=True)
class _Sample(Moments):
    """Sample of numbers in bounded memory, which does not depend on the chunks of the rows.

    A value is in it if the hash of its number among the values is one of the smallest.
    """

    _values: list[NDArray[Any]] = field(default_factory=list)
    _hashes: list[NDArray[np.uint64]] = field(default_factory=list)
    _seen: int = 0
    _kept: int = 0

    def update(self, array: pa.Array) -> None:
        Moments.update(self, array)
        values = raw(array)
        known = known_values(array, values)
        known &= np.isfinite(values) if values.dtype.kind == "f" else True
        values = values[known]
        numbers = np.arange(self._seen, self._seen + len(values))
        self._seen += len(values)
        self._values.append(values)
        self._hashes.append(hash_keys(numbers, 0, Purpose.SAMPLE))
        self._kept += len(values)
        if self._kept > 2 * _SAMPLE:
            self._reduce()

    def _reduce(self) -> None:
        values, hashes = np.concatenate(self._values), np.concatenate(self._hashes)
        if len(hashes) > _SAMPLE:
            smallest = np.argpartition(hashes, _SAMPLE)[:_SAMPLE]
            values, hashes = values[smallest], hashes[smallest]
        self._values, self._hashes, self._kept = [values], [hashes], len(values)

    def values(self) -> NDArray[Any]:
        """Return the sample."""
        self._reduce()
        return self._values[0]
