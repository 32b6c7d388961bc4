"""Encoders of categories: texts, and integers, booleans or dates that are read as texts.

A category that no training row has is *unseen*. Lists of categories are sets.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from graphtheta.data.encode.encoder import Encoder
from graphtheta.data.encode.statistics import MAX_DISTINCT, Categories, as_texts
from graphtheta.data.encode.text_hash import hash_texts
from graphtheta.data.schema import is_list, is_text, plain_type, refuse
from graphtheta.data.sparse import MAX_WIDTH, SparseMatrix, sparse_column
from graphtheta.wording import counted, some

__all__ = ["Count", "Embedding", "Hash", "Indices", "OneHot", "category_kind"]

_MAX_COLUMNS = 1 << 16  # of one-hot without a limit, and of a hash
_MAX_VOCABULARY = 1 << 16


def category_kind(kind: pa.DataType) -> str:
    """Return what categories of a type are called: `texts`, `integers`, ...; empty if none."""
    kind = plain_type(kind)
    if is_list(kind):
        kind = plain_type(kind.value_type)
    for name, is_kind in (
        ("texts", is_text),
        ("integers", pa.types.is_integer),
        ("booleans", pa.types.is_boolean),
        ("dates", pa.types.is_date),
    ):
        if is_kind(kind):
            return name
    return ""


class _Categorical(Encoder):
    """What encoders of categories have in common.

    Attributes:
        kind: What the categories were called when the encoder was fitted.
        missing: Whether the last column marks rows without a value.
    """

    takes: ClassVar[str] = "texts, integers, booleans or dates, or lists of them"
    kind: str | None = None

    def accepts(self, kind: pa.DataType) -> bool:
        found = category_kind(kind)
        # Integers are the same texts in each table, but 7 and 007 are not the same category.
        return found != "" and self.kind in (None, found)

    @property
    def blank(self) -> pa.DataType:
        return pa.string()

    @property
    def taken(self) -> str:
        return self.takes if self.kind is None else f"{self.kind}, as when it was fitted,"

    def statistics(self) -> Categories:
        return Categories()


class OneHot(_Categorical):
    """A column of 0 and 1 for each category; for lists, several of a row may be 1.

    Unseen categories are 0 in all columns. A missing value, too, or has a column of its own if some
    training row has none.

    Attributes:
        limit: Number of the most frequent categories that have a column. If there are others in
            training rows, these and unseen ones share one more column. If None, all have one.
        categories: The categories, in order of their text.
        other: Whether there is a column for others.
        missing: Whether there is a column for missing values.
    """

    name: ClassVar[str] = "onehot"
    limit: int | None = Field(default=None, ge=1, le=_MAX_COLUMNS)
    categories: tuple[str, ...] = ()
    other: bool = False
    missing: bool = False

    def __init__(self, limit: int | None = None, **fitted: Any) -> None:
        super().__init__(**{"limit": limit, **fitted})

    @classmethod
    def of(cls, arguments: list[str]) -> Self:
        return cls(*_integers(arguments, 0, 1))

    def fit(self, found: Categories, kind: pa.DataType, where: str) -> Self:
        categories = _counted(found, where).most_frequent()
        kept = categories[: self.limit]
        if len(kept) > _MAX_COLUMNS:
            raise refuse(
                where,
                f"at most {_MAX_COLUMNS:,} categories",
                f"{len(kept):,}",
                "Use hash(1024), embedding(16), or onehot(100) for the most frequent ones.",
            )
        update = {
            "kind": category_kind(kind),
            "categories": tuple(sorted(kept)),
            "other": len(kept) < len(categories),
            "missing": found.missing > 0,
        }
        return self.model_copy(update=update)

    def features(self, column: str) -> tuple[str, ...]:
        names = [*self.categories, *["other"] * self.other, *["missing"] * self.missing]
        return tuple(f"{column}={name}" for name in names)

    @property
    def width(self) -> int:
        return len(self.categories) + self.other + self.missing

    def encode(
        self, array: pa.Array, value: pa.DataType, where: str, first_row: int
    ) -> SparseMatrix:
        texts = as_texts(array)
        codes = pc.index_in(texts, pa.array(self.categories, pa.string()))
        if self.other:
            others = pc.and_(texts.is_valid(), codes.is_null())
            codes = pc.if_else(others, pa.scalar(len(self.categories), pa.int32()), codes)
        return _members(array, codes, self.width, self.width - 1 if self.missing else None)

    def summary(self) -> str:
        count = len(self.categories)
        text = f"{counted(count, 'category', 'categories')}: {some(self.categories, count)}"
        return f"{text}{', and one for others' * self.other}"


class Hash(_Categorical):
    """Categories by a hash in one of `buckets` columns of 0 and 1, without any fitting.

    Two categories may share a column. Missing values are 0 in all columns.

    Attributes:
        buckets: Number of columns.
    """

    name: ClassVar[str] = "hash"
    buckets: int = Field(default=64, ge=1, le=_MAX_COLUMNS)

    def __init__(self, buckets: int = 64, **fitted: Any) -> None:
        super().__init__(**{"buckets": buckets, **fitted})

    @classmethod
    def of(cls, arguments: list[str]) -> Self:
        return cls(*_integers(arguments, 0, 1))

    def statistics(self) -> Categories:
        return Categories(limit=0)  # only counts rows

    def fit(self, found: Categories, kind: pa.DataType, where: str) -> Self:
        return self.model_copy(update={"kind": category_kind(kind)})

    def features(self, column: str) -> tuple[str, ...]:
        return tuple(f"{column}#{bucket}" for bucket in range(self.buckets))

    @property
    def width(self) -> int:
        return self.buckets

    def encode(
        self, array: pa.Array, value: pa.DataType, where: str, first_row: int
    ) -> SparseMatrix:
        found = as_texts(array).dictionary_encode()
        buckets = hash_texts(found.dictionary) % np.uint64(self.buckets)
        codes = pa.array(buckets.astype(np.int32)).take(found.indices)
        return _members(array, codes, self.width, None)

    def summary(self) -> str:
        return f"{counted(self.buckets, 'bucket')} of a hash"


class Count(_Categorical):
    """Logarithm of 1 + the number of training rows of the same category, then as in `Standard`.

    It tells common categories from rare ones, also where there are too many for a column each.
    Unseen categories, and those beyond the limit, have no rows. A missing value gets the mean; if
    some training row has none, a second column is 1 there, and 0 elsewhere.

    Attributes:
        limit: Number of the most frequent categories that are counted.
        vocabulary: The categories, the most frequent first.
        counts: Their numbers of training rows.
        mean: Mean of the logarithms over the training rows.
        scale: Standard deviation of the logarithms over the training rows.
        missing: Whether there is a column for missing values.
    """

    name: ClassVar[str] = "count"
    takes: ClassVar[str] = "texts, integers, booleans or dates"
    limit: int = Field(default=_MAX_VOCABULARY, ge=1, le=MAX_DISTINCT)
    vocabulary: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    mean: float = 0.0
    scale: float = 1.0
    missing: bool = False

    def __init__(self, limit: int = _MAX_VOCABULARY, **fitted: Any) -> None:
        super().__init__(**{"limit": limit, **fitted})

    @classmethod
    def of(cls, arguments: list[str]) -> Self:
        return cls(*_integers(arguments, 0, 1))

    def accepts(self, kind: pa.DataType) -> bool:
        return not is_list(kind) and super().accepts(kind)

    def fit(self, found: Categories, kind: pa.DataType, where: str) -> Self:
        vocabulary = _counted(found, where).most_frequent(self.limit)
        counts = found.counts(self.limit)
        rest = found.rows - found.missing - sum(counts)
        rows = np.array([*counts, rest], np.float64)
        logs, number = np.append(np.log1p(rows[:-1]), 0.0), max(rows.sum(), 1.0)
        mean = float((rows * logs).sum() / number)
        deviation = float(np.sqrt((rows * (logs - mean) ** 2).sum() / number))
        update = {
            "kind": category_kind(kind),
            "vocabulary": vocabulary,
            "counts": counts,
            "mean": mean,
            "scale": deviation or 1.0,
            "missing": found.missing > 0,
        }
        return self.model_copy(update=update)

    def features(self, column: str) -> tuple[str, ...]:
        return (f"{column}=count", *[f"{column}=missing"] * self.missing)

    def encode(
        self, array: pa.Array, value: pa.DataType, where: str, first_row: int
    ) -> NDArray[Any]:
        codes = pc.index_in(as_texts(array), pa.array(self.vocabulary, pa.string()))
        logs = np.append(np.log1p(np.array(self.counts, np.float64)), 0.0)
        of_rows = logs[codes.fill_null(len(self.counts)).to_numpy()]
        known = array.is_valid().to_numpy(zero_copy_only=False)
        encoded = np.where(known, (of_rows - self.mean) / self.scale, 0.0)
        return np.stack([encoded, ~known], axis=1) if self.missing else encoded[:, None]

    def summary(self) -> str:
        count = len(self.vocabulary)
        return f"log(1 + rows) of {counted(count, 'category', 'categories')}"


class Embedding(_Categorical):
    """Learned vector for each category: the store holds its number, and the model the vectors.

    Unseen, rare and missing categories share the number 0.

    Attributes:
        channels: Length of the vectors.
        limit: Number of the most frequent categories that have a vector of their own.
        vocabulary: The categories, the most frequent first, numbered from 1.
    """

    name: ClassVar[str] = "embedding"
    takes: ClassVar[str] = "texts, integers, booleans or dates"
    channels: int = Field(default=16, ge=1, le=1 << 16)
    limit: int = Field(default=_MAX_VOCABULARY, ge=1, le=MAX_DISTINCT)
    vocabulary: tuple[str, ...] = ()

    def __init__(self, channels: int = 16, limit: int = _MAX_VOCABULARY, **fitted: Any) -> None:
        super().__init__(**{"channels": channels, "limit": limit, **fitted})

    @classmethod
    def of(cls, arguments: list[str]) -> Self:
        return cls(*_integers(arguments, 0, 2))

    def accepts(self, kind: pa.DataType) -> bool:
        return not is_list(kind) and super().accepts(kind)

    def fit(self, found: Categories, kind: pa.DataType, where: str) -> Self:
        vocabulary = _counted(found, where).most_frequent(self.limit)
        return self.model_copy(update={"kind": category_kind(kind), "vocabulary": vocabulary})

    def features(self, column: str) -> tuple[str, ...]:
        return tuple(f"{column}~{channel}" for channel in range(self.channels))

    @property
    def width(self) -> int:
        return self.channels

    @property
    def num_codes(self) -> int:
        """Number of vectors: one for each category, and the one of number 0."""
        return len(self.vocabulary) + 1

    def codes(self, array: pa.Array) -> pa.Array:
        """Return the number of the category of each row: R int32 without nulls."""
        found = pc.index_in(as_texts(array), pa.array(self.vocabulary, pa.string()))
        return pc.add(found.fill_null(-1), pa.scalar(1, pa.int32()))

    def summary(self) -> str:
        count = len(self.vocabulary)
        return (
            f"learned vectors of {self.channels:,} for {counted(count, 'category', 'categories')}"
        )


class Indices(Encoder):
    """Lists of indices as columns of 0 and 1. An index that is too large is left out.

    Attributes:
        count: Number of columns: the largest index of all rows, plus one.
    """

    name: ClassVar[str] = "indices"
    takes: ClassVar[str] = "lists of integers from 0"
    count: int | None = Field(default=None, ge=0, le=MAX_WIDTH)

    def accepts(self, kind: pa.DataType) -> bool:
        return is_list(kind) and pa.types.is_integer(plain_type(kind.value_type))

    def features(self, column: str) -> tuple[str, ...]:
        return tuple(f"{column}[{index}]" for index in range(self.width))

    @property
    def width(self) -> int:
        return self.count or 0

    def encode(
        self, array: pa.Array, value: pa.DataType, where: str, first_row: int
    ) -> SparseMatrix:
        indices = array.flatten()
        known = pc.and_(pc.greater_equal(indices, 0), pc.less(indices, self.width))
        return _members(array, pc.if_else(known, indices, None), self.width, None)

    def summary(self) -> str:
        return f"set of {counted(self.width, 'index', 'indices')}"


def _members(array: pa.Array, codes: pa.Array, width: int, missing: int | None) -> SparseMatrix:
    """Return rows with 1 in the columns of their values.

    Args:
        array: The values, or lists of them.
        codes: Column of each value, or of each value of the lists one after the other. A null has
            no column.
        width: Number of columns.
        missing: Column of rows without a value. If None, their columns are all 0.
    """
    is_listed = is_list(array.type)
    rows = pc.list_parent_indices(array) if is_listed else pa.array(np.arange(len(array)))
    known = codes.is_valid()
    row, column = rows.filter(known).to_numpy(), codes.filter(known).to_numpy()
    if missing is not None and array.null_count:
        nulls = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
        row = np.concatenate([row, nulls])
        column = np.concatenate([column, np.full(len(nulls), missing)])
    return SparseMatrix.of(sparse_column(row, column, None, (len(array), width)))


def _counted(found: Categories, where: str) -> Categories:
    """Return counts, or raise a GraphFormatError if there are too many different values."""
    if found.too_many:
        raise refuse(
            where,
            f"at most {MAX_DISTINCT:,} different values in training rows",
            "more",
            "Use hash(1024), which counts none.",
        )
    if found.missing == found.rows > 0:
        raise refuse(
            where,
            "a value in some training rows",
            "only missing ones",
            "Leave the column out.",
        )
    return found


def _integers(arguments: list[str], least: int, most: int) -> list[int]:
    if not least <= len(arguments) <= most:
        raise ValueError(f"at most {counted(most, 'number')}")
    return [int(argument) for argument in arguments]
