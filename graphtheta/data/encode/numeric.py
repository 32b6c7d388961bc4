"""Encoders of numbers, booleans and durations.

A missing number, which is a null or NaN, gets the mean of the encoded training rows. If some
training row has none, a second column is 1 where the number is missing, and 0 elsewhere.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.encode.cast import cast_exactly, entries_of, lists_of
from graphtheta.data.encode.encoder import Encoder
from graphtheta.data.encode.statistics import Moments, differences, raw
from graphtheta.data.schema import (
    as_numpy,
    check_finite,
    is_list,
    is_number,
    no_nulls,
    no_nulls_inside,
    plain_type,
    refuse,
)
from graphtheta.data.sparse import SparseMatrix, is_pairs, is_sparse
from graphtheta.wording import number_text, rows_text

__all__ = [
    "Log",
    "MinMax",
    "Number",
    "Numeric",
    "Scaled",
    "Standard",
    "is_numeric",
    "is_vector",
    "known_values",
    "need_values",
    "refuse_infinite",
    "with_missing",
]


def is_numeric(kind: pa.DataType) -> bool:
    """Return whether values of a type are numbers, booleans, durations or times of day."""
    return (
        is_number(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_duration(kind)
        or pa.types.is_time(kind)
    )


def known_values(array: pa.Array, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which values are neither a null nor NaN."""
    known = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), np.bool_)
    return known & array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else known


def with_missing(values: NDArray[Any], known: NDArray[np.bool_], missing: bool) -> NDArray[Any]:
    """Return values as the first column, and with `missing` which are not known as the second."""
    return np.stack([values, ~known], axis=1) if missing else values[:, None]


def need_values(found: Moments, where: str) -> None:
    """Raise a GraphFormatError if no training row has a value; a table may have no row at all."""
    if found.low is None and found.rows:
        raise refuse(
            where,
            "a value in some training rows",
            "only missing ones",
            "Leave the column out.",
        )


class Numeric(Encoder):
    """Base of encoders of numbers.

    Attributes:
        missing: Whether a second column marks missing numbers.
    """

    takes: ClassVar[str] = "numbers, booleans or durations"
    missing: bool = False

    def accepts(self, kind: pa.DataType) -> bool:
        return is_numeric(kind)

    def statistics(self) -> Moments:
        return Moments()

    def features(self, column: str) -> tuple[str, ...]:
        return (column, f"{column}=missing") if self.missing else (column,)


class Number(Numeric):
    """Numbers as they are; lists of numbers of one length, too, if no number is missing.

    Attributes:
        length: Length of the lists; None for numbers.
        mean: Mean of the training rows.
    """

    name: ClassVar[str] = "number"
    length: int | None = None
    mean: float | None = None

    @property
    def taken(self) -> str:
        return self.takes if self.length is None else f"lists of {self.length:,} numbers"

    def accepts(self, kind: pa.DataType) -> bool:
        if self.length is None:
            return is_numeric(kind)
        if is_sparse(kind):
            return bool(kind.width == self.length)
        return is_pairs(kind) or (is_list(kind) and is_numeric(plain_type(kind.value_type)))

    def fit(self, found: Moments, kind: pa.DataType, where: str) -> Self:
        need_values(found, where)
        mean = float(found.origin or 0) + found.moments()[0]
        return self.model_copy(update={"mean": mean, "missing": found.missing > 0})

    def features(self, column: str) -> tuple[str, ...]:
        if self.length is None:
            return super().features(column)
        return tuple(f"{column}[{position}]" for position in range(self.length))

    @property
    def width(self) -> int:
        return 1 + self.missing if self.length is None else self.length

    def encode(
        self, array: pa.Array, value: pa.DataType, where: str, first_row: int
    ) -> NDArray[Any] | SparseMatrix:
        if is_pairs(array.type) or is_sparse(array.type):
            return entries_of(array, value, self.width, where, first_row)
        if self.length is not None:
            rows = lists_of(array, pa.list_(value, self.length), where, first_row)
            no_nulls(rows, where, first_row)
            no_nulls_inside(rows, where, first_row)
            check_finite(rows, where, first_row)
            return as_numpy(rows)
        if pa.types.is_temporal(array.type):
            array = pa.array(raw(array), mask=array.is_null().to_numpy(zero_copy_only=False))
        numbers = cast_exactly(array, value, where, first_row)
        values = as_numpy(numbers)
        known = known_values(numbers, values)
        if not known.all():
            values = np.where(known, values, float(self.mean or 0)).astype(values.dtype)
        check_finite(pa.array(values), where, first_row)
        return with_missing(values, known, self.missing)

    def differs(self, other: Encoder) -> bool:
        # The mean replaces missing numbers only.
        return not isinstance(other, Number) or (self.missing, self.length) != (
            other.missing,
            other.length,
        )

    def summary(self) -> str:
        return "as it is" if self.length is None else f"{self.length:,} numbers as they are"


