"""Fit of the encoder of one input column, while the rows of its table are read once."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from graphtheta.data.encode.categorical import Hash, OneHot
from graphtheta.data.encode.choose import Texts, default_encoders, default_statistics
from graphtheta.data.encode.encoder import Encoder
from graphtheta.data.encode.recipe import EncodedColumn
from graphtheta.data.encode.statistics import Categories, Moments, Statistics
from graphtheta.data.schema import computable, is_list, refuse

__all__ = ["Fit", "check_type"]


class Fit:
    """Statistics of the training rows of a column, and the encoders that follow from them.

    Without a training row, those of all rows count.

    Args:
        column: Name of the column.
        encoder: Its encoder. If None, the default of its type.
        kind: Type of the column, without a dictionary.
        where: Name of the column in messages.
        text: Whether the column is from a text file.

    Raises:
        GraphFormatError: If the encoder does not accept such a column.
    """

    def __init__(
        self, column: str, encoder: Encoder | None, kind: pa.DataType, where: str, *, text: bool
    ) -> None:
        if encoder is not None and not pa.types.is_null(kind):
            check_type(encoder, kind, where)
        self._column, self._encoder, self._kind, self._where = column, encoder, kind, where
        self._text = text
        self._train, self._every = self._statistics(), self._statistics()
        self._rows = self._values = 0

    def _statistics(self) -> Statistics:
        if pa.types.is_null(self._kind):  # so far: other files of the table may have values
            return Categories(limit=0)
        if self._encoder is not None:
            return self._encoder.statistics()
        found = default_statistics(self._kind)
        if found is None:
            raise refuse(
                self._where,
                "numbers, texts, times or lists of these",
                self._kind,
                "Choose another column.",
            )
        return found

    def update(self, array: pa.Array, is_train: pa.Array | None) -> None:
        """Take further rows into account.

        Args:
            array: Values of the column.
            is_train: Which of the rows are training rows. If None, the table has no split.
        """
        array = computable(array)
        is_listed = is_list(array.type)
        self._rows += len(array)
        self._values += (
            pc.sum(pc.list_value_length(array)).as_py() or 0 if is_listed else len(array)
        )
        if not self._train.rows:
            self._every.update(array)
        if is_train is not None and pc.any(is_train).as_py():
            self._train.update(array.filter(is_train))

    def fitted(self) -> list[EncodedColumn]:
        """Return the column with each of its fitted encoders: one, or several by default.

        Raises:
            GraphFormatError: If an encoder cannot be fitted.
        """
        if pa.types.is_null(self._kind):
            raise refuse(self._where, "a value in some row", "none", "Leave the column out.")
        found = self._train if self._train.rows else self._every
        encoders = [self._encoder] if self._encoder is not None else self._defaults(found)
        entries = self._values / max(self._rows, 1)
        low, high = (found.low, found.high) if isinstance(found, Moments) else (None, None)
        return [
            EncodedColumn(
                column=self._column,
                encoder=encoder.fit(found, self._kind, self._where),
                dtype=str(self._kind),
                rows=found.rows,
                missing=found.missing,
                low=low,
                high=high,
                entries=entries if isinstance(encoder, OneHot | Hash) else None,
            )
            for encoder in encoders
        ]

    def _defaults(self, found: Statistics) -> list[Encoder]:
        if self._text and isinstance(found, Texts):
            found.refuse_odd(self._where)
        return default_encoders(found, self._kind)


def check_type(encoder: Encoder, kind: pa.DataType, where: str) -> None:
    """Raise a GraphFormatError if an encoder does not accept a column of a type."""
    if not encoder.accepts(kind):
        remedy = "Choose another encoding, or convert the column."
        raise refuse(where, f"{encoder.taken} for {encoder.name}", kind, remedy)
