"""Statistics of the training rows that encoders are fitted to, collected chunk by chunk.

Memory is bounded, and a result does not depend on how the rows are divided into chunks: numbers are
summed in blocks of a fixed number of values, and counts are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.schema import computable, is_list, plain_type

__all__ = ["MAX_DISTINCT", "Categories", "Moments", "Statistics", "as_texts", "differences", "raw"]

MAX_DISTINCT = 1 << 20  # different values that are counted
_BLOCK = 1 << 16  # values that are summed at a time
_EXACT = 2.0**62  # differences of integers below this fit int64


class Statistics(Protocol):
    """Statistics of one column over some of its rows.

    Attributes:
        rows: Number of rows.
        missing: Number of rows without a value.
    """

    rows: int
    missing: int

    def update(self, array: pa.Array) -> None:
        """Take further rows into account."""


def raw(array: pa.Array) -> NDArray[Any]:
    """Return numbers, booleans or times as (R,) int64, uint64 or float64; 0 at a null of integers.

    Integers and times keep all of their digits. Times are in their unit, dates in seconds. A null
    among floating-point numbers is NaN.
    """
    kind = array.type
    if pa.types.is_date(kind):
        array = array.cast(pa.timestamp("s"))
    if pa.types.is_temporal(kind):
        array = array.cast(pa.int32()) if pa.types.is_time32(kind) else array
        array, kind = array.cast(pa.int64()), pa.int64()
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        target = pa.uint64() if pa.types.is_uint64(kind) else pa.int64()
        return np.asarray(array.cast(target).fill_null(0).to_numpy(zero_copy_only=False))
    array = computable(array).cast(pa.float64())
    return np.asarray(array.to_numpy(zero_copy_only=False), np.float64)


def differences(values: NDArray[Any], origin: float) -> NDArray[np.float64]:
    """Return values minus the origin, as float64, without a loss of digits of large integers."""
    if values.dtype.kind == "f":
        return np.asarray(values - origin, np.float64)
    rounded = values.astype(np.float64) - float(origin)
    # The difference of two integers is exact modulo 2^64, and is then read as signed.
    exact = (values - np.array(int(origin), values.dtype)).view(np.int64).astype(np.float64)
    return np.where(np.abs(rounded) < _EXACT, exact, rounded)


@dataclass(slots=True)
class Moments:
    """Range, mean and variance of numbers or times. NaN and nulls are missing.

    The variance is that of Chan, Golub and LeVeque, "Algorithms for computing the sample variance"
    (1983), of blocks of values minus the first value.

    Attributes:
        transform: Function of the values, as float64. If None, the values themselves.
        rows: Number of rows.
        missing: Number of rows without a value.
        low: Smallest finite value. If None, there is none.
        high: Largest finite value.
        origin: First value, from which the mean is measured.
    """

    transform: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
    rows: int = 0
    missing: int = 0
    low: float | None = None
    high: float | None = None
    origin: float | None = None
    _pending: list[NDArray[np.float64]] = field(default_factory=list)
    _count: int = 0
    _mean: float = 0.0
    _squares: float = 0.0

    def update(self, array: pa.Array) -> None:
        values = raw(array)
        known = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), np.bool_)
        if array.null_count:
            known &= array.is_valid().to_numpy(zero_copy_only=False)
        self.rows += len(values)
        self.missing += len(values) - int(known.sum())
        if values.dtype.kind == "f":
            known &= np.isfinite(values)  # an infinite number is refused where it is encoded
        values = values[known]
        if not len(values):
            return
        low, high = values.min().item(), values.max().item()
        self.low = low if self.low is None else min(low, self.low)
        self.high = high if self.high is None else max(high, self.high)
        if self.transform is not None:
            values = self.transform(values.astype(np.float64))
        if self.origin is None:
            self.origin = values[0].item()
        self._pending.append(differences(values, self.origin))
        self._sum_blocks(_BLOCK)

    def moments(self) -> tuple[float, float]:
        """Return the mean of the values minus the origin, and their standard deviation."""
        self._sum_blocks(1)
        return self._mean, float(np.sqrt(self._squares / self._count)) if self._count else 0.0

    def _sum_blocks(self, least: int) -> None:
        waiting = sum(len(values) for values in self._pending)
        if waiting < least:
            return
        values, self._pending = np.concatenate(self._pending), []
        stop = len(values) - len(values) % _BLOCK if least == _BLOCK else len(values)
        for start in range(0, stop, _BLOCK):
            self._add(values[start : min(stop, start + _BLOCK)].copy())
        if stop < len(values):
            self._pending.append(values[stop:].copy())

    def _add(self, block: NDArray[np.float64]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # what uses them checks them
            mean = float(block.mean())
            squares = float(np.square(block - mean).sum())
        count, step = self._count + len(block), mean - self._mean
        self._squares += squares + step * step * self._count * len(block) / count
        self._mean += step * len(block) / count
        self._count = count


def as_texts(array: pa.Array) -> pa.Array:
    """Return values, or the values of lists, as texts: integers as `12`, booleans as `true`."""
    if is_list(array.type):
        array = array.flatten()
    if pa.types.is_dictionary(array.type):
        array = array.cast(plain_type(array.type))
    return array.cast(pa.string())


@dataclass(slots=True)
class Categories:
    """Number of rows of each value, of texts or of what is read as texts.

    Attributes:
        limit: Number of different values above which they are not counted any more.
        rows: Number of rows.
        missing: Number of rows without a value.
    """

    limit: int = MAX_DISTINCT
    rows: int = 0
    missing: int = 0
    _counts: pa.Table | None = field(
        default_factory=lambda: pa.table(
            {"value": pa.array([], pa.string()), "count": pa.array([], pa.int64())}
        )
    )

    @property
    def too_many(self) -> bool:
        """Whether there are more different values than the limit."""
        return self._counts is None

    def update(self, array: pa.Array) -> None:
        self.rows += len(array)
        self.missing += array.null_count
        if self._counts is None:
            return
        found = pc.value_counts(as_texts(array).drop_null())
        new = pa.table({"value": found.field("values"), "count": found.field("counts")})
        grouped = pa.concat_tables([self._counts, new]).group_by("value")
        joined = grouped.aggregate([("count", "sum")])
        counts = pa.table({"value": joined["value"], "count": joined["count_sum"]})
        self._counts = None if counts.num_rows > self.limit else counts.combine_chunks()

    def most_frequent(self, number: int | None = None) -> tuple[str, ...]:
        """Return the values, the most frequent first, and equally frequent ones in order.

        Args:
            number: How many to return. If None, all.
        """
        return tuple(self._ordered(number)["value"].to_pylist())

    def counts(self, number: int | None = None) -> tuple[int, ...]:
        """Return the numbers of rows of the values that `most_frequent` returns."""
        return tuple(self._ordered(number)["count"].to_pylist())

    def _ordered(self, number: int | None) -> pa.Table:
        assert self._counts is not None, "the caller has checked `too_many`"
        order = [("count", "descending"), ("value", "ascending")]
        return self._counts.sort_by(order).slice(0, number)
