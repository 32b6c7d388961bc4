"""Default encoders of a column, by its type and its training rows."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from graphtheta.data.encode.categorical import Hash, OneHot, category_kind
from graphtheta.data.encode.encoder import Encoder
from graphtheta.data.encode.numeric import Number, Standard, is_numeric
from graphtheta.data.encode.statistics import Categories, Moments, Statistics, as_texts
from graphtheta.data.encode.times import Age, Cyclic, is_time
from graphtheta.data.schema import is_list, is_number, refuse

__all__ = ["NUMBER", "Texts", "default_encoders", "default_statistics"]

_MAX_ONE_HOT = 64
# A number in a text, for Arrow and for Python.
NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"


@dataclass(slots=True)
class Texts(Categories):
    """Counts of texts, and of those that are numbers.

    Attributes:
        numbers: Number of texts that are numbers.
        odd: A text that is none. If None, there is none.
    """

    numbers: int = 0
    odd: str | None = None

    def update(self, array: pa.Array) -> None:
        Categories.update(self, array)
        texts = as_texts(array).drop_null()
        is_number = pc.match_substring_regex(texts, NUMBER)
        self.numbers += pc.sum(is_number).as_py() or 0
        position = pc.index(is_number, False).as_py()
        if self.odd is None and position >= 0:
            self.odd = texts[position].as_py()

    def refuse_odd(self, where: str) -> None:
        """Raise a GraphFormatError if most texts are numbers, so that the others are mistakes."""
        if self.odd is not None and 2 * self.numbers > self.rows - self.missing:
            raise refuse(
                where,
                "numbers or lists of numbers",
                f"string ({self.odd!r})",
                "Correct the values, leave them empty, or choose an encoding of texts such as "
                "NAME:onehot.",
            )


def default_statistics(kind: pa.DataType) -> Statistics | None:
    """Return empty statistics by which the default is chosen; None if a type has no encoder.

    Lists of numbers have none: they are read as they are, or as sets of indices.
    """
    if category_kind(kind) == "texts":
        return Texts(limit=_MAX_ONE_HOT)
    return Moments() if not is_list(kind) and (is_numeric(kind) or is_time(kind)) else None


def default_encoders(found: Statistics, kind: pa.DataType) -> list[Encoder]:
    """Return the default encoders of a column of numbers, times or texts, not fitted yet.

    Args:
        found: Statistics of the training rows.
        kind: Type of the column.
    """
    if isinstance(found, Categories):
        return [Hash(64) if found.too_many else OneHot()]
    if is_time(kind):
        return [Age(), Cyclic()]
    assert isinstance(found, Moments)
    if pa.types.is_integer(kind):
        is_flag = found.low in (0, 1) and found.high in (0, 1)
        return [Number() if is_flag else Standard()]
    return [Number() if is_number(kind) or pa.types.is_boolean(kind) else Standard()]