def is_vector(encoder: Encoder, kind: pa.DataType) -> bool:
    """Return whether an encoder keeps lists of numbers, of a type of column, as they are."""
    is_number = isinstance(encoder, Number) and encoder.length is not None
    return is_number and is_list(kind) and not is_pairs(kind)


class Scaled(Numeric):
    """Base of encoders that subtract a number and divide by another one.

    Attributes:
        origin: A value of the column; differences to it are computed without loss of digits.
        mean: Subtracted from the difference to the origin.
        scale: What the rest is divided by.
    """

    origin: int | float | None = None
    mean: float = 0.0
    scale: float = 1.0

    def fit(self, found: Moments, kind: pa.DataType, where: str) -> Self:
        need_values(found, where)
        mean, deviation = found.moments()
        if not np.isfinite([mean, deviation]).all():
            raise refuse(
                where,
                "numbers whose variance float64 holds",
                f"{number_text(found.low or 0)} to {number_text(found.high or 0)}",
                "Scale them.",
            )
        update = {"origin": found.origin or 0, "mean": mean, "scale": deviation or 1.0}
        return self.model_copy(update={**update, "missing": found.missing > 0})

    def encode(
        self, array: pa.Array, value: pa.DataType, where: str, first_row: int
    ) -> NDArray[Any]:
        values = raw(array)
        known = known_values(array, values)
        refuse_infinite(values, where, first_row)
        return with_missing(np.where(known, self.scaled(values), self.filled), known, self.missing)

    def scaled(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the encoded values."""
        assert self.origin is not None, "a fitted encoder"
        return (differences(values, self.origin) - self.mean) / self.scale

    @property
    def filled(self) -> float:
        """Value of missing numbers."""
        return 0.0

    @property
    def centre(self) -> float:
        """What is subtracted from a number."""
        return float(self.origin or 0) + self.mean


class Standard(Scaled):
    """Numbers minus their mean, divided by their standard deviation."""

    name: ClassVar[str] = "standard"

    def summary(self) -> str:
        return f"mean {self.centre:g}, standard deviation {self.scale:g}"


class MinMax(Scaled):
    """Numbers from 0, the smallest one of the training rows, to 1, the largest one.

    Numbers outside of that range, in other rows, become less than 0 or more than 1.

    Attributes:
        filler: Value of missing numbers: the mean of the encoded training rows.
    """

    name: ClassVar[str] = "minmax"
    filler: float = 0.0

    def fit(self, found: Moments, kind: pa.DataType, where: str) -> Self:
        need_values(found, where)
        low = found.low or 0
        span = float((found.high or 0) - low) or 1.0  # Python's integers do not overflow
        mean = float((found.origin or 0) - low) + found.moments()[0]
        update = {"origin": low, "scale": span, "filler": mean / span}
        return self.model_copy(update={**update, "missing": found.missing > 0})

    @property
    def filled(self) -> float:
        return self.filler

    def summary(self) -> str:
        low = self.origin or 0
        return f"{number_text(low)} to {number_text(low + self.scale)}"


def _signed_log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


class Log(Scaled):
    """Logarithm of 1 + x, as in `Standard`; of a negative number, minus that of its magnitude."""

    name: ClassVar[str] = "log"

    def statistics(self) -> Moments:
        return Moments(transform=_signed_log)

    def scaled(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return super().scaled(_signed_log(values.astype(np.float64)))

    def summary(self) -> str:
        return f"log(1 + x) of mean {self.centre:g}, standard deviation {self.scale:g}"


def refuse_infinite(values: NDArray[Any], where: str, first_row: int) -> None:
    """Raise a GraphFormatError that names the rows if numbers are infinite."""
    if values.dtype.kind == "f" and (rows := np.flatnonzero(np.isinf(values))).size:
        got = f"inf in {rows_text(first_row + rows)}"
        raise refuse(where, "finite numbers", got, "Correct them, or leave them empty.")
