"""Tables of text on standard output."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["show_rows"]


def show_rows(rows: Sequence[Sequence[str]], *, title: str = "", head: Sequence[str] = ()) -> None:
    """Print rows in aligned columns, without wrapping, so that paths can be copied.

    Columns of numbers are aligned to the right.

    Args:
        rows: Cells, as many in each row.
        title: Line above the table.
        head: Names of the columns, if any.
    """
    if title:
        print(title)
    lines = [head, *rows] if head else list(rows)
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(_is_number(cell) for cell in column[bool(head) :]) for column in columns]
    for line in lines:
        cells = [
            cell.rjust(width) if is_numeric else cell.ljust(width)
            for cell, width, is_numeric in zip(line, widths, numeric, strict=True)
        ]
        print(("  " * bool(title) + "  ".join(cells)).rstrip())


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"(-?[\d.,]+(e[-+]?\d+)?( \S+)?)?|-", cell) is not None
