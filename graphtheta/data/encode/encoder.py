"""Base of encoders: how one input column becomes columns of features."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from graphtheta.data.encode.statistics import Statistics
from graphtheta.data.sparse import SparseMatrix

__all__ = ["Encoder"]


class Encoder(BaseModel):
    """Encoding of one input column as `width` columns of features.

    An encoder has options, such as the number of buckets of a hash, and the values that it was
    fitted to, which the constructor does not need. A fitted encoder is part of the recipe in a
    store and in a run. To write one of your own, subclass this, define the methods below, and add
    the class to `ENCODERS` under its `name`.

    Attributes:
        name: Name in recipes, and in options such as `--features age:standard`.
        takes: What the input may be, for messages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    takes: ClassVar[str]

    @classmethod
    def of(cls, arguments: list[str]) -> Self:
        """Return the encoder of a text such as `hash(64)`.

        Args:
            arguments: The texts in the brackets.

        Raises:
            ValueError: If there are too many, or one is not valid.
        """
        if arguments:
            raise ValueError("no arguments")
        return cls()

    def accepts(self, kind: pa.DataType) -> bool:
        """Return whether the encoder can encode a column of a type."""
        raise NotImplementedError

    @property
    def blank(self) -> pa.DataType:
        """Type as which a column without any value is read."""
        return pa.float64()

    @property
    def taken(self) -> str:
        """What the input may be, for messages."""
        return self.takes

    def statistics(self) -> Statistics:
        """Return empty statistics, to be updated with the training rows."""
        raise NotImplementedError

    def fit(self, found: Any, kind: pa.DataType, where: str) -> Self:
        """Return the fitted encoder.

        Args:
            found: The statistics.
            kind: Type of the column.
            where: Name of the column in messages.

        Raises:
            GraphFormatError: If the encoder cannot be fitted to them.
        """
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Number of columns that the fitted encoder makes."""
        return len(self.features(""))

    def features(self, column: str) -> tuple[str, ...]:
        """Return the names of these columns, given the name of the input."""
        raise NotImplementedError

    def encode(
        self, array: pa.Array, value: pa.DataType, where: str, first_row: int
    ) -> NDArray[np.floating[Any]] | SparseMatrix:
        """Return the columns of some rows.

        Args:
            array: Values of the input.
            value: float32 or float64, the type of the features.
            where: Name of the column in messages.
            first_row: Number of the first row, for messages.

        Shape:
            Returns (R, width) values, as an array or as `SparseMatrix`.

        Raises:
            GraphFormatError: If a value cannot be encoded.
        """
        raise NotImplementedError

    def differs(self, other: Encoder) -> bool:
        """Return whether another fitted encoder encodes values that are not missing differently."""
        return self != other

    def summary(self) -> str:
        """Return a text of the fitted encoder, for display."""
        raise NotImplementedError
