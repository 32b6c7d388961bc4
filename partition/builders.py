"""Which rank builds which part, and how rows get there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.columns import column_numpy, contiguous
from graphtheta.partition.shuffle import shuffle

__all__ = ["PART", "move_to_builders", "own_parts", "rows_by_part"]

PART = "build:part"  # the column that says which part a row belongs to


def own_parts(num_parts: int, comm: Communicator) -> list[int]:
    """Return the parts that this rank builds, ascending."""
    return np.flatnonzero(_builder(np.arange(num_parts), num_parts, comm) == comm.rank).tolist()


def move_to_builders(rows: pa.Table, num_parts: int, comm: Communicator, *, stage: str) -> pa.Table:
    """Send rows to the ranks that build the parts in their column `PART`; collective.

    Returns:
        The rows that came here, as one chunk, in the order of `shuffle`.

    Communication:
        One all-to-all of the rows.
    """
    to = _builder(column_numpy(rows, PART), num_parts, comm)
    return contiguous(shuffle(rows, to, comm, stage=stage))


def rows_by_part(rows: pa.Table, parts: list[int]) -> dict[int, NDArray[np.int64]]:
    """Return the row numbers of each of the parts, in the order they have in the table.

    Args:
        rows: Rows of these parts only.
        parts: Consecutive parts, ascending.
    """
    part_of_row = column_numpy(rows, PART)
    order = np.argsort(part_of_row, kind="stable")
    stops = np.searchsorted(part_of_row[order], parts, side="right")
    return dict(zip(parts, np.split(order, stops[:-1]), strict=True)) if parts else {}


def _builder(
    part: NDArray[np.integer[Any]], num_parts: int, comm: Communicator
) -> NDArray[np.int64]:
    return part.astype(np.int64) * comm.size // num_parts
