"""First lines of a text table: its delimiter, and whether a header line names its columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from graphtheta.data.ends import names_ends

__all__ = ["Header", "read_header"]

_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class Header:
    """Beginning of a text table.

    Attributes:
        delimiter: Character between fields.
        skip: Number of comment lines at the beginning.
        names: Names of the columns. If None, the first line after the comments names them.
        note: How the first line was read, if it could be read in another way.
    """

    delimiter: str
    skip: int
    names: list[str] | None
    note: str = ""


def read_header(text: str, unnamed: Sequence[str], *, named: bool) -> Header:
    """Return how to read a text table, from its first lines.

    A line is taken for the names of columns if it contains known names of endpoints (such as
    `source,target`), or words above numbers. Otherwise it is data.

    Args:
        text: Beginning of the file.
        unnamed: Names of the first columns, if the file does not name them. If empty, it must.
        named: Whether the user named a column of the file, so that it must have a header line.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    skip = next((i for i, line in enumerate(lines) if line and line[0] != "#"), len(lines))
    rows_text = lines[skip : skip + 2]
    delimiter = next((d for d in "\t,; " if rows_text and d in rows_text[0]), ",")
    rows = [[field.strip().strip('"') for field in line.split(delimiter)] for line in rows_text]
    if named or not unnamed or not rows or set(unnamed) <= set(rows[0]):
        return Header(delimiter, skip, None)
    first = rows[0]
    numbers = [bool(_NUMBER.fullmatch(field)) for field in first]
    below = rows[1] if len(rows) > 1 else []
    above_number = any(
        not number and _NUMBER.fullmatch(field)
        for number, field in zip(numbers, below, strict=False)
    )
    if not any(numbers) and (names_ends(first) or above_number):
        return Header(delimiter, skip, None)
    rest = range(len(unnamed), len(first))
    names = [*unnamed, *(f"column_{i}" for i in rest)][: len(first)]
    shown = delimiter.join(first[:2])
    note = "" if any(numbers) else f"the first line, {shown!r}, is read as data, not as a header"
    return Header(delimiter, skip, names, note)
