"""The one way rows move between ranks while a graph is partitioned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator

__all__ = ["shuffle"]


def shuffle(
    table: pa.Table, rank_of_row: NDArray[np.integer[Any]], comm: Communicator, *, stage: str
) -> pa.Table:
    """Send each row to a rank and return the rows that came here.

    Rows arrive ordered by the rank they came from and, from one rank, in the order they had there:
    so a reply that is sent back to where its question came from is in the order of the questions.

    Args:
        table: Rows to send; the same schema on every rank, whatever the number of rows.
        rank_of_row: Where each row goes.
        comm: The ranks.
        stage: What the job is doing.

    Shape:
        rank_of_row: (rows,) integers in [0, comm.size).

    Communication:
        One all-to-all of the rows as Arrow IPC streams; nothing when there is one rank.
    """
    if comm.size == 1:
        return table
    counts = np.bincount(rank_of_row, minlength=comm.size)
    if np.any(rank_of_row[:-1] > rank_of_row[1:]):
        table = table.take(pa.array(np.argsort(rank_of_row, kind="stable")))
    starts = np.cumsum(counts) - counts
    arrived = comm.all_to_all(
        [_pack(table.slice(start, count)) for start, count in zip(starts, counts, strict=True)],
        stage=stage,
    )
    return pa.concat_tables([_unpack(buffer) for buffer in arrived])


def _pack(table: pa.Table) -> NDArray[np.uint8]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return np.frombuffer(sink.getvalue(), np.uint8)


def _unpack(buffer: NDArray[np.uint8]) -> pa.Table:
    return pa.ipc.open_stream(pa.py_buffer(buffer)).read_all()
