"""Description of encoded columns, for display."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from graphtheta.data.encode.recipe import EncodedColumn
from graphtheta.wording import number_text

__all__ = ["COLUMN_HEAD", "column_rows", "encoding_text"]

_NAMES = {"float": "float32", "double": "float64"}  # of types that Arrow calls otherwise
COLUMN_HEAD = ("column", "type", "range", "missing", "encoding", "features")


def column_rows(columns: Sequence[EncodedColumn]) -> list[tuple[str, ...]]:
    """Return a row of text for each encoded column, with the columns of `COLUMN_HEAD`.

    Range and missing values are those of the rows that the encoder was fitted to.
    """
    return [
        (
            one.column,
            _NAMES.get(one.dtype, one.dtype),
            _range(one),
            f"{one.missing:,} of {one.rows:,}" if one.rows else "",
            encoding_text(one),
            f"{one.encoder.width:,}",
        )
        for one in columns
    ]


def encoding_text(column: EncodedColumn) -> str:
    """Return the encoder of a column with the values that it was fitted to."""
    return f"{column.encoder.name}: {column.encoder.summary()}"


def _range(column: EncodedColumn) -> str:
    if column.low is None or column.high is None:
        return ""
    unit = getattr(column.encoder, "unit", None)
    if unit is None:
        return f"{number_text(column.low)} to {number_text(column.high)}"
    kind = pa.timestamp(unit, getattr(column.encoder, "zone", None))
    low, high = (pa.scalar(int(tick), kind) for tick in (column.low, column.high))
    return f"{low.cast(pa.string()).as_py()} to {high.cast(pa.string()).as_py()}"
