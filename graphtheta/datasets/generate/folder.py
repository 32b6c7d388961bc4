"""Writing of generated folders of Parquet tables by all threads and ranks.

A folder contains `edges/`, possibly `nodes/`, and `generated.json` with the generator and its
arguments. Rank r writes the files c with c % size = r. The folder is written under a temporary name
and renamed when it is complete.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.launch import threads_per_rank
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError
from graphtheta.partition.ooc.shared_folder import shared_folder

__all__ = [
    "GeneratedTable",
    "WriteOptions",
    "parquet_options",
    "refuse_below",
    "refuse_unless",
    "write_folder",
]

_GROUP_ROWS = 1 << 20
_GROUP_BYTES = 64 << 20
_FILE_GROUPS = 16


@dataclass(frozen=True, slots=True)
class GeneratedTable:
    """Table that is generated in chunks of rows.

    Attributes:
        name: `nodes` or `edges`.
        num_rows: Number of rows.
        rows: Function that returns rows [start, stop), which several threads call.
        row_bytes: Approximate size of a row in memory.
        written: Options of `pyarrow.parquet.ParquetWriter`.
    """

    name: str
    num_rows: int
    rows: Callable[[int, int], pa.Table]
    row_bytes: int
    written: Mapping[str, Any] = field(default_factory=dict)


class WriteOptions(TypedDict, total=False):
    """Options that every generator passes to `write_folder`, which describes them."""

    comm: Communicator | None
    threads: int | None
    progress: Callable[[int, int], None] | None


def parquet_options(delta: Sequence[str], *, dictionary: Sequence[str] = ()) -> dict[str, Any]:
    """Return options of `pyarrow.parquet.ParquetWriter` for an uncompressed table.

    Args:
        delta: Columns of integers that are stored as packed differences.
        dictionary: Columns that are stored as indices of their distinct values.
    """
    return {
        "use_dictionary": list(dictionary) or False,
        "compression": "none",
        "column_encoding": dict.fromkeys(delta, "DELTA_BINARY_PACKED"),
    }


def refuse_unless(holds: bool, where: str, expected: str, got: object, remedy: str) -> None:
    """Raise a ConfigError about an argument unless a condition holds."""
    if not holds:
        raise ConfigError(f"{where}: expected {expected}, got {got}. {remedy}")


def refuse_below(generator: str, *arguments: tuple[str, int, int]) -> None:
    """Raise a ConfigError if the value of an argument, (name, value, least), is below the least."""
    for name, value, least in arguments:
        where = f"{generator}: {name}"
        refuse_unless(value >= least, where, f"{least} or more", value, "Raise it.")


def write_folder(
    out: Path | str,
    tables: Sequence[GeneratedTable],
    about: Mapping[str, Any],
    *,
    comm: Communicator | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a folder of tables; collective.

    Args:
        out: Folder to write, which does not exist or is empty.
        tables: Tables to write.
        about: Content of `generated.json`.
        comm: The ranks that write, which share the file system. If None, only this process.
        threads: Threads of this rank. If None, `threads_per_rank()`.
        progress: Function that is called from any thread when rows are written, with their number
            and with the number of all rows of this rank.

    Returns:
        The folder, whose content does not depend on threads and ranks.

    Raises:
        ConfigError: If `out` is not empty, or cannot be written.

    Communication:
        Those of `shared_folder`, and a barrier.
    """
    comm = comm or SingleCommunicator()
    path = Path(out)
    with shared_folder(path, comm, "a graph", ConfigError) as partial:
        if comm.rank == 0:
            for table in tables:
                (partial / table.name).mkdir()
            (partial / "generated.json").write_text(json.dumps(dict(about), indent=2) + "\n")
        comm.barrier(stage="generate: make the folders")
        jobs = [job for table in tables for job in _files(table, partial)]
        _write_files(jobs[comm.rank :: comm.size], threads or threads_per_rank(), progress)
    return path.absolute()


@dataclass(frozen=True, slots=True)
class _File:
    table: GeneratedTable
    path: Path
    start: int
    stop: int
    group_rows: int


def _files(table: GeneratedTable, folder: Path) -> list[_File]:
    # A power of two, so that the layout of a table does not depend on who writes it.
    fitting = max(1, _GROUP_BYTES // table.row_bytes)
    group_rows = min(_GROUP_ROWS, 1 << (fitting.bit_length() - 1))
    file_rows = group_rows * _FILE_GROUPS
    return [
        _File(
            table,
            folder / table.name / f"part-{part:05d}.parquet",
            start,
            min(start + file_rows, table.num_rows),
            group_rows,
        )
        for part, start in enumerate(range(0, max(table.num_rows, 1), file_rows))
    ]


def _write_files(
    jobs: Sequence[_File], threads: int, progress: Callable[[int, int], None] | None
) -> None:
    stop = threading.Event()
    total = sum(job.stop - job.start for job in jobs)

    def written(rows: int) -> None:
        if progress is not None:
            progress(rows, total)

    with ThreadPoolExecutor(max(1, min(threads, len(jobs)))) as pool:
        try:
            pending = [pool.submit(_write_file, job, stop, written) for job in jobs]
            for done in as_completed(pending):
                done.result()
        except BaseException:
            stop.set()
            raise


def _write_file(job: _File, stop: threading.Event, written: Callable[[int], None]) -> None:
    schema = job.table.rows(0, 0).schema
    with pa.parquet.ParquetWriter(job.path, schema, **job.table.written) as writer:
        for start in range(job.start, job.stop, job.group_rows):
            if stop.is_set():
                return
            end = min(start + job.group_rows, job.stop)
            writer.write_table(job.table.rows(start, end), row_group_size=end - start)
            written(end - start)
