"""What the rows of an input column have in common, collected in one pass over chunks."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from graphtheta.data.schema import computable, is_list, is_number, is_text, plain_type, refuse
from graphtheta.data.sparse import MAX_WIDTH, SparseType, is_pairs, is_sparse, pays
from graphtheta.wording import some

__all__ = [
    "FLOAT32_INTEGERS",
    "MAX_CLASSES",
    "Facts",
    "are_integers",
    "is_wide",
    "kept_type",
    "number_of_indices",
]

_log = logging.getLogger(__name__)

FLOAT32_INTEGERS = 1 << 24  # float32 holds all integers up to this one
_FLOAT64_INTEGERS = 1 << 53
_MAX_WIDTH = 1 << 16  # columns of a list of indices that is not stored sparse
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
MAX_CLASSES = 1 << 16  # more distinct texts than this are no classes


@dataclass(slots=True)
class Facts:
    """Facts about a column of numbers, texts or lists of them.

    Attributes:
        type: Type of the column, without a dictionary.
        classes: Names of its numbers, if they were texts before.
        rows: Number of rows.
        missing: Number of nulls.
        lengths: Lengths of its lists as keys, in the order in which they occur.
        low: Smallest finite number. If None, there is none.
        high: Largest finite number.
        low_row: Row of the smallest number.
        high_row: Row of the largest number.
        whole: Whether all finite numbers are whole.
        unknown: Whether lists contain nulls or NaN.
        integers: Whether each text is an integer as a program writes it: `7`, but not `07` or `+7`.
        texts: Distinct texts; None if there are more than `MAX_CLASSES`.
        numbers: Distinct integers, if they are collected; None if not, or if there are too many.
        entries: Number of values in lists, or of entries of a sparse column.
        largest: Largest value without its sign of lists of pairs, whose `low` and `high` are those
            of their indices.
    """

    type: pa.DataType
    classes: tuple[str, ...] = ()
    rows: int = 0
    missing: int = 0
    lengths: dict[int, None] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    low_row: int = 0
    high_row: int = 0
    whole: bool = True
    unknown: bool = False
    integers: bool = True
    texts: pa.Array | None = field(default_factory=lambda: pa.array([], pa.string()))
    numbers: pa.Array | None = None
    entries: int = 0
    largest: float = 0

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
        if is_sparse(array.type):
            array = array.storage
        if is_list(array.type):
            lengths = pc.unique(pc.list_value_length(array).drop_null()).to_pylist()
            self.lengths.update(dict.fromkeys(lengths))
            pairs = is_pairs(array.type)
            rows, array = pc.list_parent_indices(array), array.flatten()
            self.unknown |= bool(array.null_count)
            self.entries += len(array)
            if pairs:
                bounds = pc.min_max(array.field("value").cast(pa.float64(), safe=False))
                for bound in bounds.values():
                    self.largest = max(self.largest, abs(bound.as_py() or 0))
                array = array.field("index")
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


def number_of_indices(found: Facts, where: str) -> int:
    """Return the number of columns for lists of indices.

    Raises:
        GraphFormatError: If an index is negative, or too large.
    """
    low, high = found.low or 0, found.high or 0
    width = high + 1
    is_small = pays(found.rows, found.entries, SparseType(int(min(width, MAX_WIDTH))))
    limit = MAX_WIDTH if is_small else _MAX_WIDTH
    if low < 0 or high >= limit:
        raise refuse(
            where,
            f"lists of one length, or lists of indices from 0 to {limit - 1:,}",
            f"lists of lengths {some(sorted(found.lengths), len(found.lengths))} with values from "
            f"{low:,} to {high:,}",
            "Give every row the same length.",
        )
    return int(high) + 1


def is_wide(found: Facts, where: str) -> bool:
    """Return whether numbers need float64.

    Warn of numbers that lose digits.

    Raises:
        GraphFormatError: If the column does not contain numbers.
    """
    if is_sparse(found.type):
        return bool(found.type.dtype == pa.float64())
    kind = found.value_type
    if is_pairs(found.type):
        kind = kind.field("value").type
        if not (is_number(kind) or pa.types.is_boolean(kind)):
            raise refuse(where, "numbers as the values of pairs", kind, "Convert the column.")
        return bool(pa.types.is_float64(kind) or found.largest > FLOAT32_INTEGERS)
    is_decimal = pa.types.is_decimal(kind)
    # Text files have no integers beyond int64: Arrow reads them as float64.
    rounded = is_decimal or (found.whole and pa.types.is_floating(kind) and not is_list(found.type))
    if rounded and found.magnitude >= _FLOAT64_INTEGERS:
        _log.warning(
            "%s: numbers from %s to %s lose digits, because float64 holds integers up to %s "
            "exactly. Scale them.",
            *(where, f"{found.low:g}", f"{found.high:g}", f"{_FLOAT64_INTEGERS:,}"),
        )
    if is_decimal:
        return bool(kind.precision - min(kind.scale, 0) > 7)
    if not (
        pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    ):
        raise refuse(
            where,
            "numbers or lists of numbers",
            f"{kind}{_odd_text(found)}",
            "Correct the values, or encode the column as numbers.",
        )
    return (
        pa.types.is_float64(kind)
        or max(abs(found.low or 0), abs(found.high or 0)) > FLOAT32_INTEGERS
    )


def _odd_text(found: Facts) -> str:
    """Return a text of a column that is not a number, for messages; empty if none is known."""
    texts = [] if found.texts is None else found.texts.to_pylist()
    odd = [text for text in texts if not _NUMBER.fullmatch(text.strip())]
    return f" ({odd[0]!r})" if odd else ""


def kept_type(kind: pa.DataType, where: str) -> pa.DataType:
    """Return the type of a column that is kept as it is, given that of the input.

    Raises:
        GraphFormatError: If it has neither numbers, booleans, texts nor times.
    """
    kind = plain_type(kind)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return kind if kind == pa.float32() else pa.float64()
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind):
        return kind
    if is_text(kind):
        return pa.string()
    raise refuse(where, "numbers, booleans, texts or times to keep", kind, "Leave it out.")
