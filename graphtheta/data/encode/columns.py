"""Columns of features: the encoder of each input, and the type of the matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa

from graphtheta.data.encode.categorical import Hash, Indices, OneHot, category_kind
from graphtheta.data.encode.encoder import Encoder
from graphtheta.data.encode.fit import Fit, check_type
from graphtheta.data.encode.numeric import Number
from graphtheta.data.encode.recipe import EncodedColumn
from graphtheta.data.facts import Facts, is_wide, number_of_indices
from graphtheta.data.mapping import Column
from graphtheta.data.schema import is_list
from graphtheta.data.sparse import SparseType, is_pairs, is_sparse, pays

__all__ = ["encoded", "fits_of", "is_as_it_is", "type_of_text"]

_MANY = 1 << 20  # rows for which the size of a sparse column is compared with that of a dense one


def is_as_it_is(encoder: Encoder | None) -> bool:
    """Return whether numbers may become features as they are, by an encoder or by default."""
    return encoder is None or isinstance(encoder, Number)


def type_of_text(encoder: Encoder, kind: pa.DataType | None) -> pa.DataType | None:
    """Return the type as which a text file reads an input, or None for that of its first rows.

    Args:
        encoder: Fitted encoder of the input.
        kind: Type of the column of features.
    """
    if getattr(encoder, "kind", None) == "texts":
        return pa.string()
    return getattr(kind, "value_type", None) if isinstance(encoder, Number) else None


def fits_of(
    column: Column, facts: Mapping[str, Facts], where: str, *, text: bool
) -> dict[int, Fit]:
    """Return the fits of those inputs of a column whose encoders depend on the rows.

    Args:
        column: Column of features or codes.
        facts: Facts of the inputs, of which only the types are known yet.
        where: Name of the column in messages.
        text: Whether the input is text.

    Raises:
        GraphFormatError: If an encoder does not accept its input.
    """
    fits = {}
    for position, (name, encoder) in enumerate(zip(column.inputs, column.encoders, strict=True)):
        kind, title = facts[name].type, _title(column, name, where)
        if _is_list_of_numbers(kind) and (is_as_it_is(encoder) or isinstance(encoder, Indices)):
            continue
        fits[position] = Fit(name, encoder, kind, title, text=text)
    return fits


def encoded(
    column: Column, facts: Mapping[str, Facts], fits: Mapping[int, Fit], where: str
) -> Column:
    """Return a column of features or codes with fitted encoders, and its type.

    Args:
        column: The column. If it has fitted encoders already, only their types are checked.
        facts: Facts of the inputs.
        fits: Result of `fits_of`, updated with all rows.
        where: Name of the column in messages.

    Raises:
        GraphFormatError: If an encoder cannot be fitted, or does not accept its input.
    """
    found: list[EncodedColumn] = []
    for position, name in enumerate(column.inputs):
        title = _title(column, name, where)
        if column.encoded:
            given = column.encoded[position]
            if not pa.types.is_null(facts[name].type):  # all values may be missing in this table
                check_type(given.encoder, facts[name].type, title)
            found.append(given)
        elif position in fits:
            found += fits[position].fitted()
        else:
            found.append(_of_lists(name, column.encoders[position], facts[name], title))
    decided = replace(
        column,
        inputs=tuple(one.column for one in found),
        encoders=tuple(one.encoder for one in found),
        encoded=tuple(found),
    )
    if column.kind == "code":
        return replace(decided, type=pa.int32())
    if len(found) == 1 and is_sparse(facts[found[0].column].type):
        return replace(decided, type=facts[found[0].column].type)
    wide = [
        _needs_float64(facts[one.column], _title(column, one.column, where))
        for one in found
        if isinstance(one.encoder, Number)
    ]
    value = pa.float64() if any(wide) else pa.float32()
    width = sum(one.encoder.width for one in found)
    only_ones = all(isinstance(one.encoder, OneHot | Hash | Indices) for one in found)
    smaller = SparseType(width, None if only_ones else value)
    entries = sum(one.encoder.width if one.entries is None else one.entries for one in found)
    of_many = int(_MANY * entries)
    if any(one.entries is not None for one in found) and pays(_MANY, of_many, smaller):
        return replace(decided, type=smaller, entries=(_MANY, of_many))
    return replace(decided, type=pa.list_(value, width))


def _needs_float64(found: Facts, where: str) -> bool:
    """Return whether numbers that are kept as they are need float64; times do."""
    return pa.types.is_temporal(found.type) or is_wide(found, where)


def _title(column: Column, name: str, where: str) -> str:
    return where if len(column.inputs) == 1 else f"{where}, column {name}"


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    return is_sparse(kind) or (is_list(kind) and category_kind(kind) != "texts")


def _of_lists(column: str, encoder: Encoder | None, found: Facts, where: str) -> EncodedColumn:
    """Return the encoder of lists of numbers: as they are, or as sets of indices."""
    entries: float | None = found.entries / max(found.rows, 1)
    is_integer = pa.types.is_integer(found.value_type)
    is_set = encoder is None and len(found.lengths) > 1 and is_integer
    if is_sparse(found.type):
        encoder = Number(length=found.type.width)
    elif is_pairs(found.type):
        encoder = Number(length=number_of_indices(found, where))
    elif isinstance(encoder, Indices) or is_set:
        check_type(Indices(), found.type, where)
        encoder = Indices(count=number_of_indices(found, where))
    else:
        is_fixed = pa.types.is_fixed_size_list(found.type)
        length = found.type.list_size if is_fixed else next(iter(found.lengths), 0)
        encoder, entries = Number(length=length), None
    return EncodedColumn(column=column, encoder=encoder, dtype=str(found.type), entries=entries)
