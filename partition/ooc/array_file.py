"""Named arrays in a file: an Arrow IPC file of one record batch, memory-mapped when read.

NumPy's own format is not used: before Python 3.12, reading its headers in several threads can fail,
because `ast.literal_eval` counts the recursion depth of all threads together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy, matrix_column

__all__ = ["read_arrays", "write_arrays"]


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays of the same length, (R,) or (R, F), under their names."""
    columns = {
        name: pa.array(array) if array.ndim == 1 else matrix_column(array)
        for name, array in arrays.items()
    }
    batch = pa.record_batch(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays by name, read-only; the file stays mapped as long as one of them exists."""
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    return {name: as_numpy(batch.column(name)) for name in batch.schema.names}
