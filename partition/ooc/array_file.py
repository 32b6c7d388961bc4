"""Arrays on disk between phases: Arrow IPC files of one record batch, memory-mapped when read.

Not NumPy's own format: before Python 3.12, reading its headers in several threads can fail
(`ast.literal_eval` keeps a depth for all threads together).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy, matrix_column

__all__ = ["read_arrays", "write_arrays"]


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays of one length, (R,) or (R, F), by name."""
    columns = {
        name: pa.array(array) if array.ndim == 1 else matrix_column(array)
        for name, array in arrays.items()
    }
    batch = pa.record_batch(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays by name, read-only; the mapping lasts as long as one of them."""
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    return {name: as_numpy(batch.column(name)) for name in batch.schema.names}
