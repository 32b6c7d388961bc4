"""Printing: a table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["show_rows"]


def show_rows(rows: Sequence[Sequence[str]], *, title: str = "", head: Sequence[str] = ()) -> None:
    """Print rows of equal length in columns.

    Args:
        rows: Text.
        title: Stands above.
        head: Names of the columns; none if empty.
    """
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*head, title=title or None, title_justify="left", show_header=bool(head))
        for row in rows:
            table.add_row(*row)
        Console(markup=False, highlight=False).print(table)
        return
    lines = [head, *rows] if head else list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if title:
        print(title)
    for line in lines:
        print(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        )
