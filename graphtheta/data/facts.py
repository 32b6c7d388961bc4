"""What the rows of an input column have in common, collected in one pass over chunks."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from graphtheta.data.schema import computable, is_list, is_number, is_text, plain_type

__all__ = ["MAX_CLASSES", "Facts", "are_integers"]

MAX_CLASSES = 1 << 16  # more distinct texts than this are no classes


@dataclass(slots=True)
class Facts:
    """Facts about a column of numbers, texts or lists of them.

    Attributes:
        type: Type of the column, without a dictionary.
        classes: Names of its numbers, if they were texts before.
        rows: Number of rows.
        missing: Number of nulls.
        lengths: Lengths of its lists.
        low: Smallest finite number. If None, there is none.
        high: Largest finite number.
        low_row: Row of the smallest number.
        high_row: Row of the largest number.
        whole: Whether all finite numbers are whole.
        unknown: Whether lists contain nulls or NaN.
        integers: Whether each text is an integer as a program writes it: `7`, but not `07` or `+7`.
        texts: Distinct texts; None if there are more than `MAX_CLASSES`.
        numbers: Distinct integers, if they are collected; None if not, or if there are too many.
    """

    type: pa.DataType
    classes: tuple[str, ...] = ()
    rows: int = 0
    missing: int = 0
    lengths: set[int] = field(default_factory=set)
    low: float | None = None
    high: float | None = None
    low_row: int = 0
    high_row: int = 0
    whole: bool = True
    unknown: bool = False
    integers: bool = True
    texts: pa.Array | None = field(default_factory=lambda: pa.array([], pa.string()))
    numbers: pa.Array | None = None

    @property
    def value_type(self) -> pa.DataType:
        """Type of a value: of the lists' values, if the column has lists."""
        return plain_type(self.type.value_type) if is_list(self.type) else self.type

    @property
    def magnitude(self) -> float:
        """Largest finite number without its sign; 0 if there is none."""
        return max(abs(self.low or 0), abs(self.high or 0))

    def update(self, array: pa.Array) -> None:
        """Take the next rows into account."""
        array = computable(array)
        first_row, rows = self.rows, None
        self.rows += len(array)
        self.missing += array.null_count
        if is_list(array.type):
            self.lengths.update(pc.unique(pc.list_value_length(array).drop_null()).to_pylist())
            rows, array = pc.list_parent_indices(array), array.flatten()
            self.unknown |= bool(array.null_count)
        if is_text(array.type):
            self._add_texts(array)
        elif pa.types.is_boolean(array.type) or is_number(array.type):
            self._add_numbers(array, rows, first_row)

    def widen(self, low: float, high: float) -> None:
        """Take a range of numbers into account."""
        self.low = low if self.low is None else min(low, self.low)
        self.high = high if self.high is None else max(high, self.high)

    def _add_texts(self, array: pa.Array) -> None:
        if self.texts is None:
            self.integers = self.integers and are_integers(array)
            return
        values = pc.unique(array).drop_null().cast(pa.string())
        self.integers = self.integers and are_integers(values)
        self.texts = pc.unique(pa.concat_arrays([self.texts, values]))
        if len(self.texts) > MAX_CLASSES:
            self.texts = None

    def _add_numbers(self, array: pa.Array, rows: pa.Array | None, first_row: int) -> None:
        finite = array
        if pa.types.is_floating(array.type):
            self.unknown |= bool(pc.any(pc.is_nan(array)).as_py())
            finite = pc.if_else(pc.is_finite(array), array, None)
        if not pa.types.is_integer(array.type) and not pa.types.is_boolean(array.type):
            whole = pc.all(pc.equal(finite, pc.floor(finite))).as_py()
            self.whole = self.whole and whole is not False
        if self.numbers is not None and pa.types.is_integer(array.type):
            values = pc.unique(array).drop_null().cast(self.numbers.type)
            self.numbers = pc.unique(pa.concat_arrays([self.numbers, values]))
            if len(self.numbers) > MAX_CLASSES:
                self.numbers = None
        found = pc.min_max(finite)
        if not found["min"].is_valid:
            return

        def row(value: pa.Scalar) -> int:
            position = int(pc.index(array, value).as_py())
            return first_row + (position if rows is None else int(rows[position].as_py()))

        low, high = found["min"].as_py(), found["max"].as_py()
        if pa.types.is_decimal(array.type):
            low, high = float(low), float(high)
        if self.low is None or low < self.low:
            self.low, self.low_row = low, row(found["min"])
        if self.high is None or high > self.high:
            self.high, self.high_row = high, row(found["max"])


def are_integers(texts: pa.Array) -> bool:
    """Return whether each text is an integer that fits int64, as a program writes it."""
    texts = pc.utf8_trim_whitespace(texts.drop_null())
    try:
        texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    padded = pc.and_(pc.starts_with(texts, "0"), pc.greater(pc.binary_length(texts), 1))
    return not pc.any(pc.or_(padded, pc.starts_with(texts, "-0"))).as_py()
